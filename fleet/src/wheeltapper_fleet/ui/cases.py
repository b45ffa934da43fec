"""Pages of cases: what needs a person, ranked by risk; what triage handled by itself; one case with all that is known.

Cost: a page of the list is one query in an index; a case reads its newest alerts, the newest lines of its log, a curve
of at most :data:`CURVE_POINTS` points for each device that measures its point, the newest recordings of its device, and
what :mod:`wheeltapper_fleet.alerts.similar` compares.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Request, Response

from wheeltapper_fleet.access.principal import Principal
from wheeltapper_fleet.alerts.schemas import CaseDetail, CaseView
from wheeltapper_fleet.alerts.similar import similar_cases
from wheeltapper_fleet.alerts.views import SHOWN, get_case, list_alerts, list_cases, list_shown
from wheeltapper_fleet.assets.history import point_history
from wheeltapper_fleet.captures.schemas import CaptureView
from wheeltapper_fleet.captures.views import list_captures
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.telemetry.history import history
from wheeltapper_fleet.ui.advice import next_step
from wheeltapper_fleet.ui.charts import Sample, with_reasons
from wheeltapper_fleet.ui.rendering import After, Asked, Page, Viewer, render, sign_in_form, viewer

__all__ = ["router"]

router = APIRouter(include_in_schema=False)
CASES_SHOWN: Final = 50
ALERTS_SHOWN: Final = 10
CURVE_POINTS: Final = 300
HISTORY_SHOWN: Final = 6
CAPTURES_READ: Final = 50
CAPTURES_SHOWN: Final = 5
_DAY: Final = 86_400.0
_BEFORE_SECONDS: Final = 2 * 3600.0
"""How much of the curve is shown before a case's first alert, at least."""
_HANDLE: Final = "alert.handle"
_Show: TypeAlias = Annotated[str, Query(pattern="^[a-z_]{0,16}$")]
_Text: TypeAlias = Annotated[str, Query(max_length=120)]
_Number: TypeAlias = Annotated[int, Path(ge=1, le=2**31 - 1)]


def _list(page: Page, show: str, site: str, within: str, after: str | None) -> dict[str, Any]:
    """A page of cases; what cannot be found is said on the page."""
    asked = {"show": show if show in SHOWN else "person", "site": site.strip(), "within": within.strip()}
    values: dict[str, Any] = {**asked, "after": after, "shows": SHOWN, "cases": [], "next": None, "problem": ""}
    try:
        found = list_shown(page.engine, **asked, limit=CASES_SHOWN, after=after)
        values |= {"cases": found.items, "next": found.next}
    except FleetError as error:
        values["problem"] = error.message
    live = {"view": "cases", **{name: text for name, text in asked.items() if text}}
    live |= {"limit": str(CASES_SHOWN)} | ({"after": after} if after else {})
    return values | {"live": "" if values["problem"] else urlencode(live)}


def _case(page: Page, number: int, principal: Principal) -> dict[str, Any]:
    """One case: why it is where it is, what its devices measured and said, what was done, what can be done."""
    case = get_case(page.engine, number)
    return {
        "case": case,
        "alerts": with_reasons(list_alerts(page.engine, ALERTS_SHOWN, case=number).items),
        "samples": _samples(page, case),
        "step": next_step(case),
        "similar": similar_cases(page.engine, number),
        "before": _before(page, case),
        "captures": _captures(page, case),
        "may": principal.may(_HANDLE),
        "live": urlencode({"view": "case", "case": number}),
    }


def _before(page: Page, case: CaseDetail) -> list[CaseView]:
    """The other cases of the same place, the newest first."""
    same: dict[str, Any] = {"point": case.point} if case.point is not None else {"device": case.device}
    found = list_cases(page.engine, 2 * HISTORY_SHOWN, newest=True, **same).items
    mine = [each for each in found if each.id != case.id and (case.point or each.pipeline == case.pipeline)]
    return mine[:HISTORY_SHOWN]


def _captures(page: Page, case: CaseDetail) -> list[CaptureView]:
    """The recordings of the case's place around it, the newest first."""
    until = (case.resolved_at or page.clock()) + _DAY
    return [
        each
        for each in list_captures(page.engine, case.device, CAPTURES_READ).items
        if each.state == "received"
        and each.pipeline == case.pipeline
        and case.first_at - _DAY <= (each.received_at or 0.0) <= until
    ][:CAPTURES_SHOWN]


def _samples(page: Page, case: CaseDetail) -> list[Sample]:
    """The scores of the case's place, from before its first alert until now, or until it was resolved."""
    until = case.resolved_at if case.resolved_at is not None else page.clock()
    until = max(until, case.last_at) + 1.0
    since = case.first_at - max(_BEFORE_SECONDS, min(_DAY, until - case.first_at) / 2)
    if case.point is not None:
        try:
            curves = point_history(page.engine, case.point, since, until, CURVE_POINTS).curves
            points = [each for curve in curves for each in curve.points]
            return [Sample(each.at, each.mean, each.max) for each in points if each.mean is not None]
        except FleetError:  # the point was removed meanwhile
            return []
    with reading(page.engine) as connection:
        found = history(connection, case.device, case.pipeline, since, until, CURVE_POINTS)
    return [Sample(each.at, each.mean, each.max) for each in found if each.mean is not None]


@router.get("/cases")
def show_cases(
    request: Request, page: Asked, show: _Show = "person", site: _Text = "", within: _Text = "", after: After = None
) -> Response:
    """Cases: those that need a person, the riskiest first, or others."""
    principal = viewer(page, request)
    if principal is None:
        return sign_in_form(page)
    return render("cases.html", principal, request, _list(page, show, site, within, after or None))


@router.get("/fragments/cases")
def show_cases_again(
    request: Request,
    page: Asked,
    principal: Viewer,
    show: _Show = "person",
    site: _Text = "",
    within: _Text = "",
    after: After = None,
) -> Response:
    """The list of cases, rendered anew."""
    return render("cases_body.html", principal, request, _list(page, show, site, within, after or None))


@router.get("/cases/{case}")
def show_case(case: _Number, request: Request, page: Asked) -> Response:
    """One case, and what can be done about it."""
    principal = viewer(page, request)
    return (
        sign_in_form(page)
        if principal is None
        else render("case.html", principal, request, _case(page, case, principal))
    )


@router.get("/fragments/case")
def show_case_again(
    request: Request, page: Asked, principal: Viewer, case: Annotated[int, Query(ge=1, le=2**31 - 1)]
) -> Response:
    """What is known of a case, rendered anew; its forms stay as they are."""
    return render("case_body.html", principal, request, _case(page, case, principal))

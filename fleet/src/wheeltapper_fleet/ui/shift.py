"""The start of a shift: which machines need a person and what to do about each, what was handled by itself, what is
under way, and what changed since the last visit.

The time of the last visit is kept in a cookie of the browser, one for each name that signs in there: it is nobody's
business but the reader's, and costs the database no write a page. A visit ends after :data:`PAUSE_SECONDS` without a
page.

Cost: some ten statements, each of which reads at most a few hundred rows in the order of an index, whatever the size of
the fleet.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response

from wheeltapper_fleet.access.principal import Principal
from wheeltapper_fleet.alerts.schemas import CaseView
from wheeltapper_fleet.alerts.views import cases_since, list_shown
from wheeltapper_fleet.campaigns.views import events_since, list_under_way
from wheeltapper_fleet.devices.connections import gone_since
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.registry.views import published_since
from wheeltapper_fleet.ui.advice import next_step
from wheeltapper_fleet.ui.rendering import Asked, Page, Viewer, render, sign_in_form, viewer

__all__ = ["router"]

router = APIRouter(include_in_schema=False)
CASES_READ: Final = 40
HANDLED_SHOWN: Final = 6
WAITING_SHOWN: Final = 6
UNDER_WAY_SHOWN: Final = 5
CHANGES_SHOWN: Final = 8
PAUSE_SECONDS: Final = 1800.0
_FIRST_SECONDS: Final = 86_400.0
"""How far back the first visit looks."""
_LONGEST_SECONDS: Final = 31 * 86_400.0
_COOKIE_SECONDS: Final = 366 * 86_400


@dataclass(frozen=True)
class Machine:
    """A machine (or a device's pipeline that is mapped to none) with its open cases, the riskiest first."""

    name: str
    asset: str | None
    cases: tuple[CaseView, ...]

    @property
    def first(self) -> CaseView:
        """The case that it is ranked by."""
        return self.cases[0]


def by_machine(cases: Sequence[CaseView]) -> list[Machine]:
    """The machines of ``cases``, in the order of the first case of each."""
    found: dict[str, list[CaseView]] = {}
    for case in cases:
        if case.kind == "release":
            name = f"{case.model} r{case.release}"
        else:
            name = case.machine or case.point or f"{case.device}/{case.pipeline}"
        found.setdefault(name, []).append(case)
    return [Machine(name, each[0].machine, tuple(each)) for name, each in found.items()]


def visit(kept: str | None, now: float) -> tuple[float, str]:
    """Since when changes are told (Unix seconds), and what the cookie keeps.

    Args:
        kept: what the cookie had: since when, and the last page's time.
        now: Unix seconds.
    """
    try:
        since, last = (float(each) for each in (kept or "").split("-"))
        if not (math.isfinite(since) and math.isfinite(last)) or not since <= last <= now:
            raise ValueError
    except ValueError:
        since = last = now - _FIRST_SECONDS
    if now - last > PAUSE_SECONDS:
        since = last
    since = max(since, now - _LONGEST_SECONDS)
    return since, f"{since:.0f}-{max(since, math.floor(now)):.0f}"


def _cookie(principal: Principal) -> str:
    return f"wheeltapper_visit_{hashlib.sha256(principal.name.encode()).hexdigest()[:12]}"


def _people(page: Page, principal: Principal) -> dict[str, Any]:
    found = list_shown(page.engine, "person", limit=CASES_READ)
    return {
        "machines": [(each, next_step(each.first)) for each in by_machine(found.items)],
        "more": found.next is not None,
        "waiting": list_shown(page.engine, "waiting", limit=WAITING_SHOWN).items,
        "may": principal.may("alert.handle"),
    }


def _handled(page: Page) -> dict[str, Any]:
    return {"handled": list_shown(page.engine, "handled", limit=HANDLED_SHOWN).items}


def _under_way(page: Page) -> dict[str, Any]:
    return {"under_way": list_under_way(page.engine, UNDER_WAY_SHOWN), "totals": page.totals(), "ending": page.ending()}


def _changes(page: Page, since: float) -> dict[str, Any]:
    return {
        "since": since,
        "opened": cases_since(page.engine, since),
        "releases": published_since(page.engine, since, CHANGES_SHOWN),
        "events": events_since(page.engine, since, CHANGES_SHOWN),
        "gone": gone_since(page.engine, since),
        "shown": CHANGES_SHOWN,
    }


@router.get("/")
def show_shift(request: Request, page: Asked) -> Response:
    """The start of a shift, or the form to sign in."""
    principal = viewer(page, request)
    if principal is None:
        return sign_in_form(page)
    name = _cookie(principal)
    since, kept = visit(request.cookies.get(name), page.clock())
    live = [("view", "totals"), ("view", "campaigns"), ("view", "cases"), ("show", "person"), ("limit", CASES_READ)]
    values = _people(page, principal) | _handled(page) | _under_way(page) | _changes(page, since)
    answer = render("shift.html", principal, request, values | {"live": urlencode(live)})
    options: dict[str, Any] = {"httponly": True, "samesite": "strict", "secure": page.secure_cookie}
    answer.set_cookie(name, kept, max_age=_COOKIE_SECONDS, **options)
    return answer


@router.get("/fragments/shift-{part}")
def show_part_again(part: str, request: Request, page: Asked, principal: Viewer) -> Response:
    """A section of the page, rendered anew."""
    match part:
        case "people":
            return render("shift_people.html", principal, request, _people(page, principal))
        case "handled":
            return render("shift_handled.html", principal, request, _handled(page))
        case "under-way":
            return render("shift_under_way.html", principal, request, _under_way(page))
    raise FleetError("api.not_found", "there is no such section", 404)

"""Pages of machines: the list, and one machine with its points: zone, learned band, trends, remaining life, cases.

Cost: a page of the list is six statements. A machine shows :data:`POINTS_SHOWN` points: each is one history of
:data:`CURVE_POINTS` points at most; cases, releases and recordings are read once for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
import numpy as np
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import RedirectResponse

from wheeltapper_fleet.access.principal import Principal
from wheeltapper_fleet.alerts.schemas import CaseView
from wheeltapper_fleet.alerts.views import list_cases, open_by_machine
from wheeltapper_fleet.assets.history import point_history
from wheeltapper_fleet.assets.machines import MachineState, PointState, SourceState, get_machine, list_machines
from wheeltapper_fleet.assets.views import get_asset
from wheeltapper_fleet.captures.schemas import CaptureView
from wheeltapper_fleet.captures.views import list_captures
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.registry.views import manifests_of
from wheeltapper_fleet.telemetry.feature_curves import Condition, feature_curves
from wheeltapper_fleet.ui.rendering import After, Asked, Page, render, sign_in_form, viewer
from wheeltapper_fleet.ui.trend import gauge, small, trend
from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.manifest.manifest import RemainingLife
from wheeltapper_protocols.signal.iso20816 import LIMITS_MM_S

__all__ = ["router"]

router = APIRouter(include_in_schema=False)
MACHINES_SHOWN: Final = 50
POINTS_SHOWN: Final = 12
CURVE_POINTS: Final = 300
CASES_READ: Final = 60
CASES_OF_A_POINT: Final = 5
POINTS_LISTED: Final = 200
FEATURES_SHOWN: Final = 24
REPORTS_READ: Final = 150
_DEVICES_READ: Final = 6
_CAPTURES_SHOWN: Final = 6
_PERIODS: Final = {1: "day", 7: "week", 31: "month", 366: "year"}
_Text: TypeAlias = Annotated[str, Query(max_length=120)]
_Number: TypeAlias = Annotated[str, Query(max_length=24)]
_Days: TypeAlias = Annotated[Literal["1", "7", "31", "366"], Query()]
_Asset: TypeAlias = Annotated[str, Path(max_length=63)]


@router.get("/machines")
def show_machines(request: Request, page: Asked, within: _Text = "", after: After = None) -> Response:
    """Machines by id, with the worst of what their points say now."""
    principal = viewer(page, request)
    if principal is None:
        return sign_in_form(page)
    within = within.strip()
    values: dict[str, Any] = {"within": within, "after": after, "rows": [], "next": None, "problem": ""}
    try:
        found = list_machines(page.engine, page.clock(), MACHINES_SHOWN, after or None, within or None)
        values |= {"rows": found.items, "next": found.next}
    except FleetError as error:
        values["problem"] = error.message
    with reading(page.engine) as connection:
        values["cases"] = open_by_machine(connection, [each.asset.id for each in values["rows"]])
    return render("machines.html", principal, request, values)


@router.get("/machines/{machine}")
def show_machine(machine: _Asset, request: Request, page: Asked, days: _Days = "7", after: After = None) -> Response:
    """One machine. A component or a point leads to the machine that it belongs to."""
    principal = viewer(page, request)
    if principal is None:
        return sign_in_form(page)
    asset = get_asset(page.engine, machine)
    if asset.kind in ("component", "point") and asset.machine is not None:
        return RedirectResponse(f"/machines/{asset.machine}#{asset.id}", status_code=303)
    return render("machine.html", principal, request, _machine(page, machine, int(days), after or None, principal))


@router.get("/machines/{machine}/features")
def show_features(
    machine: _Asset,
    request: Request,
    page: Asked,
    point: _Text = "",
    days: _Days = "7",
    condition: _Text = "",
    low: _Number = "",
    high: _Number = "",
) -> Response:
    """The features of a point over time, at all speeds and loads or in a range of one."""
    principal = viewer(page, request)
    if principal is None:
        return sign_in_form(page)
    state = get_machine(page.engine, machine, page.clock(), POINTS_LISTED)
    measured = [each for each in state.points if each.sources] or list(state.points)
    shown = next((each for each in state.points if each.asset.id == point), None) or next(iter(measured), None)
    values: dict[str, Any] = {"machine": state.asset, "points": state.points, "point": shown, "found": None}
    values |= {"days": int(days), "periods": _PERIODS, "condition": condition, "low": low, "high": high, "curves": []}
    source = next(iter(shown.sources), None) if shown is not None else None
    if source is not None:
        now = page.clock()
        begin = now - int(days) * 86_400.0
        wanted = Condition(condition, _number(low, -math.inf), _number(high, math.inf)) if condition else None
        with reading(page.engine) as connection:
            found = feature_curves(connection, source.device, source.pipeline, begin, now, REPORTS_READ, wanted)
            everything = found if wanted is None else None
            if everything is None:  # the names to choose from do not depend on the choice
                everything = feature_curves(connection, source.device, source.pipeline, begin, now, 1)
        names = sorted(each.name for each in everything.curves)
        conditions = [name for name in names if name.endswith(".value")] or names
        if condition and condition not in conditions:
            conditions.append(condition)
        drawn = [(each, small(each, begin, now)) for each in found.curves[:FEATURES_SHOWN]]
        values |= {"found": found, "curves": drawn, "conditions": conditions, "source": source}
    return render("features.html", principal, request, values)


def _number(text: str, otherwise: float) -> float:
    """The number that a field of a form holds; ``otherwise`` for an empty one, or for what is no number."""
    try:
        value = float(text)
    except ValueError:
        return otherwise
    return value if math.isfinite(value) else otherwise


def _machine(page: Page, machine: str, days: int, after: str | None, principal: Principal) -> dict[str, Any]:
    now = page.clock()
    state = get_machine(page.engine, machine, now, POINTS_SHOWN, after)
    cases = list_cases(page.engine, CASES_READ, newest=True, machine=machine).items
    sources = {each for point in state.points for each in point.sources}
    with reading(page.engine) as connection:
        releases = {(each.model, each.release) for each in sources if each.model and each.release is not None}
        manifests = manifests_of(connection, sorted(releases)[: 2 * POINTS_SHOWN])
    return {
        "machine": state.asset,
        "points": [_point(page, point, cases, manifests, now, days) for point in state.points],
        "open": [each for each in cases if each.state != "resolved"],
        "captures": _captures(page, state),
        "days": days,
        "periods": _PERIODS,
        "next": state.next,
        "may": principal.may("device.operate"),
    }


def _captures(page: Page, state: MachineState) -> list[CaptureView]:
    """The newest recordings of what measures the machine."""
    measured = {(source.device, source.pipeline) for point in state.points for source in point.sources}
    found: list[CaptureView] = []
    for device in sorted({device for device, _ in measured})[:_DEVICES_READ]:
        newest = list_captures(page.engine, device, 2 * _CAPTURES_SHOWN).items
        found += [each for each in newest if each.state == "received" and (device, each.pipeline) in measured]
    found.sort(key=lambda each: each.received_at or 0.0, reverse=True)
    return found[: 2 * _CAPTURES_SHOWN]


def _point(
    page: Page,
    point: PointState,
    cases: Collection[CaseView],
    manifests: dict[tuple[str, int], dict[str, Any]],
    now: float,
    days: int,
) -> dict[str, Any]:
    """One point: what it says now against what is known of it, and how it came to that."""
    own = [each for each in cases if each.point == point.asset.id]
    newest = max((each for each in point.sources if each.at is not None), key=lambda each: each.at or 0.0, default=None)
    manifest = {} if newest is None else manifests.get((newest.model or "", newest.release or 0), {})
    critical = _critical_level(manifest)
    begin = now - days * 86_400.0
    curves = point_history(page.engine, point.asset.id, begin, now + 1.0, CURVE_POINTS).curves
    points = [each for curve in curves for each in curve.points]
    drawn = trend(points, [each.first_at for each in own], critical)
    iso = point.effective.iso20816
    return {
        "asset": point.asset,
        "sources": point.sources,
        "newest": newest,
        "critical": critical,
        "gauge": gauge(newest.score if newest is not None and newest.present else None, critical),
        "trend": drawn,
        "iso": iso,
        "limits": None if iso is None else LIMITS_MM_S[iso.group, iso.foundation],
        "life": None if newest is None else _life(newest, manifest),
        "cases": own[:CASES_OF_A_POINT],
    }


def _critical_level(manifest: dict[str, Any]) -> float:
    """The score at which a release says critical; the usual one where its manifest cannot be read."""
    level = (manifest.get("decision") or {}).get("critical_level")
    return float(level) if isinstance(level, int | float) and math.isfinite(level) else DecisionSpec().critical_level


def _life(newest: SourceState, manifest: dict[str, Any]) -> dict[str, Any] | None:
    """The life that remains, with its interval where the release has one; None where it predicts none."""
    if newest.value is None or "remaining_life" not in manifest:
        return None
    try:
        section = msgspec.convert(manifest["remaining_life"], RemainingLife)
    except (msgspec.ValidationError, ValueError):
        return None
    found: dict[str, Any] = {"value": newest.value, "unit": section.unit, "low": None, "high": None, "coverage": None}
    if section.interval is not None:
        low, high = section.interval.around(np.array([newest.value]))
        found |= {"low": float(low[0]), "high": float(high[0]), "coverage": section.interval.coverage}
    return found

"""Reads alerts, cases and silences for the API and the page, a page at a time, by an index."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, Select, func, select, text

from wheeltapper_fleet.alerts import case_store
from wheeltapper_fleet.alerts.schemas import AlertView, CaseDetail, CaseLogEntry, CaseView, SilenceView
from wheeltapper_fleet.alerts.tables import alerts, case_log, cases, silences
from wheeltapper_fleet.assets.store import find_assets
from wheeltapper_fleet.assets.tables import assets
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.devices.scope import in_scope, within_scope
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_protocols.wire.messages import NO_SCORE

__all__ = [
    "SHOWN",
    "Opened",
    "case_version",
    "cases_since",
    "check_case",
    "count_waiting",
    "get_alert",
    "get_case",
    "list_alerts",
    "list_case_log",
    "list_cases",
    "list_shown",
    "list_silences",
    "open_by_machine",
]

_SHOWN: Final = 100
_OPEN: Final = text("state <> 'resolved'")
SHOWN: Final[Mapping[str, Mapping[str, Any]]] = {
    "person": {"attention": "person"},
    "waiting": {"attention": "waiting"},
    "handled": {"attention": "nobody", "newest": True},
    "open": {"state": "open"},
    "acknowledged": {"state": "acknowledged"},
    "in_work": {"state": "in_work"},
    "resolved": {"state": "resolved", "newest": True},
}
"""What screens show of the cases, by name: arguments of :func:`list_cases`."""
_COUNTED: Final = 1000


def list_alerts(
    engine: Engine,
    limit: int = DEFAULT_LIMIT,
    after: str | None = None,
    *,
    case: int | None = None,
    scope: str = "",
    now: float = 0.0,
    **filters: Any,
) -> Page[AlertView]:
    """A page of the alerts, newest first.

    Args:
        engine: the fleet's database.
        limit, after: the page.
        case: only those of a case.
        scope, now: only those of devices that the query ``scope`` means at ``now`` (Unix seconds); empty: of all.
        filters: columns with the value that they must have (``device``, ``pipeline``, ``model``, ``severity``,
            ``point``, ``raised``); None: any.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    query = _filtered(select(alerts), alerts, {**filters, "case_id": case})
    with reading(engine) as connection:
        mine = in_scope(scope, alerts.c.device, now)
        key = (alerts.c.id,)
        rows, following = page_of(connection, query, key, limit=limit, after=after, descending=True, within=mine)
    return Page([_alert(row) for row in rows], following)


def get_alert(connection: Connection, number: int, scope: str, now: float) -> AlertView:
    """One alert; of a device that the query ``scope`` means at ``now`` (Unix seconds), empty: of any.

    Raises:
        FleetError: ``alert.not_found``.
    """
    row = connection.execute(select(alerts).where(alerts.c.id == number)).first()
    if row is None or not within_scope(connection, [row.device], scope, now):
        raise FleetError("alert.not_found", f"there is no alert {number}{' of your devices' if scope else ''}", 404)
    return _alert(row)


def list_cases(
    engine: Engine,
    limit: int = DEFAULT_LIMIT,
    after: str | None = None,
    *,
    newest: bool = False,
    within: str | None = None,
    scope: str = "",
    now: float = 0.0,
    **filters: Any,
) -> Page[CaseView]:
    """A page of cases: those that are not resolved, the riskiest first; or all of them, newest first.

    Args:
        engine: the fleet's database.
        limit, after: the page.
        newest: all cases, newest first.
        within: only those of an asset and what belongs to it.
        scope, now: only those of devices that the query ``scope`` means at ``now`` (Unix seconds); empty: of all.
        filters: columns with the value that they must have (``state``, ``attention``, ``severity``, ``site``,
            ``machine``, ``point``, ``device``, ``model``, ``assignee``, ``parent``, ``kind``); None: any.

    Raises:
        FleetError: ``cursor.invalid``, ``asset.not_found``.
    """
    query = _filtered(select(cases), cases, filters)
    key: tuple[Any, ...] = (cases.c.id,)
    if not newest:
        query, key = query.where(_OPEN), (cases.c.risk, cases.c.id)
    with reading(engine) as connection:
        if within is not None:
            row = find_assets(connection, [within]).get(within)
            if row is None:
                raise FleetError("asset.not_found", f"there is no asset {within[:63]!r}", 404)
            column = assets.c.id if row["kind"] == "point" else assets.c[row["kind"]]
            points = select(assets.c.id).where(column == within, assets.c.kind == "point")
            query = query.where(cases.c.point.in_(points))
        mine = in_scope(scope, cases.c.device, now)
        rows, following = page_of(connection, query, key, limit=limit, after=after, descending=True, within=mine)
    return Page([_case(row) for row in rows], following)


def list_shown(
    engine: Engine,
    show: str = "person",
    site: str = "",
    within: str = "",
    limit: int = DEFAULT_LIMIT,
    after: str | None = None,
) -> Page[CaseView]:
    """A page of what a screen shows of the cases.

    Args:
        engine: the fleet's database.
        show: one of :data:`SHOWN`.
        site: only of this site; empty: any.
        within: only those of an asset and what belongs to it; empty: any.
        limit, after: the page.

    Raises:
        FleetError: ``cursor.invalid``, ``asset.not_found``, ``case.show``.
    """
    if show not in SHOWN:
        raise FleetError("case.show", f"{show[:40]!r} shows nothing; there are {', '.join(SHOWN)}", 422)
    return list_cases(engine, limit, after, within=within or None, site=site or None, **SHOWN[show])


def count_waiting(connection: Connection) -> int:
    """How many cases need a person and were acknowledged by nobody yet, counted up to 1000 in an index."""
    waiting = select(cases.c.id).where(_OPEN, cases.c.attention == "person", cases.c.state == "open").limit(_COUNTED)
    return int(connection.execute(select(func.count()).select_from(waiting.subquery())).scalar_one())


@dataclass(frozen=True)
class Opened:
    """How many cases were opened, how many of them are resolved, and how many triage handled; each at most ``most``."""

    opened: int
    resolved: int
    nobody: int
    most: int = _COUNTED


def cases_since(engine: Engine, since: float) -> Opened:
    """The cases that were opened since ``since`` (Unix seconds), counted up to 1000 in an index."""
    newest = select(cases.c.state, cases.c.attention).where(cases.c.opened_at >= since)
    with reading(engine) as connection:
        rows = connection.execute(newest.order_by(cases.c.opened_at.desc()).limit(_COUNTED)).all()
    return Opened(
        len(rows),
        sum(row.state == "resolved" for row in rows),
        sum(row.attention == "nobody" for row in rows),
    )


def open_by_machine(connection: Connection, machines: Collection[str]) -> dict[str, tuple[int, float]]:
    """How many cases of each of ``machines`` are open, and the greatest risk among them; none: left out."""
    query = select(cases.c.machine, func.count(), func.max(cases.c.risk)).where(_OPEN, cases.c.machine.in_(machines))
    rows = connection.execute(query.group_by(cases.c.machine)).all() if machines else []
    return {row[0]: (int(row[1]), float(row[2])) for row in rows}


def case_version(connection: Connection, number: int) -> int | None:
    """The version of a case; None where there is none."""
    return connection.execute(select(cases.c.version).where(cases.c.id == number)).scalar_one_or_none()


def check_case(engine: Engine, number: int, scope: str, now: float) -> None:
    """Refuse a case of a device outside of ``scope`` (:mod:`wheeltapper_fleet.devices.scope`) as one that is not there.

    Raises:
        FleetError: ``case.not_found``.
    """
    if scope:
        with reading(engine) as connection:
            device = case_store.find_case(connection, number).device
            if device is None or not within_scope(connection, [device], scope, now):
                raise FleetError("case.not_found", f"there is no case {number} of your devices", 404)


def get_case(engine: Engine, number: int) -> CaseDetail:
    """One case.

    Raises:
        FleetError: ``case.not_found``.
    """
    with reading(engine) as connection:
        case = case_store.find_case(connection, number)
        log = select(case_log).where(case_log.c.case_id == number).order_by(case_log.c.id.desc()).limit(_SHOWN)
        entries = [_entry(row) for row in connection.execute(log)]
        others: list[int] = []
        if case.machine is not None:
            same = select(cases.c.id).where(cases.c.machine == case.machine, cases.c.id != number, _OPEN)
            others = list(connection.execute(same.order_by(cases.c.id.desc()).limit(_SHOWN)).scalars())
    values: dict[str, Any] = {name: getattr(case, name) for name in CaseView.model_fields}
    return CaseDetail(**{**values, "why": list(case.why)}, log=entries, same_machine=others)


def list_case_log(
    engine: Engine, number: int, limit: int = DEFAULT_LIMIT, after: str | None = None
) -> Page[CaseLogEntry]:
    """What happened to a case, newest first.

    Raises:
        FleetError: ``case.not_found``, ``cursor.invalid``.
    """
    query = select(case_log).where(case_log.c.case_id == number)
    with reading(engine) as connection:
        case_store.find_case(connection, number)
        rows, following = page_of(connection, query, (case_log.c.id,), limit=limit, after=after, descending=True)
    return Page([_entry(row) for row in rows], following)


def list_silences(
    engine: Engine, now: float, limit: int = DEFAULT_LIMIT, after: str | None = None, ended: bool = False
) -> Page[SilenceView]:
    """Silences that hold or will hold, newest first; with ``ended`` also those that held.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    query = select(silences)
    if not ended:
        query = query.where(silences.c.to_at > now)
    with reading(engine) as connection:
        rows, following = page_of(connection, query, (silences.c.id,), limit=limit, after=after, descending=True)
    return Page([SilenceView(**row._mapping, active=row.from_at <= now < row.to_at) for row in rows], following)


def _filtered(query: Select[Any], table: Any, filters: dict[str, Any]) -> Select[Any]:
    for name, value in filters.items():
        if value is not None:
            query = query.where(table.c[name] == value)
    return query


def _alert(row: Row[Any]) -> AlertView:
    return AlertView(
        **{name: row._mapping[name] for name in AlertView.model_fields if name not in ("reasons", "score")},
        score=None if row.label == NO_SCORE else row.score,
        reasons=[each for each in row.reasons or () if isinstance(each, dict)],
    )


def _case(row: Row[Any]) -> CaseView:
    values: dict[str, Any] = {name: row._mapping[name] for name in CaseView.model_fields}
    why = values["why"]
    return CaseView(**{**values, "why": [str(each) for each in why] if isinstance(why, list) else []})


def _entry(row: Row[Any]) -> CaseLogEntry:
    return CaseLogEntry(at=row.at, who=row.who, event=row.event, detail=row.detail)

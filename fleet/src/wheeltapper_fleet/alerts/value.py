"""What the alerts were worth: true faults, saves, false alarms, lead times; and how budgets are kept.

Counts are of cases' episodes that people resolved with a verdict (labels), by model and site. Costs follow the labels
of the time that is asked for, which people wrote one by one, not the alerts nor the fleet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Engine, Row, Subquery, case, delete, func, select, update

from wheeltapper_fleet.alerts.budget import Realised, Source, realise
from wheeltapper_fleet.alerts.schemas import BudgetRequest, BudgetView, LabelView, ValueView
from wheeltapper_fleet.alerts.statistics import median, share_interval
from wheeltapper_fleet.alerts.tables import alert_budgets, cases, exposure, labels
from wheeltapper_fleet.db.engine import insert_one, reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.devices.scope import in_scope
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.notify.occurrence import Occurrence, OccurrenceKind

__all__ = [
    "budget_turn",
    "check_budgets",
    "count_verdicts",
    "delete_budget",
    "false_alarm_rate",
    "list_budgets",
    "list_labels",
    "list_value",
    "set_budget",
]

_DAY: Final = 86_400.0
_LEADS: Final = 5000
"""True faults, the newest of a page of the ledger, whose lead times make up the medians."""
_SOURCES: Final = 3


def list_value(
    engine: Engine,
    since: float,
    until: float,
    limit: int = DEFAULT_LIMIT,
    after: str | None = None,
    *,
    model: str | None = None,
    site: str | None = None,
) -> Page[ValueView]:
    """The ledger by model and site, of cases that were resolved between two times (Unix seconds).

    Raises:
        FleetError: ``cursor.invalid``.
    """
    outcomes = _outcomes(since, until, model, site)
    sums = select(
        outcomes.c.model,
        outcomes.c.site,
        *(_count(outcomes.c.verdict == verdict).label(verdict) for verdict in ("true_fault", "false_alarm", "unclear")),
        _count(outcomes.c.failed_at.is_not(None)).label("failed"),
    ).group_by(outcomes.c.model, outcomes.c.site)
    grouped = sums.subquery()
    with reading(engine) as connection:
        key = (grouped.c.model, grouped.c.site)
        rows, following = page_of(connection, select(grouped), key, limit=limit, after=after)
        leads = _lead_times(connection, outcomes, {row.model for row in rows})
    return Page([_ledger(row, leads.get((row.model, row.site), [])) for row in rows], following)


def count_verdicts(connection: Connection, model: str, release: int, since: float, until: float) -> tuple[int, int]:
    """How many cases of a release were resolved between two times (Unix seconds) as true faults, and as false alarms.
    Costs the model's labels of that time."""
    outcomes = _outcomes(since, until, model)
    counts = [func.coalesce(_count(outcomes.c.verdict == verdict), 0) for verdict in ("true_fault", "false_alarm")]
    true, false = connection.execute(select(*counts).where(outcomes.c.release == release)).one()
    return int(true), int(false)


def list_labels(
    engine: Engine,
    limit: int = DEFAULT_LIMIT,
    after: str | None = None,
    *,
    device: str | None = None,
    model: str | None = None,
    scope: str = "",
    now: float = 0.0,
) -> Page[LabelView]:
    """Labels, newest first: what a device's pipeline measured, from when to when, and what it was; of devices that the
    query ``scope`` means at ``now`` (Unix seconds).

    Raises:
        FleetError: ``cursor.invalid``.
    """
    query = select(labels)
    if device is not None:
        query = query.where(labels.c.device == device)
    if model is not None:
        query = query.where(labels.c.model == model)
    with reading(engine) as connection:
        mine = in_scope(scope, labels.c.device, now)
        key = (labels.c.id,)
        rows, following = page_of(connection, query, key, limit=limit, after=after, descending=True, within=mine)
    names = LabelView.model_fields
    return Page([LabelView(**{name: row._mapping[name] for name in names}) for row in rows], following)


def set_budget(engine: Engine, asked: BudgetRequest, who: str, now: float) -> int:
    """State a budget; it replaces the one of the same model and site. Returns its number."""
    where = (alert_budgets.c.model == (asked.model or ""), alert_budgets.c.site == (asked.site or ""))
    row = {"model": asked.model or "", "site": asked.site or "", "per_100_machine_weeks": asked.per_100_machine_weeks}
    row |= {"days": asked.days, "set_at": now, "set_by": who, "exceeded_at": None}
    with engine.begin() as connection:
        connection.execute(delete(alert_budgets).where(*where))
        return insert_one(connection, alert_budgets, row)


def delete_budget(engine: Engine, number: int) -> None:
    """Remove a budget.

    Raises:
        FleetError: ``budget.not_found``.
    """
    with engine.begin() as connection:
        if connection.execute(delete(alert_budgets).where(alert_budgets.c.id == number)).rowcount != 1:
            raise FleetError("budget.not_found", f"there is no alert budget {number}", 404)


def list_budgets(engine: Engine, now: float, limit: int = DEFAULT_LIMIT, after: str | None = None) -> Page[BudgetView]:
    """Budgets by number, and how each is kept; three short queries for each.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    key = (alert_budgets.c.id,)
    with reading(engine) as connection:
        rows, following = page_of(connection, select(alert_budgets), key, limit=limit, after=after)
        return Page([_budget(row, _realised(connection, row, now)) for row in rows], following)


def false_alarm_rate(engine: Engine, days: int, now: float, model: str = "", site: str = "") -> Realised:
    """False alarms per 100 machine-weeks in the ``days`` before ``now`` (Unix seconds), of a model, a site, both or
    all, whether or not there is a budget."""
    with reading(engine) as connection:
        return _realised(connection, _Asked(model, site, days), now)


def check_budgets(connection: Connection, now: float) -> list[Occurrence]:
    """The budgets that are exceeded since the last check, to be told; in the caller's transaction."""
    told = []
    for row in connection.execute(select(alert_budgets).order_by(alert_budgets.c.id)).all():
        found = _realised(connection, row, now)
        exceeded = found.status == "exceeded"
        if exceeded == (row.exceeded_at is not None):
            continue
        changed = update(alert_budgets).where(alert_budgets.c.id == row.id)
        connection.execute(changed.values(exceeded_at=now if exceeded else None))
        if exceeded:
            of = " at ".join(part for part in (row.model or "all models", row.site) if part)
            told.append(
                Occurrence(
                    kind=OccurrenceKind.BUDGET_EXCEEDED,
                    subject=f"budget {row.id}",
                    title=f"too many false alarms of {of}: {found.said}",
                    at=now,
                    severity="warning",
                    site=row.site or None,
                    model=row.model or None,
                    data={"why": [found.said, *found.suggestions]},
                )
            )
    return told


def budget_turn(
    engine: Engine, announce: Callable[[Connection, Sequence[Occurrence]], None]
) -> Callable[[float], bool]:
    """The turn of the duty that checks all budgets and has it told which ones are exceeded now."""

    def turn(now: float) -> bool:
        with engine.begin() as connection:
            announce(connection, check_budgets(connection, now))
        return False

    return turn


def _outcomes(since: float, until: float, model: str | None = None, site: str | None = None) -> Subquery:
    """One row for each case's episode that was resolved with a verdict, however many pipelines it has labels of."""
    place = func.coalesce(labels.c.site, "").label("site")
    same = (labels.c.case_id, labels.c.episode, labels.c.model, place, labels.c.verdict)
    query = select(
        *same,
        labels.c.release,
        func.coalesce(labels.c.point, "").label("point"),
        func.min(labels.c.from_at).label("from_at"),
        func.max(labels.c.failed_at).label("failed_at"),
        func.max(labels.c.resolved_at).label("resolved_at"),
    ).where(labels.c.resolved_at >= since, labels.c.resolved_at < until)
    if model:
        query = query.where(labels.c.model == model)
    if site:
        query = query.where(labels.c.site == site)
    return query.group_by(*same, labels.c.release, labels.c.point).subquery()


def _count(condition: Any) -> Any:
    return func.sum(case((condition, 1), else_=0))


def _lead_times(connection: Connection, outcomes: Subquery, models: set[str]) -> dict[tuple[str, str], list[float]]:
    """From the first alert to the failure, or to the repair where it did not come to one, by model and site."""
    query = select(outcomes).where(outcomes.c.verdict == "true_fault", outcomes.c.model.in_(sorted(models)))
    found: dict[tuple[str, str], list[float]] = {}
    for row in connection.execute(query.order_by(outcomes.c.resolved_at.desc()).limit(_LEADS)):
        end = row.failed_at if row.failed_at is not None else row.resolved_at
        found.setdefault((row.model, row.site), []).append(max(0.0, end - row.from_at))
    return found


def _ledger(row: Row[Any], leads: Sequence[float]) -> ValueView:
    found = row.true_fault + row.false_alarm
    low, high = share_interval(row.true_fault, found)
    return ValueView(
        model=row.model,
        site=row.site or None,
        true_faults=row.true_fault,
        saves=row.true_fault - row.failed,
        failures=row.failed,
        false_alarms=row.false_alarm,
        unclear=row.unclear,
        precision=row.true_fault / found if found else None,
        precision_low=low,
        precision_high=high,
        lead_seconds_median=median(leads),
        lead_count=len(leads),
    )


class _Asked(NamedTuple):
    """What a rate is asked of, where no budget says it."""

    model: str
    site: str
    days: int
    per_100_machine_weeks: float = math.inf


def _realised(connection: Connection, budget: Row[Any] | _Asked, now: float) -> Realised:
    """How a budget is kept in the days before ``now``."""
    since = now - budget.days * _DAY
    outcomes = _outcomes(since, now + 1, budget.model, budget.site)
    false = outcomes.c.verdict == "false_alarm"
    count = int(connection.execute(select(func.count()).select_from(outcomes).where(false)).scalar_one())
    sources = []
    for kind, column in (("release", outcomes.c.release), ("point", outcomes.c.point)):
        most = select(outcomes.c.model, column.label("name"), func.count().label("alarms")).where(false)
        most = most.group_by(outcomes.c.model, column).order_by(func.count().desc(), column).limit(_SOURCES)
        for row in connection.execute(most):
            name = f"{row.name} of {row.model}" if kind == "release" else str(row.name)
            if name:
                sources.append(Source(kind, name, int(row.alarms)))
    watched = select(func.coalesce(func.sum(exposure.c.seconds), 0.0)).where(exposure.c.day >= since - _DAY)
    unsaid = select(func.count()).select_from(cases).where(cases.c.opened_at >= since, cases.c.told.is_not(None))
    unsaid = unsaid.where(cases.c.verdict.is_(None))
    if budget.model:
        watched, unsaid = watched.where(exposure.c.model == budget.model), unsaid.where(cases.c.model == budget.model)
    if budget.site:
        watched, unsaid = watched.where(exposure.c.site == budget.site), unsaid.where(cases.c.site == budget.site)
    seconds = float(connection.execute(watched).scalar_one())
    without = int(connection.execute(unsaid).scalar_one())
    return realise(budget.per_100_machine_weeks, count, seconds, without, sources)


def _budget(row: Row[Any], found: Realised) -> BudgetView:
    return BudgetView(
        id=row.id,
        model=row.model or None,
        site=row.site or None,
        per_100_machine_weeks=row.per_100_machine_weeks,
        days=row.days,
        set_at=row.set_at,
        set_by=row.set_by,
        false_alarms=found.false_alarms,
        machine_weeks=found.machine_weeks,
        rate=found.rate,
        rate_low=found.low,
        rate_high=found.high,
        status=found.status,
        said=found.said,
        suggestions=list(found.suggestions),
    )

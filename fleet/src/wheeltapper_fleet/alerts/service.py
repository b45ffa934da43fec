"""What people do with cases; each function owns its transaction.

Invariants:
    * An action is done at the version that it was decided on, or refused (``case.conflict``).
    * An illegal transition is refused (``case.illegal``) and changes nothing.
    * Resolving with a verdict writes the labels of the episode in the same transaction; correcting it replaces them.
    * What is still raised some time after it was resolved (``quiet_seconds``) is opened again, unless it was a false
      alarm.
    * Everything that is done is in the case's log, with who did it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from wheeltapper_fleet.alerts import case_store
from wheeltapper_fleet.alerts.announcing import occurrence_of
from wheeltapper_fleet.alerts.case import Case, CaseEvent, Kind, Verdict, act
from wheeltapper_fleet.alerts.policy import read_policy
from wheeltapper_fleet.alerts.tables import alerts, cases, labels
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.notify.occurrence import Occurrence, OccurrenceKind

__all__ = ["Cases", "Feedback", "resolve_child"]

_SOURCES: Final = 1000
"""Pipelines of one case that get a label; a case of one point has one or two."""


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What was found: the verdict, which part, a note, the number of the work order, when the machine failed (Unix
    seconds; None: it did not)."""

    verdict: str
    part: str | None = None
    note: str | None = None
    work_order: str | None = None
    failed_at: float | None = None


class Cases:
    """Acts on cases.

    Args:
        engine: the fleet's database.
        announce: writes down, in the same transaction, what is to be told.
    """

    def __init__(
        self,
        engine: Engine,
        announce: Callable[[Connection, Sequence[Occurrence]], None] = lambda connection, occurrences: None,
    ) -> None:
        self._engine = engine
        self._announce = announce

    def acknowledge(self, number: int, version: int, who: str, now: float) -> None:
        """Say that somebody has seen the case; whoever does takes it, if it is nobody's.

        Raises:
            FleetError: ``case.not_found``, ``case.conflict``, ``case.illegal``.
        """
        with self._engine.begin() as connection:
            case = act(_at_version(connection, number, version), CaseEvent.ACKNOWLEDGE, now)
            case = replace(case, acknowledged_at=now, assignee=case.assignee or who)
            _store(connection, case, who, "acknowledged", "", now)

    def work(self, number: int, version: int, who: str, now: float, work_order: str | None = None) -> None:
        """Say that somebody works on the case, and under which work order.

        Raises:
            FleetError: ``case.not_found``, ``case.conflict``, ``case.illegal``.
        """
        with self._engine.begin() as connection:
            case = act(_at_version(connection, number, version), CaseEvent.WORK, now)
            acknowledged = case.acknowledged_at if case.acknowledged_at is not None else now
            case = replace(case, acknowledged_at=acknowledged, assignee=case.assignee or who)
            case = replace(case, work_order=work_order or case.work_order)
            _store(connection, case, who, "in work", work_order or "", now)

    def resolve(self, number: int, version: int, who: str, now: float, feedback: Feedback) -> None:
        """Say what was found. A resolved case may be resolved again: the feedback is corrected.

        Raises:
            FleetError: ``case.not_found``, ``case.conflict``, ``case.illegal``, ``case.failed_at``.
        """
        if feedback.failed_at is not None and feedback.verdict != "true_fault":
            raise FleetError("case.failed_at", "only a true fault has a time at which the machine failed", 422)
        with self._engine.begin() as connection:
            before = _at_version(connection, number, version)
            case = _resolved(connection, before, feedback, who, now)
            stored = _store(connection, case, who, "resolved", _said(feedback), now)
            if case.kind == Kind.RELEASE:
                connection.execute(update(cases).where(cases.c.parent == number).values(look_at=now))
            else:
                _label(connection, stored, who)
            if before.told is not None and not before.resolved:
                self._announce(connection, [occurrence_of(OccurrenceKind.CASE_RESOLVED, stored, now)])

    def assign(self, number: int, version: int, who: str, now: float, assignee: str | None) -> None:
        """Say whose case it is; None: nobody's.

        Raises:
            FleetError: ``case.not_found``, ``case.conflict``.
        """
        with self._engine.begin() as connection:
            case = replace(_at_version(connection, number, version), assignee=assignee, changed_at=now)
            _store(connection, case, who, "assigned", assignee or "to nobody", now)

    def comment(self, number: int, version: int, who: str, now: float, text: str) -> None:
        """Write something into the case's log.

        Raises:
            FleetError: ``case.not_found``, ``case.conflict``.
        """
        with self._engine.begin() as connection:
            case = replace(_at_version(connection, number, version), changed_at=now)
            _store(connection, case, who, "comment", text, now)


def resolve_child(connection: Connection, case: Case, parent: Case, now: float) -> None:
    """Resolve a case that one about a release stood for, as that one was; in the caller's transaction."""
    found = Feedback(verdict=parent.verdict or "unclear", part=parent.part, note=parent.note)
    who = parent.resolved_by or ""
    after = replace(_resolved(connection, case, found, who, now), look_at=None, attention="nobody")
    stored = _store(connection, after, who, "resolved", f"with case {parent.id}: {_said(found)}", now)
    _label(connection, stored, who)


def _at_version(connection: Connection, number: int, version: int) -> Case:
    case_store.lock_cases(connection)
    case = case_store.find_case(connection, number)
    if case.version != version:
        raise FleetError(
            "case.conflict", f"case {number} is at version {case.version}, not {version}: read it again", 409
        )
    return case


def _resolved(connection: Connection, case: Case, feedback: Feedback, who: str, now: float) -> Case:
    still = case.raised and feedback.verdict != Verdict.FALSE_ALARM
    after = act(case, CaseEvent.RESOLVE, now)
    return replace(
        after,
        resolved_at=case.resolved_at if case.resolved_at is not None else now,
        resolved_by=who,
        verdict=feedback.verdict,
        part=feedback.part,
        note=feedback.note,
        work_order=feedback.work_order or case.work_order,
        failed_at=feedback.failed_at,
        look_at=now + read_policy(connection).quiet_seconds if still else None,
    )


def _store(connection: Connection, case: Case, who: str, event: str, detail: str, now: float) -> Case:
    case_store.add_log(connection, case.id, now, who, event, detail)
    return case_store.update_case(connection, case)


def _said(feedback: Feedback) -> str:
    parts = [feedback.verdict, feedback.part, feedback.work_order, feedback.note]
    return "; ".join(each for each in parts if each)


def _label(connection: Connection, case: Case, who: str) -> None:
    """Write the labels of the case's episode: one for each pipeline whose alerts it holds."""
    connection.execute(delete(labels).where(labels.c.case_id == case.id, labels.c.episode == case.episode))
    columns = (alerts.c.device, alerts.c.pipeline)
    query = select(
        *columns,
        func.min(alerts.c.happened_at).label("from_at"),
        func.max(alerts.c.happened_at).label("to_at"),
        func.min(alerts.c.t_s).label("from_t_s"),
        func.max(alerts.c.t_s).label("to_t_s"),
    ).where(alerts.c.case_id == case.id, alerts.c.happened_at >= case.episode_at)
    found = connection.execute(query.group_by(*columns).order_by(*columns).limit(_SOURCES)).all()
    shared: dict[str, Any] = {name: getattr(case, name) for name in ("episode", "model", "release", "point", "machine")}
    shared |= {"case_id": case.id, "site": case.site, "verdict": case.verdict, "part": case.part, "who": who}
    shared |= {"failed_at": case.failed_at, "resolved_at": case.resolved_at}
    if found:
        connection.execute(insert(labels), [{**row._mapping, **shared} for row in found])

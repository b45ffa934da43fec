"""The devices whose assignment is to be composed anew: the outbox between what happens and what is signed.

Everything here runs in the caller's transaction: whoever changes what a device shall do marks it in the same
transaction, so that nothing is forgotten, whatever dies. Whoever changes what many devices shall do writes one row of
``tellings``, and the devices are marked from it in slices. :mod:`wheeltapper_fleet.campaigns.engine` takes the devices
in slices, the ones that wait longest first.

A device leaves the queue in the transaction that stores its assignment, and only if nobody has marked it since what
the assignment says was read. So an assignment may be composed and signed outside of every transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sqlalchemy import ColumnElement, Connection, case, delete, or_, select

from wheeltapper_fleet.campaigns.tables import assignments_due, executions, tellings
from wheeltapper_fleet.db.engine import upsert_statement
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = [
    "AT_ONCE",
    "any_due",
    "any_tellings",
    "due_among",
    "mark_device",
    "mark_devices",
    "mark_each",
    "mark_next_told",
    "mark_told",
    "next_due",
    "settle",
]

AT_ONCE: Final = 0.0
"""Before all others: for a device that has just come online."""
_TOLD: Final = tuple(state.value for state in ExecutionState if not state.terminal)
"""The states of an execution that its device may have been told of and that has not ended."""


def mark_device(connection: Connection, device: str, due_at: float) -> None:
    """Have the assignment of ``device`` composed anew from ``due_at`` (Unix seconds) on, or earlier if it was due."""
    mark_devices(connection, [device], due_at)


def mark_devices(connection: Connection, devices: Iterable[str], due_at: float) -> None:
    """Mark several devices, as :func:`mark_device` does."""
    mark_each(connection, dict.fromkeys(devices, due_at))


def mark_each(connection: Connection, due_at: Mapping[str, float]) -> None:
    """Mark devices, each at its own time (Unix seconds)."""
    rows = [{"device": device, "due_at": at, "marks": 0} for device, at in sorted(due_at.items())]
    if rows:
        statement = upsert_statement(connection, assignments_due)
        set_ = {"due_at": _earlier(statement.excluded.due_at), "marks": assignments_due.c.marks + 1}
        connection.execute(statement.on_conflict_do_update(index_elements=["device"], set_=set_), rows)


def mark_told(connection: Connection, origin: str, *, of_campaign: bool) -> None:
    """Have every device marked that may have been told of an unfinished execution of ``origin``.

    ``origin`` is a campaign or a default release. It costs one row; the devices are marked in slices
    (:func:`mark_next_told`).
    """
    row = {"origin": origin, "of_campaign": of_campaign, "after": ""}
    statement = upsert_statement(connection, tellings).values(row)
    connection.execute(statement.on_conflict_do_update(index_elements=["origin"], set_={"after": ""}))


def mark_next_told(connection: Connection, most: int, now: float) -> bool:
    """Look at the next ``most`` devices of a campaign or default release that is told anew, and mark those it concerns.

    Returns whether there was anything to look at.
    """
    row = connection.execute(select(tellings).order_by(tellings.c.origin).limit(1)).one_or_none()
    if row is None:
        return False
    of_origin = (executions.c.campaign if row.of_campaign else executions.c.default_release) == row.origin
    next_ones = (
        select(executions.c.device)
        .where(of_origin, executions.c.device > row.after)
        .distinct()
        .order_by(executions.c.device)
        .limit(most)
    )
    found = list(connection.execute(next_ones).scalars())
    told = select(executions.c.device).where(of_origin, executions.c.device.in_(found), executions.c.state.in_(_TOLD))
    mark_devices(connection, connection.execute(told).scalars(), now)
    this = tellings.c.origin == row.origin
    if len(found) == most:
        connection.execute(tellings.update().where(this).values(after=found[-1]))
    else:
        connection.execute(delete(tellings).where(this))
    return True


def any_due(connection: Connection, now: float) -> bool:
    """Whether there is anything to compose at ``now``."""
    due = select(assignments_due.c.device).where(assignments_due.c.due_at <= now).limit(1)
    return connection.execute(due).first() is not None


def any_tellings(connection: Connection) -> bool:
    """Whether there are devices left to look at because a campaign or default release is told anew."""
    return connection.execute(select(tellings.c.origin).limit(1)).first() is not None


def due_among(connection: Connection, devices: Sequence[str], now: float) -> set[str]:
    """Those of ``devices`` to which what they were told last may not apply any more: their assignment waits to be
    composed anew, or a campaign or default release that they were told of is told anew and has not come to them.

    Cost: two statements, for all of them.
    """
    if not devices:
        return set()
    due = select(assignments_due.c.device).where(assignments_due.c.device.in_(devices), assignments_due.c.due_at <= now)
    concerned = select(executions.c.device).where(
        executions.c.device.in_(devices),
        executions.c.state.in_(_TOLD),
        or_(executions.c.campaign == tellings.c.origin, executions.c.default_release == tellings.c.origin),
        executions.c.device > tellings.c.after,
    )
    told_anew = connection.execute(concerned).scalars() if any_tellings(connection) else ()
    return {*connection.execute(due).scalars(), *told_anew}


def next_due(connection: Connection, now: float, most: int) -> dict[str, int]:
    """Up to ``most`` devices that are due at ``now``, the longest waiting first; each with its marks.

    They stay in the queue until :func:`settle`.
    """
    query = (
        select(assignments_due.c.device, assignments_due.c.marks)
        .where(assignments_due.c.due_at <= now)
        .order_by(assignments_due.c.due_at, assignments_due.c.device)
        .limit(most)
    )
    return {row.device: row.marks for row in connection.execute(query)}


def settle(connection: Connection, taken: Mapping[str, int]) -> set[str]:
    """Take devices out of the queue that were not marked since :func:`next_due`; gives these.

    One that was marked meanwhile stays: what was composed of it may be out of date.
    """
    query = select(assignments_due.c.device, assignments_due.c.marks).where(assignments_due.c.device.in_(list(taken)))
    rows = connection.execute(query.with_for_update(skip_locked=True)).all() if taken else ()
    same = {row.device for row in rows if row.marks == taken[row.device]}
    if same:
        connection.execute(delete(assignments_due).where(assignments_due.c.device.in_(list(same))))
    return same


def _earlier(due_at: ColumnElement[float]) -> ColumnElement[float]:
    return case((due_at < assignments_due.c.due_at, due_at), else_=assignments_due.c.due_at)

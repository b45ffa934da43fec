"""The devices whose assignment is to be composed anew: the outbox between what happens and what is signed.

Everything here runs in the caller's transaction: whoever changes what a device shall do marks it in the same
transaction, so that nothing is forgotten, whatever dies. :mod:`wheeltapper_fleet.campaigns.engine` takes the devices in
slices, the ones that wait longest first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from sqlalchemy import ColumnElement, Connection, Float, case, delete, literal, or_, select

from wheeltapper_fleet.campaigns.rules.execution import PENDING
from wheeltapper_fleet.campaigns.tables import assignments_due, default_releases, executions
from wheeltapper_fleet.db.engine import upsert_statement
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["AT_ONCE", "any_due", "is_due", "mark_device", "mark_devices", "mark_each", "mark_told", "take_due"]

AT_ONCE: Final = 0.0
"""Before all others: for a device that has just come online."""


def mark_device(connection: Connection, device: str, due_at: float) -> None:
    """Have the assignment of ``device`` composed anew from ``due_at`` (Unix seconds) on, or earlier if it was due."""
    mark_devices(connection, [device], due_at)


def mark_devices(connection: Connection, devices: Iterable[str], due_at: float) -> None:
    """Mark several devices, as :func:`mark_device` does."""
    mark_each(connection, dict.fromkeys(devices, due_at))


def mark_each(connection: Connection, due_at: Mapping[str, float]) -> None:
    """Mark devices, each at its own time (Unix seconds)."""
    rows = [{"device": device, "due_at": at} for device, at in sorted(due_at.items())]
    if rows:
        statement = upsert_statement(connection, assignments_due)
        set_ = {"due_at": _earlier(statement.excluded.due_at)}
        connection.execute(statement.on_conflict_do_update(index_elements=["device"], set_=set_), rows)


def mark_told(connection: Connection, origin: str, due_at: float) -> None:
    """Mark every device that may have been told of an unfinished execution of ``origin``, in one statement.

    ``origin`` is a campaign or a default release.
    """
    ended = [state.value for state in ExecutionState if state.terminal]
    told = (
        select(executions.c.device, literal(due_at, Float))
        .where(
            or_(executions.c.campaign == origin, executions.c.default_release == origin),
            executions.c.state.not_in([PENDING, *ended]),
        )
        .distinct()
    )
    statement = upsert_statement(connection, assignments_due).from_select(["device", "due_at"], told)
    set_ = {"due_at": _earlier(statement.excluded.due_at)}
    connection.execute(statement.on_conflict_do_update(index_elements=["device"], set_=set_))


def any_due(connection: Connection, now: float) -> bool:
    """Whether there is anything to compose at ``now``, or a default release to look at."""
    due = select(assignments_due.c.device).where(assignments_due.c.due_at <= now).limit(1)
    set_anew = select(default_releases.c.id).where(default_releases.c.cursor.is_not(None)).limit(1)
    return connection.execute(due).first() is not None or connection.execute(set_anew).first() is not None


def is_due(connection: Connection, device: str, now: float) -> bool:
    """Whether the assignment of ``device`` waits to be composed anew at ``now``."""
    query = select(assignments_due.c.device).where(assignments_due.c.device == device, assignments_due.c.due_at <= now)
    return connection.execute(query).first() is not None


def take_due(connection: Connection, now: float, most: int) -> list[str]:
    """Take up to ``most`` devices that are due at ``now`` out of the queue, the longest waiting first.

    They are taken before anything is read of them: what is marked afterwards is a new entry.
    """
    query = (
        select(assignments_due.c.device)
        .where(assignments_due.c.due_at <= now)
        .order_by(assignments_due.c.due_at, assignments_due.c.device)
        .limit(most)
    )
    found = list(connection.execute(query).scalars())
    if found:
        connection.execute(delete(assignments_due).where(assignments_due.c.device.in_(found)))
    return found


def _earlier(due_at: ColumnElement[float]) -> ColumnElement[float]:
    return case((due_at < assignments_due.c.due_at, due_at), else_=assignments_due.c.due_at)

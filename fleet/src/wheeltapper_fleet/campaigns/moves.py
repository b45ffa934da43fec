"""Moves executions: the one place that writes their states, their counts and who is to be told. In the caller's
transaction.

Invariants:
    * What moves goes through :func:`~wheeltapper_fleet.campaigns.rules.execution.move`, or changes places with another.
    * An execution is locked before it is moved, so that no two transactions move it from the same state. What works
      through many of them leaves out those that another transaction holds; they are found again.
    * At most as many move in one call as its caller says: no transaction grows with the fleet.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, Update, bindparam, select

from wheeltapper_fleet.campaigns.due import mark_devices
from wheeltapper_fleet.campaigns.retries import overdue_moves, with_retries
from wheeltapper_fleet.campaigns.rules.execution import (
    PENDING,
    RETRYING,
    Assign,
    Cancel,
    Execution,
    ExecutionEvent,
    move,
    tells_device,
)
from wheeltapper_fleet.campaigns.tables import executions
from wheeltapper_fleet.campaigns.tallies import add_moves
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = [
    "any_overdue",
    "assign_pending",
    "cancel_pending",
    "end_overdue",
    "fill_places",
    "lock_executions",
    "lock_reported",
    "new_execution_id",
    "write_moves",
]

Move = tuple[Execution, Execution]
"""An execution before and after."""

_COLUMNS: Final = tuple(executions.c[name] for name in Execution.__dataclass_fields__)
_UNDER_WAY: Final = (RETRYING, *(state.value for state in ExecutionState if not state.terminal))
_CHANGING: Final = ("wave", "state", "code", "detail", "assigned_at", "deadline_at", "attempt")


def new_execution_id() -> str:
    """An id that no execution has."""
    return f"e-{secrets.token_hex(8)}"


def lock_reported(connection: Connection, reported: Collection[tuple[str, str]]) -> list[Execution]:
    """Executions by id and device, held by this transaction until it ends; one that is not the device's is left out.

    It waits for other transactions that hold some of them, in the order of the ids.
    """
    if not reported:
        return []
    names, owners = {name for name, _ in reported}, {owner for _, owner in reported}
    query = select(*_COLUMNS).where(executions.c.id.in_(names), executions.c.device.in_(owners))
    rows = connection.execute(query.order_by(executions.c.id).with_for_update()).all()
    return [found for found in map(_read, rows) if (found.id, found.device) in reported]


def lock_executions(connection: Connection, names: Iterable[str]) -> list[Execution]:
    """Executions by their ids, without those that another transaction holds."""
    wanted = list(names)
    query = select(*_COLUMNS).where(executions.c.id.in_(wanted)).order_by(executions.c.id)
    return _lock(connection, query) if wanted else []


def write_moves(connection: Connection, moves: Iterable[Move], now: float, *, composing: bool = False) -> int:
    """Store moves of locked executions with their counts; returns how many executions changed.

    A failure is asked again where its campaign says so, and the devices that are to be told something else are marked;
    neither where the caller is ``composing``: it tells the devices itself, and what it gives up cannot be carried out.
    """
    changed = [(before, after) for before, after in moves if before != after]
    if not composing:
        changed = with_retries(connection, changed, now)
    renamed = [each for each in changed if each[0].id != each[1].id]
    kept = [each for each in changed if each[0].id == each[1].id]
    for statement, some in ((_update(), kept), (_update(id=bindparam("new_id")), renamed)):
        if some:
            connection.execute(statement, [_values(before, after, now) for before, after in some])
    add_moves(connection, changed)
    if not composing:
        mark_devices(connection, [after.device for before, after in changed if tells_device(before, after)], now)
    return len(changed)


def assign_pending(connection: Connection, campaign: str, wave: int, most: int, deadline_at: float, now: float) -> int:
    """Hand out up to ``most`` pending executions of a wave, in the order of their devices; returns how many."""
    found = _lock(connection, _in_state(campaign, wave, PENDING, most))
    return _move_all(connection, found, Assign(now, deadline_at), now)


def cancel_pending(connection: Connection, campaign: str, wave: int, most: int, now: float) -> int:
    """Cancel up to ``most`` executions of a wave that were not handed out; returns how many."""
    return _move_all(connection, _lock(connection, _in_state(campaign, wave, PENDING, most)), Cancel(), now)


def fill_places(connection: Connection, campaign: str, wave: int, later_wave: int, most: int, now: float) -> int:
    """Let up to ``most`` superseded executions of a wave change places with pending ones of a later wave.

    Returns how many places were filled.
    """
    lost = _lock(connection, _in_state(campaign, wave, ExecutionState.SUPERSEDED.value, most))
    later = _lock(connection, _in_state(campaign, later_wave, PENDING, len(lost)))
    moves: list[Move] = []
    for gone, next_one in zip(lost, later, strict=False):
        moves += [(gone, replace(gone, wave=next_one.wave)), (next_one, replace(next_one, wave=wave))]
    return write_moves(connection, moves, now) // 2


def any_overdue(connection: Connection, now: float) -> bool:
    """Whether the deadline of an execution is over."""
    return connection.execute(_overdue(now).limit(1)).first() is not None


def end_overdue(connection: Connection, most: int, now: float) -> int:
    """End up to ``most`` executions whose deadline is over, of any campaign or default release, the oldest first; ask
    those again that have waited for it. Returns how many.

    Deadlines count in every state of a campaign, also where this version cannot read it.
    """
    found = _lock(connection, _overdue(now).limit(most))
    new_ids = (new_execution_id() for _ in found)
    return write_moves(connection, overdue_moves(connection, found, new_ids, now), now)


def _move_all(connection: Connection, found: Sequence[Execution], event: ExecutionEvent, now: float) -> int:
    return write_moves(connection, [(each, move(each, event)) for each in found], now)


def _overdue(now: float) -> Select[Any]:
    return (
        select(*_COLUMNS)
        .where(executions.c.ended_at.is_(None), executions.c.deadline_at <= now, executions.c.state.in_(_UNDER_WAY))
        .order_by(executions.c.deadline_at)
    )


def _in_state(campaign: str, wave: int, state: str, most: int) -> Select[Any]:
    return (
        select(*_COLUMNS)
        .where(executions.c.campaign == campaign, executions.c.wave == wave, executions.c.state == state)
        .order_by(executions.c.device)
        .limit(most)
    )


def _lock(connection: Connection, query: Select[Any]) -> list[Execution]:
    return [_read(row) for row in connection.execute(query.with_for_update(skip_locked=True))]


def _read(row: Row[Any]) -> Execution:
    return Execution(**row._mapping)


def _update(**more: Any) -> Update:
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in (*_CHANGING, "updated_at", "ended_at")}
    return executions.update().where(executions.c.id == bindparam("old_id")).values(**values, **more)


def _values(before: Execution, after: Execution, now: float) -> dict[str, Any]:
    values: dict[str, Any] = {f"new_{name}": getattr(after, name) for name in _CHANGING}
    values |= {"old_id": before.id, "new_updated_at": now, "new_ended_at": now if after.terminal else None}
    return values | ({"new_id": after.id} if after.id != before.id else {})

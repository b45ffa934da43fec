"""How much a spool may hold, and which records are dropped beyond that: the oldest telemetry first, alerts and reports
last.

Every function works within the caller's transaction and counts in the caller's
:class:`~wheeltapper_agent.records.state.State`. A dropped record leaves a gap in the numbering; the message with the
next record above it tells the fleet so (``after``, ``oldest``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from wheeltapper_agent.records.database import used_bytes
from wheeltapper_agent.records.rows import kind_of
from wheeltapper_agent.records.state import State

__all__ = ["SpoolLimits", "drop_acked", "drop_beyond", "drop_share"]

_SLACK: Final = 32
"""Where a limit is exceeded, 1/32 of it is dropped in addition, so that not every append has to drop."""
_AGE_STEP: Final = 1000
"""So many records are looked at together when old ones are dropped."""


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """Where one of these is exceeded, records are dropped."""

    max_records: int = 1_000_000
    max_bytes: int = 0
    """Bytes of the database that hold something; 0: without a bound."""
    max_age_seconds: float = 0.0
    """Counts the time that the agent ran, not the wall clock: a clock that jumps drops nothing. 0: without a bound."""


def drop_acked(connection: sqlite3.Connection, state: State) -> None:
    """Delete the records that the fleet has acknowledged. ``state.held`` was lowered when the ack came."""
    connection.execute("DELETE FROM records WHERE seq <= ?", (state.acked,))


def drop_beyond(connection: sqlite3.Connection, state: State, limits: SpoolLimits, age_due: bool) -> int:
    """Drop records until every limit is kept.

    Args:
        connection: with the caller's transaction.
        state: is updated.
        limits: to keep.
        age_due: whether to look for records that are too old.

    Returns:
        How many records were dropped.
    """
    dropped = 0
    if limits.max_age_seconds > 0 and age_due:
        dropped += _drop_old(connection, state, state.age_seconds - limits.max_age_seconds)
    over = sum(state.held.values()) - limits.max_records
    if over > 0:
        dropped += _drop_oldest(connection, state, over + limits.max_records // _SLACK, "spool.full")
    while limits.max_bytes > 0 and used_bytes(connection) > limits.max_bytes:
        held = sum(state.held.values())
        if held <= 1:
            break  # the rest of the database is not records
        now_dropped = _drop_oldest(connection, state, max(1, held // _SLACK), "spool.full")
        if not now_dropped:
            break  # fewer records are held than were counted: some are damaged
        dropped += now_dropped
    return dropped


def drop_share(connection: sqlite3.Connection, state: State) -> int:
    """Drop 1/32 of the records, the oldest ones, because the disk is full; returns how many."""
    return _drop_oldest(connection, state, max(1, sum(state.held.values()) // _SLACK), "spool.full")


def _drop_oldest(connection: sqlite3.Connection, state: State, count: int, why: str) -> int:
    """Drop the ``count`` oldest telemetry records, and alerts and reports where there are too few; returns how many."""
    dropped = 0
    for condition in ("kind = 'telemetry'", "kind != 'telemetry'"):
        left = count - dropped
        if left <= 0:
            break
        query = f"SELECT seq FROM records WHERE seq > ? AND {condition} ORDER BY seq LIMIT ?"  # noqa: S608  # two constants
        seqs = connection.execute(query, (state.acked, left)).fetchall()
        if not seqs:
            continue
        where = f"WHERE seq > ? AND seq <= ? AND {condition}"
        last = (state.acked, *seqs[-1])
        kinds = connection.execute(f"SELECT kind, count(*) FROM records {where} GROUP BY kind", last).fetchall()  # noqa: S608  # as above
        connection.execute(f"DELETE FROM records {where}", last)  # noqa: S608  # as above
        dropped += _count_dropped(state, kinds, why)
    return dropped


def _drop_old(connection: sqlite3.Connection, state: State, before: float) -> int:
    """Drop records of any kind that are older than ``before`` (seconds of ``state.age_seconds``); returns how many.

    Each record is judged by its own age, so that one with a damaged age takes no other along.
    """
    dropped = 0
    while before > 0:
        query = (
            "SELECT max(seq) FROM (SELECT seq, age_seconds FROM records WHERE seq > ? ORDER BY seq LIMIT ?)"
            " WHERE coalesce(age_seconds, 0) < ?"
        )
        last = connection.execute(query, (state.acked, _AGE_STEP, before)).fetchone()
        if last[0] is None:
            break
        where = "WHERE seq > ? AND seq <= ? AND coalesce(age_seconds, 0) < ?"
        range_ = (state.acked, *last, before)
        kinds = connection.execute(f"SELECT kind, count(*) FROM records {where} GROUP BY kind", range_).fetchall()  # noqa: S608  # a constant
        connection.execute(f"DELETE FROM records {where}", range_)  # noqa: S608  # as above
        dropped += _count_dropped(state, kinds, "spool.age")
    return dropped


def _count_dropped(state: State, kinds: Iterable[tuple[object, int]], why: str) -> int:
    """Count dropped records in ``state``, by kind; returns how many there were."""
    dropped = 0
    for stored, count in kinds:
        kind = kind_of(stored)
        state.held[kind] = max(0, state.held.get(kind, 0) - count)
        state.dropped[kind] = state.dropped.get(kind, 0) + count
        dropped += count
    if dropped:
        state.why = sorted({*state.why, why})
    return dropped

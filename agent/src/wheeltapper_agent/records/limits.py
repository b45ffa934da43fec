"""What a spool may hold, and what goes when it is more: the oldest telemetry first, alerts and reports last.

Every function works within the caller's transaction and counts in the caller's :class:`State`. A dropped record leaves
a hole in the numbering; whoever sends the next one above it says so (``after``, ``oldest``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from wheeltapper_agent.records.database import State, used_bytes
from wheeltapper_agent.records.rows import kind_of

__all__ = ["SpoolLimits", "drop_acked", "drop_beyond", "drop_share"]

_SLACK: Final = 32
"""A limit that is reached is undercut by 1/32, so that not every append has to drop."""
_AGE_STEP: Final = 1000


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """Beyond one of them records are dropped."""

    max_records: int = 1_000_000
    max_bytes: int = 0
    """Of the database that hold something; 0: without a bound."""
    max_age_seconds: float = 0.0
    """By the time that the agent ran, not by the wall clock: a clock that jumps drops nothing. 0: without a bound."""


def drop_acked(connection: sqlite3.Connection, state: State) -> None:
    """Forget what the fleet has; it was taken from ``held`` at the ack."""
    connection.execute("DELETE FROM records WHERE seq <= ?", (state.acked,))


def drop_beyond(connection: sqlite3.Connection, state: State, limits: SpoolLimits, age_due: bool) -> int:
    """Drop until every limit is kept; returns how many records went."""
    gone = 0
    if limits.max_age_seconds > 0 and age_due:
        gone += _drop_old(connection, state, state.age_seconds - limits.max_age_seconds)
    over = sum(state.held.values()) - limits.max_records
    if over > 0:
        gone += _drop_oldest(connection, state, over + limits.max_records // _SLACK, "spool.full")
    while limits.max_bytes > 0 and used_bytes(connection) > limits.max_bytes:
        held = sum(state.held.values())
        if held <= 1:
            break  # what is left is not records
        dropped = _drop_oldest(connection, state, max(1, held // _SLACK), "spool.full")
        if not dropped:
            break  # fewer are held than was counted: some are damaged
        gone += dropped
    return gone


def drop_share(connection: sqlite3.Connection, state: State) -> int:
    """Drop a share of the oldest records, because the disk has no room; returns how many."""
    return _drop_oldest(connection, state, max(1, sum(state.held.values()) // _SLACK), "spool.full")


def _drop_oldest(connection: sqlite3.Connection, state: State, count: int, why: str) -> int:
    gone = 0
    for condition in ("kind = 'telemetry'", "kind != 'telemetry'"):
        left = count - gone
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
        gone += _count(state, kinds, why)
    return gone


def _drop_old(connection: sqlite3.Connection, state: State, before: float) -> int:
    """Drop records of any kind that came before ``before`` of the age clock, each by its own age: one whose age is
    damaged takes no other along."""
    gone = 0
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
        gone += _count(state, kinds, "spool.age")
    return gone


def _count(state: State, kinds: Iterable[tuple[object, int]], why: str) -> int:
    gone = 0
    for stored, count in kinds:
        kind = kind_of(stored)
        state.held[kind] = max(0, state.held.get(kind, 0) - count)
        state.dropped[kind] = state.dropped.get(kind, 0) + count
        gone += count
    if gone:
        state.why = sorted({*state.why, why})
    return gone

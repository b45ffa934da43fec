"""Ends what has been kept long enough: messages first, then fine roll-ups, then hourly ones; days stay for ever.

Invariants:
    * A turn is one short transaction of bounded work, whatever the size of the fleet: the ingest never waits long.
    * What is ended is older than its term by the fleet's clock. What devices said of spools, alerts and the newest
      scores stays.
    * On PostgreSQL a month of messages is dropped whole when its last day is over the term.

A fleet of N pipelines costs N deletes by key in six hours for the roll-ups, and as many messages as came in a day.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, select, text, tuple_

from wheeltapper_fleet.db.bulk import delete_keys
from wheeltapper_fleet.telemetry.partitions import ALL_MESSAGES, drop_partitions, make_partitions
from wheeltapper_fleet.telemetry.rollup import SPANS
from wheeltapper_fleet.telemetry.tables import drift_reports, latest

__all__ = ["Keep", "Retention"]

_LOG: Final = logging.getLogger(__name__)
_DAY_SECONDS: Final = 86_400.0
_MESSAGES: Final = 2000
"""In one turn."""
_PIPELINES: Final = 500
"""In one turn."""
_ROUND_SECONDS: Final = 6 * 3600.0
"""Between two looks at all pipelines."""
_PARTITIONS_SECONDS: Final = 3600.0


@dataclass(frozen=True, kw_only=True)
class Keep:
    """For how many days what is kept."""

    messages_days: int = 90
    rollups_days: int = 30
    """Roll-ups of 300 s."""
    hours_days: int = 730
    """Roll-ups of an hour."""


class Retention:
    """The duty. One turn is :meth:`run`; what it has done so far in a round is in memory only.

    Args:
        engine: the fleet's database.
        keep: the terms.
        saved_up_to: gives the id of the last message that may be ended, because it is kept elsewhere; all may by
            default.
    """

    def __init__(
        self, engine: Engine, keep: Keep, saved_up_to: Callable[[Connection], int] = lambda _: ALL_MESSAGES
    ) -> None:
        self._engine = engine
        self._saved_up_to = saved_up_to
        self._keep = keep
        self._partitions_at = self._round_at = -_ROUND_SECONDS
        self._last = ("", "")
        """The pipeline that the round has come to."""

    def run(self, now: float) -> bool:
        """One turn at ``now`` (Unix seconds); returns whether there is more to do at once."""
        before = now - self._keep.messages_days * _DAY_SECONDS
        more = False
        if self._engine.dialect.name == "postgresql" and now - self._partitions_at >= _PARTITIONS_SECONDS:
            with self._engine.begin() as connection:
                made = make_partitions(connection, now)
                dropped = drop_partitions(connection, before, self._saved_up_to(connection))
            for name in dropped:
                _LOG.info("%s: its messages were kept for %d days and are dropped", name, self._keep.messages_days)
            more = bool(made or dropped)
            self._partitions_at = now if not more else self._partitions_at
        with self._engine.begin() as connection:
            more |= _end_messages(connection, before, self._saved_up_to(connection))
        if now - self._round_at >= _ROUND_SECONDS:
            with self._engine.begin() as connection:
                more |= self._end_rollups(connection, now)
        return more

    def _end_rollups(self, connection: Connection, now: float) -> bool:
        """End roll-ups of the next pipelines; returns whether more pipelines follow."""
        key = (latest.c.device, latest.c.pipeline)
        query = select(*key).where(tuple_(*key) > self._last).order_by(*key).limit(_PIPELINES)
        pipelines = [tuple(row) for row in connection.execute(query)]
        ends: list[dict[str, Any]] = []
        for span, days in zip(SPANS, (self._keep.rollups_days, self._keep.hours_days), strict=False):
            before = now - days * _DAY_SECONDS - span
            ends += [{"d": device, "p": name, "span": span, "before": before} for device, name in pipelines]
        if ends:
            own = "device = :d AND pipeline = :p AND span = :span AND bucket < :before"
            connection.execute(text(f"DELETE FROM rollups WHERE {own}"), ends)  # noqa: S608  # names of ours
        self._last = pipelines[-1] if len(pipelines) == _PIPELINES else ("", "")
        if len(pipelines) < _PIPELINES:
            self._round_at = now
        return len(pipelines) == _PIPELINES


def _end_messages(connection: Connection, before: float, up_to: int) -> bool:
    """End the oldest messages up to the id ``up_to`` that came before ``before``; returns whether there may be more.

    Looks at the messages with the lowest ids, which came first; on PostgreSQL at those in the default partition.
    """
    table = "messages_default" if connection.dialect.name == "postgresql" else "messages"
    columns = "id, received_at, kind, device, epoch, first_seq"
    oldest = text(f"SELECT {columns} FROM {table} WHERE id <= :up_to ORDER BY id LIMIT {_MESSAGES}")  # noqa: S608  # names of ours
    rows = [row for row in connection.execute(oldest, {"up_to": up_to}) if row.received_at < before]
    if rows:
        gone = text(f"DELETE FROM {table} WHERE id <= :last AND received_at < :before")  # noqa: S608
        connection.execute(gone, {"last": rows[-1].id, "before": before})
        reports = [(row.device, row.epoch, row.first_seq) for row in rows if row.kind == "report"]
        delete_keys(connection, drift_reports, ("device", "epoch", "seq"), reports)
    return len(rows) == _MESSAGES

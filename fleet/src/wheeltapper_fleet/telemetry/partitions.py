"""The monthly partitions of ``messages`` on PostgreSQL: made ahead, and dropped whole when their time is over.

Invariants:
    * No message is refused for lack of a partition: what lies in none goes into ``messages_default``.
    * A partition that is made takes over what the default one holds of its month; a reader sees no difference.
    * Neither waits long for a lock, behind which the ingest would wait too: it fails and is tried again.

Source: PostgreSQL, "Table Partitioning" (5.12), "ALTER TABLE" (ATTACH PARTITION).
"""

from __future__ import annotations

import datetime
import re
from typing import Final

from sqlalchemy import Connection, text

__all__ = ["ALL_MESSAGES", "drop_partitions", "make_partitions"]

ALL_MESSAGES: Final = 2**62
"""No message has an id after this."""

_AHEAD: Final = 3
"""How many months there are partitions for: the present one and those that follow."""
_MOST_MOVED: Final = 200_000
_NAME: Final = re.compile(r"messages_(\d{4})_(\d{2})\Z")
_LOCK_WAIT: Final = "SET LOCAL lock_timeout = '3s'"


def make_partitions(connection: Connection, now: float) -> list[str]:
    """Make the partitions that are missing for the month of ``now`` (Unix seconds) and those after; gives their names.

    A month of which the default partition holds more than :data:`_MOST_MOVED` messages stays there.
    """
    connection.execute(text(_LOCK_WAIT))
    known, made = _partitions(connection), []
    month = _month_of(now)
    for _ in range(_AHEAD):
        following = _after(month)
        name, bounds = f"messages_{month:%Y_%m}", {"first": month.timestamp(), "end": following.timestamp()}
        if name not in known:
            inside = "received_at >= :first AND received_at < :end"
            held = (
                f"SELECT COUNT(*) FROM (SELECT 1 FROM messages_default WHERE {inside} LIMIT {_MOST_MOVED + 1}) AS held"  # noqa: S608
            )
            if connection.execute(text(held), bounds).scalar_one() <= _MOST_MOVED:
                connection.execute(
                    text(f"CREATE TABLE {name} (LIKE messages INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
                )
                moved = f"WITH moved AS (DELETE FROM messages_default WHERE {inside} RETURNING *)"  # noqa: S608
                connection.execute(text(f"{moved} INSERT INTO {name} SELECT * FROM moved"), bounds)  # noqa: S608
                values = f"FROM ({bounds['first']:.0f}) TO ({bounds['end']:.0f})"
                connection.execute(text(f"ALTER TABLE messages ATTACH PARTITION {name} FOR VALUES {values}"))
                made.append(name)
        month = following
    return made


def drop_partitions(connection: Connection, before: float, up_to: int = ALL_MESSAGES) -> list[str]:
    """Drop the oldest partition whose messages all came before ``before`` (Unix seconds), if there is one.

    One that holds messages with an id after ``up_to`` is kept, and so are those that follow it.

    Returns:
        Its name; empty if there is none.
    """
    connection.execute(text(_LOCK_WAIT))
    for name, month in sorted(_partitions(connection).items()):
        if _after(month).timestamp() <= before:
            later = text(f"SELECT 1 FROM {name} WHERE id > :up_to LIMIT 1")  # noqa: S608  # names of ours
            if up_to < ALL_MESSAGES and connection.execute(later, {"up_to": up_to}).first() is not None:
                return []
            its = "m.device = d.device AND m.epoch = d.epoch AND m.first_seq = d.seq AND m.kind = 'report'"
            connection.execute(text(f"DELETE FROM drift_reports d USING {name} m WHERE {its}"))  # noqa: S608
            connection.execute(text(f"ALTER TABLE messages DETACH PARTITION {name}"))
            connection.execute(text(f"DROP TABLE {name}"))
            return [name]
    return []


def _partitions(connection: Connection) -> dict[str, datetime.datetime]:
    """The monthly partitions, each with the begin of its month."""
    query = text("SELECT CAST(inhrelid AS regclass) FROM pg_inherits WHERE inhparent = CAST('messages' AS regclass)")
    found = {}
    for name in connection.execute(query).scalars():
        if match := _NAME.fullmatch(str(name)):
            found[str(name)] = datetime.datetime(int(match[1]), int(match[2]), 1, tzinfo=datetime.UTC)
    return found


def _month_of(at: float) -> datetime.datetime:
    day = datetime.datetime.fromtimestamp(at, datetime.UTC)
    return day.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _after(month: datetime.datetime) -> datetime.datetime:
    return (month + datetime.timedelta(days=32)).replace(day=1)

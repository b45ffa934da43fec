"""Writes messages of past days into segments: Parquet files that any tool reads.

Invariants:
    * Each message is in one segment. The row of a segment is written after its file, and a file without its row is
      written again under the same name: whatever dies between, nothing is missing and nothing is there twice.
    * A message is in a segment before retention may delete it (:func:`written_up_to`).
    * A message that this version cannot read is counted in the segment's row (``unreadable``), and logged.

Cost: some 10 µs a record, in slices of at most :data:`MAX_RECORDS` records; nothing is read twice.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, Row, func, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.history.place import HistoryPlace, needs_extra
from wheeltapper_fleet.history.tables import segments
from wheeltapper_fleet.telemetry.history import StoredRecord, readable_records
from wheeltapper_fleet.telemetry.tables import messages

__all__ = ["COLUMNS", "MAX_RECORDS", "Segments", "days", "records_table", "verify_segments", "written_up_to"]

_LOG: Final = logging.getLogger(__name__)
MAX_RECORDS: Final = 200_000
"""A segment is closed at the first message that reaches this."""
_MESSAGES_READ: Final = 1000

COLUMNS: Final[dict[str, str]] = {
    "device": "string",
    "epoch": "string",
    "seq": "int64",
    "kind": "string",
    "received_at": "double",
    "pipeline": "string",
    "window": "int64",
    "t_s": "double",
    "model": "string",
    "release": "int32",
    "score": "double",
    "severity": "string",
    "latency_ms": "double",
    "label": "string",
    "value": "double",
    "zone": "string",
    "undated": "bool",
    "body": "string",
    "partial": "bool",
}
"""The columns of a segment with their types in Arrow's names; ``body`` is JSON, of alerts and reports only. Older
segments have no ``partial``, which is then null."""


class Segments:
    """Moves messages into segments, one a turn.

    Args:
        database: the fleet's.
        place: where segments are kept.
        after_seconds: how old a message is when it goes into a segment; at least an hour, so that no transaction that
            stores older ones is still open.
        max_records: see :data:`MAX_RECORDS`.
    """

    def __init__(
        self, database: Engine, place: HistoryPlace, after_seconds: float, max_records: int = MAX_RECORDS
    ) -> None:
        self._database, self._place = database, place
        self._after_seconds, self._max_records = after_seconds, max_records

    def turn(self, now: float) -> bool:
        """Write the next segment, if there is a day that is over and old enough; returns whether there was one.

        Raises:
            FleetError: ``history.unreachable``; the segment is written at a later turn.
        """
        before = now - self._after_seconds
        with reading(self._database) as connection:
            found = self._next(connection, written_up_to(connection), before)
        if not found:
            return False
        day = _day(found[0].received_at)
        kept: list[StoredRecord] = []
        unreadable = 0
        for row in found:
            records = readable_records(row)
            unreadable += records is None
            kept += records or []
        first, last = found[0].id, found[-1].id
        if unreadable:
            _LOG.warning("history: %d of the messages %d to %d cannot be read by this version", unreadable, first, last)
        content = _parquet(kept)
        path = f"records/day={day}/{first:012d}-{last:012d}.parquet"
        self._place.write(path, content)
        times = [row.received_at for row in found]
        with self._database.begin() as connection:
            connection.execute(
                segments.insert().values(
                    first_message=first,
                    last_message=last,
                    day=day,
                    from_at=min(times),
                    to_at=max(times),
                    records=len(kept),
                    unreadable=unreadable,
                    bytes=len(content),
                    sha256=hashlib.sha256(content).hexdigest(),
                    path=path,
                    written_at=now,
                )
            )
        return True

    def _next(self, connection: Connection, after: int, before: float) -> list[Row[Any]]:
        """The messages of the next segment: those that follow ``after``, of one day that ended before ``before``."""
        found: list[Row[Any]] = []
        records, day, last = 0, "", after
        while True:
            query = select(messages).where(messages.c.id > last).order_by(messages.c.id).limit(_MESSAGES_READ)
            rows = connection.execute(query).all()
            for row in rows:
                day = day or _day(row.received_at)
                if _end_of(day) > before or _day(row.received_at) != day:
                    return found
                found.append(row)
                records += row.records
                if records >= self._max_records:
                    return found
            if len(rows) < _MESSAGES_READ:
                return found
            last = rows[-1].id


def written_up_to(connection: Connection) -> int:
    """The last message that is in a segment; 0: none. Retention deletes none after it while there is a history."""
    return int(connection.execute(select(func.coalesce(func.max(segments.c.last_message), 0))).scalar_one())


def days(database: Engine) -> list[dict[str, Any]]:
    """The days of the history, oldest first: ``day``, ``segments``, ``records``, ``unreadable``, ``bytes``."""
    columns = [func.sum(segments.c[name]).label(name) for name in ("records", "unreadable", "bytes")]
    query = select(segments.c.day, func.count().label("segments"), *columns).group_by(segments.c.day)
    with reading(database) as connection:
        found = connection.execute(query.order_by(segments.c.day)).mappings()
        return [{name: value if name == "day" else int(value) for name, value in row.items()} for row in found]


def verify_segments(database: Engine, place: HistoryPlace, progress: Callable[[str], None]) -> list[str]:
    """Read every file of the history again; returns the paths of those that are missing or changed.

    Args:
        database: the fleet's.
        place: where segments are kept.
        progress: is told each path.
    """
    damaged = []
    with reading(database) as connection:
        rows = connection.execute(select(segments.c.path, segments.c.sha256).order_by(segments.c.first_message)).all()
    for row in rows:
        progress(row.path)
        try:
            whole = place.sha256(row.path) == row.sha256
        except FleetError:
            whole = False
        if not whole:
            damaged.append(row.path)
    return damaged


def records_table(records: Sequence[StoredRecord]) -> Any:
    """Records as a table of pyarrow, with :data:`COLUMNS`."""
    try:
        import pyarrow
    except ImportError as error:
        raise needs_extra() from error
    values = [asdict(record) for record in records]
    for each in values:
        each["body"] = None if each["body"] is None else msgspec.json.encode(each["body"]).decode()
    schema = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    columns = [
        pyarrow.array([each[name] for each in values], field.type) for name, field in zip(COLUMNS, schema, strict=True)
    ]
    return pyarrow.Table.from_arrays(columns, schema=schema)


def _parquet(records: Sequence[StoredRecord]) -> bytes:
    """A Parquet file, sorted by device and number so that a device's records lie together."""
    table = records_table(sorted(records, key=lambda record: (record.device, record.epoch, record.seq)))
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd", row_group_size=50_000)
    return buffer.getvalue()


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def _end_of(day: str) -> float:
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() + 86_400.0

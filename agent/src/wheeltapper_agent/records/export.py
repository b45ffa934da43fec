"""The spool's records as rows for people: one flat row a record, for the portable export file.

It reads one snapshot of the database, in one read transaction, while the agent may go on writing; nothing in the spool
is changed. Rows are read one after the other, so that memory stays bounded.

Not done here: the export file and what else is in it (:mod:`wheeltapper_agent.host.export`).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from wheeltapper_agent.records.database import UNREADABLE, open_read_only, read_state
from wheeltapper_agent.records.port import NO_EPOCH
from wheeltapper_agent.records.rows import Stored, decode_item
from wheeltapper_agent.records.state import State
from wheeltapper_protocols.wire.messages import Alert, Report, TelemetryRecord

__all__ = ["SpoolSnapshot", "open_snapshot"]

_DIRECT: dict[type, tuple[str, ...]] = {
    TelemetryRecord: (
        "pipeline", "window", "t_s", "model", "release", "score", "severity", "latency_ms", "label", "value", "zone",
        "partial",
    ),
    Alert: (
        "pipeline", "window", "t_s", "at", "model", "release", "score", "severity", "raised", "label", "value", "unit",
        "zone", "slowly",
    ),
}  # fmt: skip
"""Fields of a record that are columns of the export under the same name."""
_OF_BODY = ("pipeline", "model", "release", "execution", "state", "code", "detail")
"""Fields of a report's body that are columns under the same name, where that body has them."""


@dataclass(slots=True)
class SpoolSnapshot:
    """A spool at one moment.

    Args:
        connection: in a read transaction; None if the database cannot be opened.
        state: where the spool stands; None if that cannot be read.
        problems: what could not be read so far, for people; :meth:`records` adds to them.
    """

    connection: sqlite3.Connection | None
    state: State | None
    problems: list[str] = field(default_factory=list)

    def records(self) -> Iterator[dict[str, Any]]:
        """One row a record, as they are read from the disk.

        The keys are columns of the export's table ``records``. A row whose checksum is wrong has ``intact`` 0 and its
        bytes in ``payload``, and nothing that these bytes say. Where a page of the database is damaged, the records
        below it come in rising order and those above it in falling order.
        """
        if self.connection is None:
            return
        epoch = self.state.epoch if self.state is not None else NO_EPOCH
        acked = self.state.acked if self.state is not None else 0
        newest = 0
        try:
            for row in self._rows("seq > 0 ORDER BY seq"):
                yield _exported(epoch, acked, row)
                newest = row[0]
        except UNREADABLE as error:
            self.problems.append(f"a page of the database above record {newest} is damaged: {error}")
            with contextlib.suppress(*UNREADABLE):  # down to the damaged page
                for row in self._rows(f"seq > {newest} ORDER BY seq DESC"):
                    yield _exported(epoch, acked, row)

    def _rows(self, condition: str) -> Iterator[Stored]:
        assert self.connection is not None
        query = f"SELECT seq, kind, payload, age_seconds, crc FROM records WHERE {condition}"  # noqa: S608  # our own
        yield from self.connection.execute(query)


@contextlib.contextmanager
def open_snapshot(path: Path) -> Iterator[SpoolSnapshot]:
    """A snapshot of the spool's database at ``path``; whatever cannot be read is told in its ``problems``."""
    if not path.exists():
        yield SpoolSnapshot(None, None, [f"there is no spool in {path.parent}: the agent did not run yet"])
        return
    try:
        connection = open_read_only(path)
    except UNREADABLE as error:
        yield SpoolSnapshot(None, None, [f"{path.name} cannot be opened: {error}"])
        return
    with contextlib.closing(connection):
        snapshot = SpoolSnapshot(connection, None)
        try:
            connection.execute("BEGIN")
            snapshot.state = read_state(connection)
        except UNREADABLE as error:
            snapshot.problems.append(f"where the spool stands cannot be read, so no record can be checked: {error}")
        yield snapshot


def _exported(epoch: str, acked: int, row: Stored) -> dict[str, Any]:
    """The row of the export for a row of the spool."""
    seq, kind, payload, age_seconds, _ = row
    item = decode_item(epoch, row)
    found: dict[str, Any] = {"seq": seq, "acknowledged": int(seq <= acked), "intact": int(item is not None)}
    if item is None:
        return found | {"kind": _plain(kind), "age_seconds": _plain(age_seconds), "payload": _plain(payload)}
    found |= {"epoch": epoch, "kind": kind, "age_seconds": age_seconds, "message": msgspec.json.encode(item).decode()}
    if isinstance(item, Report):
        body = item.body
        found |= {"at": item.at, "report": type(body).__struct_config__.tag}
        found |= {name: getattr(body, name) for name in _OF_BODY if hasattr(body, name)}
    else:
        found |= {name: getattr(item, name) for name in _DIRECT[type(item)]}
    return found


def _plain(value: object) -> object:
    """A value of a damaged row, which SQLite may have stored as any type, as one that every table takes."""
    return value if isinstance(value, str | bytes | int | float) else None

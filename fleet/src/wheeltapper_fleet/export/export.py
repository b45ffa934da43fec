"""Writes the fleet's database into one portable SQLite file, ready for Datasette.

Invariants:
    * The service may run meanwhile: all rows are those of one moment, and writers wait for nothing.
    * The file appears whole, by one rename, with mode 0600; one that exists is replaced only if that is asked for.
    * It holds no secret (:mod:`wheeltapper_fleet.export.schema`).
    * A message that this version cannot read is counted in the table ``problems``, and the rest is exported.
    * Memory does not grow with the tables.

Cost: some 20 µs a row or record.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlite_utils
from sqlalchemy import Boolean, Connection, Engine, Float, Integer, LargeBinary, Table, select

from wheeltapper_fleet import __version__
from wheeltapper_fleet.backup.rows import Progress, one_moment
from wheeltapper_fleet.export.schema import (
    FORMAT,
    LEFT_OUT,
    RECORD_COLUMNS,
    REFERENCES,
    SEARCHED,
    SECRET_WORDS,
    VIEWS,
)
from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.tables import metadata
from wheeltapper_fleet.telemetry.history import readable_records
from wheeltapper_fleet.telemetry.tables import messages

__all__ = ["Choice", "ExportSummary", "export_fleet", "exported_columns"]

_ROWS: Final = 1000
_MESSAGES: Final = 500


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which records are exported. Times are Unix seconds by the fleet's clock; None: without a bound.

    Tables that are no telemetry are exported whole.
    """

    records: bool = True
    since: float | None = None
    until: float | None = None
    devices: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportSummary:
    """What was exported: the file, its size in bytes, rows by table, and what could not be read."""

    path: Path
    bytes: int
    rows: dict[str, int]
    problems: tuple[str, ...]


def export_fleet(
    engine: Engine,
    out: Path,
    now: float,
    choice: Choice | None = None,
    *,
    replace: bool = False,
    progress: Progress = lambda name, done: None,
) -> ExportSummary:
    """Export the database into the new SQLite file ``out``.

    Args:
        engine: of the fleet's database.
        out: the file to make.
        now: Unix seconds, for the table ``export``.
        choice: which records; None: all.
        replace: replace ``out`` if it exists.
        progress: is told what is written.

    Raises:
        FleetError: ``export.exists``, ``export.failed`` (such as a full disk; nothing is left of the file).
    """
    if not replace and os.path.lexists(out):
        raise FleetError("export.exists", f"{out} exists; choose another name, or replace it with --force", 400)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.absolute().parent)
    except OSError as error:
        raise FleetError("export.failed", f"{out} cannot be made: {error}", 400) from error
    os.close(handle)
    temporary = Path(name)
    try:
        with contextlib.closing(sqlite3.connect(temporary)) as connection, one_moment(engine) as read:
            connection.execute("PRAGMA journal_mode=OFF")  # a file that is not finished is thrown away
            connection.execute("PRAGMA synchronous=OFF")
            writer = _Writer(connection, progress)
            writer.fill(read, choice or Choice(), now)
        size = temporary.stat().st_size
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        files.publish_file(temporary, out)
    except (OSError, sqlite3.Error) as error:
        raise FleetError("export.failed", f"{out} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return ExportSummary(out, size, writer.rows, tuple(writer.problems))


def exported_columns(table: Table) -> list[str]:
    """The columns of ``table`` that are exported; empty for a table that is left out."""
    if table.name in LEFT_OUT:
        return []
    return [
        column.name
        for column in table.columns
        if not any(word in column.name for word in SECRET_WORDS) and not isinstance(column.type, LargeBinary)
    ]


class _Writer:
    """Fills the file that ``connection`` has open."""

    def __init__(self, connection: sqlite3.Connection, progress: Progress) -> None:
        self._connection = connection
        self._database = sqlite_utils.Database(connection)
        self._progress = progress
        self.rows: dict[str, int] = {}
        self.problems: list[str] = []

    def fill(self, read: Connection, choice: Choice, now: float) -> None:
        """Write every table, then indexes, references, full-text search and views."""
        tables = [table for table in metadata.sorted_tables if exported_columns(table)]
        for table in tables:
            self._copy(read, table)
        if choice.records:
            self._copy_records(read, choice)
        self._refer()
        for table in tables:
            for index in table.indexes:
                names = [column.name for column in index.columns if column.name in exported_columns(table)]
                if names:
                    self._database.table(table.name).create_index(names, if_not_exists=True)
        for name, columns in SEARCHED.items():
            found = [each for each in columns if each in self._columns(name)]
            if found:
                self._database.table(name).enable_fts(found, tokenize="unicode61")
        for name, query in VIEWS.items():
            with contextlib.suppress(sqlite3.OperationalError):
                self._connection.execute(f"EXPLAIN {query}")
                self._database.create_view(name, query)
        self._create("problems", {"id": int, "detail": str}, ("id",))
        self._insert("problems", ["id", "detail"], list(enumerate(self.problems, start=1)))
        about = {"format": FORMAT, "made_at": now, "version": __version__, "database": read.dialect.name}
        about |= {"records_since": choice.since, "records_until": choice.until}
        self._database.table("export").insert(about, columns={"records_since": float, "records_until": float})
        self._connection.commit()

    def _copy(self, read: Connection, table: Table) -> None:
        names = exported_columns(table)
        columns = [table.columns[name] for name in names]
        kinds: dict[str, type] = {}
        for column in columns:
            number = float if isinstance(column.type, Float) else int
            kinds[column.name] = number if isinstance(column.type, Float | Integer | Boolean) else str
        key = tuple(column.name for column in table.primary_key.columns if column.name in names)
        self._create(table.name, kinds, key)
        found = read.execution_options(yield_per=_ROWS).execute(select(*columns))
        for part in found.partitions(_ROWS):
            self._insert(table.name, names, [tuple(map(_plain, row)) for row in part])

    def _copy_records(self, read: Connection, choice: Choice) -> None:
        self._create("records", dict(RECORD_COLUMNS), ("device", "epoch", "seq"))
        names, unreadable = list(RECORD_COLUMNS), 0
        for part in _messages(read, choice):
            rows: list[tuple[Any, ...]] = []
            for row in part:
                found = readable_records(row)
                if found is None:
                    unreadable += 1
                    continue
                for record in found:
                    values = asdict(record)
                    rows.append(tuple(_plain(values[name]) for name in names))
            self._insert("records", names, rows)
        if unreadable:
            self.problems.append(f"records: {unreadable} stored messages cannot be read by this version")
        for column in ("received_at", "t_s", "score"):
            self._database.table("records").create_index([column])

    def _create(self, name: str, columns: dict[str, type], key: Sequence[str]) -> None:
        pk = (key[0] if len(key) == 1 else tuple(key)) if key else None
        self._database.table(name).create(columns, pk=pk)
        self.rows.setdefault(name, 0)

    def _insert(self, table: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        if not rows:
            return
        columns, places = ", ".join(f"[{name}]" for name in names), ", ".join("?" * len(names))
        self._connection.executemany(f"INSERT OR IGNORE INTO [{table}] ({columns}) VALUES ({places})", rows)  # noqa: S608  # names of ours
        self.rows[table] += len(rows)
        self._progress(table, self.rows[table])

    def _refer(self) -> None:
        """Say which columns name rows of other tables, so that Datasette links them."""
        found = [
            (table, column, *REFERENCES[column])
            for table in self.rows
            for column in self._columns(table)
            if column in REFERENCES and REFERENCES[column][0] in self.rows and table != REFERENCES[column][0]
        ]
        self._database.add_foreign_keys(found)

    def _columns(self, table: str) -> list[str]:
        return [column.name for column in self._database.table(table).columns] if table in self.rows else []


def _messages(read: Connection, choice: Choice) -> Iterator[Sequence[Any]]:
    """The messages of ``choice``, some at a time, in the order in which they were stored."""
    query = select(messages).order_by(messages.c.id).limit(_MESSAGES)
    if choice.since is not None:
        query = query.where(messages.c.received_at >= choice.since)
    if choice.until is not None:
        query = query.where(messages.c.received_at < choice.until)
    if choice.devices:
        query = query.where(messages.c.device.in_(choice.devices))
    last = 0
    while rows := read.execute(query.where(messages.c.id > last)).all():
        yield rows
        last = rows[-1].id


def _plain(value: Any) -> Any:
    """``value`` as SQLite stores it; lists and objects as JSON."""
    if isinstance(value, list | dict):
        return msgspec.json.encode(value).decode()
    return value

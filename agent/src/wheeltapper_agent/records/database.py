"""The spool's SQLite database: its schema, its state row, and what SQLite's errors mean.

Tables: ``records`` (one row a record, see :mod:`~wheeltapper_agent.records.rows`), ``meta`` (one row, ``state``: a
:class:`~wheeltapper_agent.records.state.State` as JSON behind its CRC-32), ``answered`` (ids of commands that were
answered).

Flash wears by pages, so a transaction writes as few as possible: the state is written only when records are deleted,
or every :data:`STATE_EVERY` records. Records that came after it are counted again when the database is opened.

Not done here: locks, limits, what to do about an error (:mod:`~wheeltapper_agent.records.writer`).
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from wheeltapper_agent.records.rows import KINDS, Row, checksum, decode_item, kind_of, start_of_checksums
from wheeltapper_agent.records.spool_files import delete_damaged, delete_reserve, free_bytes
from wheeltapper_agent.records.state import State
from wheeltapper_protocols.wire.messages import CaptureReport, CommandReport, Report, TelemetryRecord

__all__ = [
    "STATE_EVERY",
    "UNREADABLE",
    "DamagedError",
    "contains",
    "insert",
    "is_corrupt",
    "is_full",
    "keep_answers",
    "limit_growth",
    "open_database",
    "open_read_only",
    "read_state",
    "read_state_of_damaged",
    "transaction",
    "used_bytes",
    "write_state",
]

STATE_EVERY: Final = 256
"""The state is written at the latest when so many records were added since."""
_ANSWERED_KEPT: Final = 1000
_LAYOUT: Final = 2
"""SQLite's ``user_version`` of a database with this schema; one with another is treated as damaged."""
_SCHEMA: Final = (
    "CREATE TABLE records(seq INTEGER PRIMARY KEY, kind TEXT, payload BLOB, age_seconds FLOAT, crc INTEGER)",
    "CREATE INDEX urgent ON records(seq) WHERE kind != 'telemetry'",
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT)",
    "CREATE TABLE answered(command TEXT PRIMARY KEY)",
    f"PRAGMA user_version={_LAYOUT}",
)
_PAGE_BYTES: Final = 4096
_WRITE_VERSION_AT: Final = 18
"""Offset of the "file format write version" in a database's header ("Database File Format", section 1.3.3)."""
_WRITE_VERSION_WAL: Final = 2
_LOG_PAGES: Final = 200
"""The write-ahead log is written back to the database when it has so many pages; a full disk must have room for it."""
_LOG_KEEP_BYTES: Final = 1024 * 1024
_MAX_PAGES: Final = 2**31 - 2
"""SQLite's own limit: no bound of ours."""
_CORRUPT: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_NO_SCHEMA: Final = ("no such table", "no such column", "malformed", "unsupported file format")
"""How SQLite's messages begin when the first page, which holds the schema, is damaged."""
_SHORT_READ: Final = sqlite3.SQLITE_IOERR_SHORT_READ
_IMPOSSIBLE: Final = (sqlite3.IntegrityError, sqlite3.DataError, TypeError, ValueError, OverflowError)
"""Errors that an undamaged database never causes: a number that is taken, text where a number belongs, and the like."""
UNREADABLE: Final = (sqlite3.Error, TypeError, ValueError, OverflowError)
"""Every error that reading a damaged database may raise."""
_NO_ROOM: Final = {sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_CANTOPEN}
"""What SQLite reports on a full disk when it creates or enlarges its log or the index of its log."""
_NO_ROOM_BYTES: Final = 64 * 1024
"""A disk with less free than this is full: SQLite enlarges the index of its log by 32 KB."""


class DamagedError(sqlite3.DatabaseError):
    """SQLite can read the database, but what it holds cannot be right."""


def is_corrupt(error: Exception) -> bool:
    """Whether ``error`` means a damaged database, rather than a disk that is busy, full or read-only."""
    code = getattr(error, "sqlite_errorcode", 0)
    if code & 0xFF in _CORRUPT or code == _SHORT_READ or isinstance(error, (DamagedError, *_IMPOSSIBLE)):
        return True
    return code == sqlite3.SQLITE_ERROR and str(error).startswith(_NO_SCHEMA)


def is_full(error: Exception, path: Path) -> bool:
    """Whether ``error`` means that there is no room: on the disk of ``path``, or below the limit of the database."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_FULL or (code in _NO_ROOM and free_bytes(path) < _NO_ROOM_BYTES)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what is done in the ``with`` block, or roll all of it back.

    Raises:
        sqlite3.Error: the disk refuses; also raised by the commit at the end of the block.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


# --- opening ----------------------------------------------------------------------------------------------------------


def open_database(path: Path) -> sqlite3.Connection:
    """Open the database, create it if there is none. On a full disk the reserve and a damaged database are deleted
    to make room.

    Raises:
        sqlite3.Error: :func:`is_corrupt` tells whether it is damaged.
    """
    try:
        return _open_database(path)
    except sqlite3.Error as error:
        if not is_full(error, path):
            raise
        delete_damaged(path)
        delete_reserve(path)
        return _open_database(path)


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open a database that exists for reading, beside the agent that may be writing to it.

    Where SQLite cannot make the files that go with the database (a read-only disk), and no log belongs to it, the
    database is read as it is.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    modes = ["mode=ro"]
    log = path.with_name(path.name + "-wal")
    if not log.exists() or log.stat().st_size == 0:
        modes.append("immutable=1")
    for mode in modes:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=5, isolation_level=None)
        connection.text_factory = _decode_text
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.Error:
            connection.close()
            if mode == modes[-1]:
                raise
        else:
            return connection
    raise AssertionError("one of the modes returns or raises")


def _open_database(path: Path) -> sqlite3.Connection:
    _check_header(path)
    connection = sqlite3.connect(path, check_same_thread=False, timeout=10, isolation_level=None)
    connection.text_factory = _decode_text
    try:
        connection.execute(f"PRAGMA page_size={_PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA journal_size_limit={_LOG_KEEP_BYTES}")
        connection.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
        connection.execute("PRAGMA cache_size=-1024")
        if connection.execute("PRAGMA user_version").fetchone()[0] != _LAYOUT:
            _create_schema(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _decode_text(content: bytes) -> str:
    """Text of the database. Damaged bytes are replaced instead of raising, so that the row can be read and dropped."""
    return content.decode("utf-8", "replace")


def _check_header(path: Path) -> None:
    """Refuse a database whose header has an unknown write version: SQLite would open it read-only, for ever, although
    only a bit has flipped.

    Raises:
        DamagedError: it has.
    """
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        header = file.read(_WRITE_VERSION_AT + 1)
        if len(header) > _WRITE_VERSION_AT and header[_WRITE_VERSION_AT] > _WRITE_VERSION_WAL:
            raise DamagedError("the database's header says that it is read-only")


def _create_schema(connection: sqlite3.Connection) -> None:
    """Create the tables and the first state of an empty database, in one transaction: a kill leaves it empty.

    Raises:
        DamagedError: the database has tables already, so they are of an unknown layout.
        sqlite3.Error: the disk refuses.
    """
    with transaction(connection):
        if connection.execute("SELECT 1 FROM sqlite_master").fetchone() is not None:
            raise DamagedError("the spool's layout is not known")
        for statement in _SCHEMA:
            connection.execute(statement)
        write_state(connection, State(epoch=secrets.token_hex(8)))


def limit_growth(connection: sqlite3.Connection, path: Path | None) -> None:
    """Let the database grow by no more than a quarter of what the disk of ``path`` has free; None: without a bound."""
    pages = _MAX_PAGES
    if path is not None:
        page_bytes = int(connection.execute("PRAGMA page_size").fetchone()[0])
        # The size of the file, not page_count: pages that are only in the log have no place in the file yet.
        pages = (path.stat().st_size + free_bytes(path) // 4) // page_bytes
    connection.execute(f"PRAGMA max_page_count={pages}")


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the database that hold something. Pages that were freed do not count: SQLite uses them again."""
    pages = (
        connection.execute("PRAGMA page_count").fetchone()[0]
        - connection.execute("PRAGMA freelist_count").fetchone()[0]
    )
    return int(pages) * int(connection.execute("PRAGMA page_size").fetchone()[0])


# --- records and state ------------------------------------------------------------------------------------------------


def insert(connection: sqlite3.Connection, state: State, items: Sequence[Row]) -> None:
    """Give each record its number and store it, in the caller's transaction; ``state`` is updated."""
    rows = []
    seq, age, held, windows = state.seq, round(state.age_seconds, 1), state.held, state.windows
    start = start_of_checksums(state.epoch, age)
    for item, payload in items:
        seq += 1
        kind = KINDS[type(item)]
        rows.append((seq, kind, payload, age, checksum(start, kind, seq, payload)))
        held[kind] = held.get(kind, 0) + 1
        if type(item) is TelemetryRecord:
            windows[item.pipeline] = item.window + 1
        else:
            state.note(item)
    connection.executemany("INSERT INTO records(seq, kind, payload, age_seconds, crc) VALUES (?, ?, ?, ?, ?)", rows)
    state.seq = seq


def keep_answers(connection: sqlite3.Connection, rows: Iterable[Row]) -> bool:
    """Remember which commands the reports in ``rows`` answer, in the caller's transaction.

    Returns:
        Whether there was such a report. The newest 1,000 commands are remembered.
    """
    commands = [
        (item.body.command if isinstance(item.body, CommandReport) else item.body.command or item.body.upload,)
        for item, _ in rows
        if isinstance(item, Report) and isinstance(item.body, CaptureReport | CommandReport)
    ]
    if commands:
        connection.executemany("INSERT OR IGNORE INTO answered(command) VALUES (?)", commands)
        oldest = "DELETE FROM answered WHERE rowid <= (SELECT max(rowid) FROM answered) - ?"
        connection.execute(oldest, (_ANSWERED_KEPT,))
    return bool(commands)


def contains(connection: sqlite3.Connection, seq: int) -> bool:
    """Whether the record with number ``seq`` is in the database."""
    return connection.execute("SELECT 1 FROM records WHERE seq = ?", (seq,)).fetchone() is not None


def write_state(connection: sqlite3.Connection, state: State) -> None:
    """Store ``state``, in the caller's transaction."""
    text = msgspec.json.encode(state)
    row = f"{zlib.crc32(text):08x}{text.decode()}"
    connection.execute("INSERT OR REPLACE INTO meta(key, value) VALUES ('state', ?)", (row,))


def read_state(connection: sqlite3.Connection) -> State:
    """The stored state, brought up to date with the records that came after it.

    Raises:
        sqlite3.Error: :func:`is_corrupt` tells whether the database is damaged.
    """
    row = connection.execute("SELECT value FROM meta WHERE key = 'state'").fetchone()
    try:
        text = str(row[0])
        if int(text[:8], 16) != zlib.crc32(text[8:].encode()):
            raise DamagedError("the spool's state has a wrong checksum")
        state = msgspec.json.decode(text[8:], type=State)
    except (TypeError, ValueError) as error:
        raise DamagedError(f"the spool's state cannot be read: {error}") from error
    query = "SELECT seq, kind, payload, age_seconds, crc FROM records WHERE seq > ? ORDER BY seq"
    for row in connection.execute(query, (state.seq,)):
        seq, kind, _, age_seconds, _ = row
        if seq != state.seq + 1:  # whoever deletes a record writes the state, so there is no gap here
            raise DamagedError(f"record {seq} follows record {state.seq}")
        state.seq = seq
        state.held[kind_of(kind)] = state.held.get(kind_of(kind), 0) + 1
        item = decode_item(state.epoch, row)
        if item is not None:
            state.note(item)
            if isinstance(age_seconds, float):
                state.age_seconds = max(state.age_seconds, age_seconds)
    return state


def read_state_of_damaged(path: Path) -> State:
    """The state of a database that is damaged or cannot be written; an empty state if it cannot be read either."""
    for mode in ("mode=ro", "immutable=1"):
        with (
            contextlib.suppress(*UNREADABLE),
            contextlib.closing(
                sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=5)
            ) as connection,
        ):
            return read_state(connection)
    return State()

"""The spool's file: schema, the row that says where it stands, and what SQLite's errors mean.

One transaction costs as few pages as can be, for flash: a record is one row, and :class:`State` (one row of ``meta``)
is written only where a record was forgotten, or every :data:`STATE_EVERY` records. What came after it is counted again
when the spool is opened. The state carries a CRC-32, as each record does (:mod:`spool_rows`).

Not done here: locks, limits, what to do about an error (:mod:`spool`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from wheeltapper_agent.records.port import NO_EPOCH
from wheeltapper_agent.records.rows import KINDS, Item, Row, checksum, decode_item, kind_of, start_of_checksums
from wheeltapper_protocols.wire.messages import Alert, CaptureReport, Report, TelemetryRecord

__all__ = [
    "STATE_EVERY",
    "UNREADABLE",
    "Damaged",
    "State",
    "damaged_of",
    "holds",
    "insert",
    "is_corrupt",
    "is_full",
    "keep_answers",
    "limit_growth",
    "open_database",
    "read_state",
    "release",
    "release_damaged",
    "reserve",
    "salvaged",
    "set_aside",
    "transaction",
    "used_bytes",
    "write_state",
]

STATE_EVERY: Final = 256
_ANSWERED_KEPT: Final = 1000
_LAYOUT: Final = 2
_PAGE_BYTES: Final = 4096
_WRITE_VERSION_AT: Final = 18
_WRITE_VERSION_WAL: Final = 2
_LOG_PAGES: Final = 200
"""Of the write-ahead log, before they are written back; what a full disk must still have room for."""
_LOG_KEEP_BYTES: Final = 1024 * 1024
_RESERVE_BYTES: Final = 1024 * 1024
_FILES: Final = ("", "-wal", "-shm")
_MAX_PAGES: Final = 2**31 - 2
_CORRUPT: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_NO_SCHEMA: Final = ("no such table", "no such column", "malformed", "unsupported file format")
_SHORT_READ: Final = sqlite3.SQLITE_IOERR_SHORT_READ
_IMPOSSIBLE: Final = (sqlite3.IntegrityError, sqlite3.DataError, TypeError, ValueError, OverflowError)
"""What reading and writing a sound file never ends in: a seq that is taken, text that is a number, and the like."""
UNREADABLE: Final = (sqlite3.Error, TypeError, ValueError, OverflowError)
"""What reading a damaged file ends in."""
_NO_ROOM: Final = {sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_CANTOPEN}
"""What a full disk is called where SQLite makes or enlarges its log and the index of that."""
_NO_ROOM_BYTES: Final = 64 * 1024
"""Less free than this is a full disk: SQLite enlarges the log's index by 32 KB."""


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what is done within, or roll all of it back.

    Raises:
        sqlite3.Error: also at the commit.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


class State(msgspec.Struct, kw_only=True):
    """Where a spool stands; counts are by kind of record."""

    epoch: str = NO_EPOCH
    seq: int = 0
    """The newest given."""
    acked: int = 0
    age_seconds: float = 0.0
    """How long the agent has run with this spool: the clock by which records grow old."""
    held: dict[str, int] = {}
    dropped: dict[str, int] = {}
    why: list[str] = []
    """Why something was dropped, each once."""
    reported: int = 0
    """How many drops the newest loss report tells of, and its seq."""
    report_seq: int = 0
    windows: dict[str, int] = {}
    """The next window, by pipeline."""
    alerts: dict[str, str] = {}
    """The severity of the alert that is open, by pipeline."""

    def copy(self) -> State:
        """One that can be changed without changing this one."""
        return msgspec.structs.replace(
            self,
            held=dict(self.held),
            dropped=dict(self.dropped),
            why=list(self.why),
            windows=dict(self.windows),
            alerts=dict(self.alerts),
        )

    def note(self, item: Item) -> None:
        """What a record that is kept changes: the next window, the open alert."""
        if type(item) is TelemetryRecord:
            self.windows[item.pipeline] = item.window + 1
        elif type(item) is Alert:
            if item.raised:
                self.alerts[item.pipeline] = item.severity.value
            else:
                self.alerts.pop(item.pipeline, None)


def is_corrupt(error: Exception) -> bool:
    """Whether the file is damaged, rather than the disk busy, full or read-only."""
    code = getattr(error, "sqlite_errorcode", 0)
    if code & 0xFF in _CORRUPT or code == _SHORT_READ or isinstance(error, (Damaged, *_IMPOSSIBLE)):
        return True
    return code == sqlite3.SQLITE_ERROR and str(error).startswith(_NO_SCHEMA)  # a damaged first page


def is_full(error: Exception, path: Path) -> bool:
    """Whether there is no room, on the disk of ``path`` or within the file's cap."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_FULL or (code in _NO_ROOM and _free_bytes(path) < _NO_ROOM_BYTES)


class Damaged(sqlite3.DatabaseError):
    """What is in the file cannot be right, although SQLite reads it."""


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")  # damaged text must reach us, so that its row can be dropped


def open_database(path: Path) -> sqlite3.Connection:
    """The connection of the hot path; makes or renews the schema. On a full disk the reserve is used for it.

    Raises:
        sqlite3.Error: see :func:`is_corrupt`.
    """
    try:
        return _open_database(path)
    except sqlite3.Error as error:
        if not is_full(error, path):
            raise
        release_damaged(path)
        release(path)
        return _open_database(path)


def _open_database(path: Path) -> sqlite3.Connection:
    _check_header(path)
    connection = sqlite3.connect(path, check_same_thread=False, timeout=10, isolation_level=None)
    connection.text_factory = _text
    try:
        connection.execute(f"PRAGMA page_size={_PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA journal_size_limit={_LOG_KEEP_BYTES}")
        connection.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
        connection.execute("PRAGMA cache_size=-1024")
        if connection.execute("PRAGMA user_version").fetchone()[0] != _LAYOUT:
            _make_schema(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_header(path: Path) -> None:
    """A flipped bit in the write version ("Database File Format", 1.3.3) makes a file read-only, for ever."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        header = file.read(_WRITE_VERSION_AT + 1)
        if len(header) > _WRITE_VERSION_AT and header[_WRITE_VERSION_AT] > _WRITE_VERSION_WAL:
            raise Damaged("the file says that it may not be written")


def _make_schema(connection: sqlite3.Connection) -> None:
    """Tables of a new spool, or those of layout 1 (before there was a version) brought up to date."""
    import sqlite_utils  # here, because an agent that finds its schema need not carry it

    try:
        _bring_up_to_date(connection, sqlite_utils.Database(connection))
    except (sqlite3.Error, OSError, MemoryError):
        raise
    except Exception as error:  # what a schema that is none does to who reads it
        raise Damaged(f"the spool's schema cannot be read: {error!r}") from error


def _bring_up_to_date(connection: sqlite3.Connection, database: Any) -> None:
    records, meta = database.table("records"), database.table("meta")
    if records.exists():  # each step alone may be the last before a kill: all can be done again
        for column, kind in (("age_seconds", float), ("crc", int)):
            if column not in records.columns_dict:
                records.add_column(column, kind)
    else:
        columns = {"seq": int, "kind": str, "payload": bytes, "age_seconds": float, "crc": int}
        records.create(columns, pk="seq")
    meta.create({"key": str, "value": str}, pk="key", if_not_exists=True)
    database.table("answered").create({"command": str}, pk="command", if_not_exists=True)
    old_windows = database.table("windows").exists()
    with transaction(connection):
        connection.execute("CREATE INDEX IF NOT EXISTS urgent ON records(seq) WHERE kind != 'telemetry'")
        write_state(connection, _state_of_layout_1(connection, old_windows))
        connection.execute("DROP TABLE IF EXISTS windows")
        connection.execute("DELETE FROM meta WHERE key != 'state'")
        connection.execute(f"PRAGMA user_version={_LAYOUT}")


def _state_of_layout_1(connection: sqlite3.Connection, windows: bool) -> State:
    old = dict(connection.execute("SELECT key, value FROM meta"))
    if "epoch" not in old:
        if "state" in old or connection.execute("SELECT 1 FROM records").fetchone() is not None:
            raise Damaged("the spool's layout is not known")
        return State(epoch=secrets.token_hex(8))
    if not {"seq", "acked"} <= old.keys():
        raise Damaged("the spool does not say where it stands")
    dropped = int(old.get("dropped", 0))
    return State(
        epoch=old["epoch"],
        seq=int(old["seq"]),
        acked=int(old["acked"]),
        held=_counted(connection.execute("SELECT kind, count(*) FROM records GROUP BY kind")),
        dropped={"telemetry": dropped} if dropped else {},
        reported=dropped,
        windows=dict(connection.execute("SELECT pipeline, next FROM windows")) if windows else {},
    )


def _counted(kinds: Iterable[tuple[object, int]]) -> dict[str, int]:
    held: dict[str, int] = {}
    for kind, count in kinds:
        held[kind_of(kind)] = held.get(kind_of(kind), 0) + count
    return held


def insert(connection: sqlite3.Connection, state: State, items: Sequence[Row]) -> None:
    """Give each item its seq and keep it, in the caller's transaction."""
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
    """Remember which commands are answered, in the caller's transaction; whether any is."""
    commands = [
        (item.body.command or item.body.upload,)
        for item, _ in rows
        if isinstance(item, Report) and isinstance(item.body, CaptureReport)
    ]
    if commands:
        connection.executemany("INSERT OR IGNORE INTO answered(command) VALUES (?)", commands)
        low = "DELETE FROM answered WHERE rowid <= (SELECT max(rowid) FROM answered) - ?"
        connection.execute(low, (_ANSWERED_KEPT,))
    return bool(commands)


def holds(connection: sqlite3.Connection, seq: int) -> bool:
    """Whether the record is there."""
    return connection.execute("SELECT 1 FROM records WHERE seq = ?", (seq,)).fetchone() is not None


def write_state(connection: sqlite3.Connection, state: State) -> None:
    """Keep ``state``, in the caller's transaction."""
    text = msgspec.json.encode(state)
    row = f"{zlib.crc32(text):08x}{text.decode()}"
    connection.execute("INSERT OR REPLACE INTO meta(key, value) VALUES ('state', ?)", (row,))


def read_state(connection: sqlite3.Connection) -> State:
    """The state as kept, brought up to the newest record.

    Raises:
        sqlite3.Error: see :func:`is_corrupt`.
    """
    row = connection.execute("SELECT value FROM meta WHERE key = 'state'").fetchone()
    if row is None and connection.execute("PRAGMA user_version").fetchone()[0] != _LAYOUT:
        return _state_of_layout_1(connection, True)
    try:
        text = str(row[0])
        if int(text[:8], 16) != zlib.crc32(text[8:].encode()):
            raise Damaged("the spool's state has a wrong checksum")
        state = msgspec.json.decode(text[8:], type=State)
    except (TypeError, ValueError) as error:
        raise Damaged(f"the spool's state cannot be read: {error}") from error
    query = "SELECT seq, kind, payload, age_seconds, crc FROM records WHERE seq > ? ORDER BY seq"
    for row in connection.execute(query, (state.seq,)):
        seq, kind, _, age_seconds, _ = row
        if seq != state.seq + 1:  # whoever makes a hole writes the state
            raise Damaged(f"seq {seq} follows {state.seq}")
        state.seq = seq
        state.held[kind_of(kind)] = state.held.get(kind_of(kind), 0) + 1
        item = decode_item(state.epoch, row)
        if item is not None:
            state.note(item)
            if isinstance(age_seconds, float):
                state.age_seconds = max(state.age_seconds, age_seconds)
    return state


def salvaged(path: Path) -> State:
    """What can still be told of a damaged database; the empty state where nothing can."""
    for mode in ("mode=ro", "immutable=1"):
        with (
            contextlib.suppress(*UNREADABLE),
            contextlib.closing(sqlite3.connect(f"file:{path}?{mode}", uri=True, timeout=5)) as connection,
        ):
            return read_state(connection)
    return State()


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the file that hold something; pages that were freed are used again."""
    pages = (
        connection.execute("PRAGMA page_count").fetchone()[0]
        - connection.execute("PRAGMA freelist_count").fetchone()[0]
    )
    return int(pages) * int(connection.execute("PRAGMA page_size").fetchone()[0])


def _reserve_of(path: Path) -> Path:
    return path.with_name(path.name + ".reserve")


def damaged_of(path: Path, suffix: str = "") -> Path:
    """Where :func:`set_aside` keeps a damaged database, or its file with ``suffix``."""
    return path.with_name(f"{path.name}.bad{suffix}")


def _free_bytes(path: Path) -> int:
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return 0
    return disk.f_bavail * disk.f_frsize


def reserve(path: Path) -> bool:
    """Have a file beside ``path`` that keeps a little of the disk; False if the disk has not twice as much."""
    file = _reserve_of(path)
    if file.exists():
        return True
    if _free_bytes(path) < 2 * _RESERVE_BYTES:
        return False
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(handle, 0, _RESERVE_BYTES)
        finally:
            os.close(handle)
    except OSError:
        release(path)
        return False
    return True


def release(path: Path) -> None:
    """Give the reserve up."""
    with contextlib.suppress(OSError):
        _reserve_of(path).unlink(missing_ok=True)


def release_damaged(path: Path) -> bool:
    """Give up what :func:`set_aside` kept; whether there was something."""
    given_up = False
    for suffix in _FILES:
        with contextlib.suppress(OSError):
            damaged_of(path, suffix).unlink()
            given_up = True
    return given_up


def limit_growth(connection: sqlite3.Connection, path: Path | None) -> None:
    """Let the file grow by a quarter of what its disk has free; None: without a bound."""
    pages = _MAX_PAGES
    if path is not None:
        page_bytes = int(connection.execute("PRAGMA page_size").fetchone()[0])
        # What is in the log alone has no place in the file yet, so not page_count.
        pages = (path.stat().st_size + _free_bytes(path) // 4) // page_bytes
    connection.execute(f"PRAGMA max_page_count={pages}")


def set_aside(path: Path) -> None:
    """Move a damaged database out of the way, as ``<name>.bad``; the one before it is gone then.

    The main file goes first: without its log it would be taken for sound, and would give the numbers in the log again.
    A log without its file is deleted by SQLite.

    Raises:
        OSError: the disk refuses.
    """
    release_damaged(path)
    for suffix in _FILES:
        old = path.with_name(path.name + suffix)
        if old.exists():
            old.replace(damaged_of(path, suffix))

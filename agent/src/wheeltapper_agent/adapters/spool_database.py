"""The spool's file: schema, the row that says where it stands, checksums, and what SQLite's errors mean.

One transaction costs as few pages as can be, for flash: a record is one row, and :class:`State` (one row of ``meta``)
is written only where a record was forgotten, or every :data:`STATE_EVERY` records. What came after it is counted again
when the spool is opened. Records and state carry a CRC-32, since SQLite has no checksums of its own: bytes that
flipped are noticed, and never sent as if they were measured.

Not done here: locks, limits, what to do about an error (:mod:`spool`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from wheeltapper_agent.ports import NO_EPOCH
from wheeltapper_protocols.messages import Alert, Report, TelemetryRecord

__all__ = [
    "KINDS",
    "STATE_EVERY",
    "Damaged",
    "Item",
    "State",
    "checksum",
    "decode_item",
    "encode_item",
    "is_corrupt",
    "is_full",
    "limit_growth",
    "open_database",
    "read_state",
    "release",
    "reserve",
    "set_aside",
    "transaction",
    "used_bytes",
    "write_state",
]

Item: TypeAlias = TelemetryRecord | Alert | Report
KINDS: Final[dict[type[Item], str]] = {TelemetryRecord: "telemetry", Alert: "alert", Report: "report"}
_DECODERS: Final[dict[str, msgspec.msgpack.Decoder[Any]]] = {
    "telemetry": msgspec.msgpack.Decoder(TelemetryRecord),
    "alert": msgspec.msgpack.Decoder(Alert),
    "report": msgspec.msgpack.Decoder(Report),
}
_ENCODER: Final = msgspec.msgpack.Encoder()
STATE_EVERY: Final = 256
_LAYOUT: Final = 2
_PAGE_BYTES: Final = 4096
_LOG_PAGES: Final = 200
"""Of the write-ahead log, before they are written back; what a full disk must still have room for."""
_LOG_KEEP_BYTES: Final = 1024 * 1024
_RESERVE_BYTES: Final = 1024 * 1024
_MAX_PAGES: Final = 2**31 - 2
_CORRUPT: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_NO_SCHEMA: Final = ("no such table", "no such column", "malformed", "unsupported file format")
_SHORT_READ: Final = sqlite3.SQLITE_IOERR_SHORT_READ


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


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether the file is damaged, rather than the disk busy, full or read-only."""
    code = getattr(error, "sqlite_errorcode", 0)
    if code & 0xFF in _CORRUPT or code == _SHORT_READ or isinstance(error, Damaged):
        return True
    return code == sqlite3.SQLITE_ERROR and str(error).startswith(_NO_SCHEMA)  # a damaged first page


def is_full(error: sqlite3.Error) -> bool:
    """Whether there is no room, on the disk or within the file's cap."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL


class Damaged(sqlite3.DatabaseError):
    """What is in the file cannot be right, although SQLite reads it."""


def encode_item(item: Item) -> bytes:
    """The bytes of a record; its seq and epoch are those of its row and are put in when it is read."""
    return _ENCODER.encode(item)


def checksum(epoch: str, seq: int, payload: bytes) -> int:
    """CRC-32 of a record in its place: one that came under another seq is noticed too."""
    return zlib.crc32(payload, zlib.crc32(f"{epoch}:{seq}".encode()))


def decode_item(epoch: str, seq: int, kind: str, crc: int | None, payload: bytes) -> Item | None:
    """The record of a row; None if the row is damaged. Rows without a CRC are of an older agent."""
    decoder = _DECODERS.get(kind)
    if decoder is None or not isinstance(payload, bytes) or (crc is not None and crc != checksum(epoch, seq, payload)):
        return None
    try:
        item: Item = decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError):
        return None
    if isinstance(item, TelemetryRecord):
        return msgspec.structs.replace(item, seq=seq)
    return msgspec.structs.replace(item, seq=seq, epoch=epoch)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")  # damaged text must reach us, so that its row can be dropped


def open_database(path: Path) -> sqlite3.Connection:
    """The connection of the hot path; makes or renews the schema.

    Raises:
        sqlite3.Error: see :func:`is_corrupt`.
    """
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


def _make_schema(connection: sqlite3.Connection) -> None:
    """Tables of a new spool, or those of layout 1 (before there was a version) brought up to date."""
    import sqlite_utils  # here, because an agent that finds its schema need not carry it

    database = sqlite_utils.Database(connection)
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
        return State(epoch=secrets.token_hex(8))
    dropped = int(old.get("dropped", 0))
    return State(
        epoch=old["epoch"],
        seq=int(old["seq"]),
        acked=int(old["acked"]),
        held=dict(connection.execute("SELECT kind, count(*) FROM records GROUP BY kind")),
        dropped={"telemetry": dropped} if dropped else {},
        reported=dropped,
        windows=dict(connection.execute("SELECT pipeline, next FROM windows")) if windows else {},
    )


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
    query = "SELECT seq, kind, crc, payload, age_seconds FROM records WHERE seq > ? ORDER BY seq"
    for seq, kind, crc, payload, age_seconds in connection.execute(query, (state.seq,)):
        state.seq = seq
        state.held[kind] = state.held.get(kind, 0) + 1
        state.age_seconds = max(state.age_seconds, age_seconds or 0.0)
        item = decode_item(state.epoch, seq, kind, crc, payload)
        if item is not None:
            state.note(item)
    return state


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the file that hold something; pages that were freed are used again."""
    pages = (
        connection.execute("PRAGMA page_count").fetchone()[0]
        - connection.execute("PRAGMA freelist_count").fetchone()[0]
    )
    return int(pages) * int(connection.execute("PRAGMA page_size").fetchone()[0])


def _reserve_of(path: Path) -> Path:
    return path.with_name(path.name + ".reserve")


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

    Raises:
        OSError: the disk refuses.
    """
    for suffix in ("-shm", "-wal", ""):
        old = path.with_name(path.name + suffix)
        kept = path.with_name(f"{path.name}.bad{suffix}")
        if old.exists():
            old.replace(kept)
        else:
            kept.unlink(missing_ok=True)

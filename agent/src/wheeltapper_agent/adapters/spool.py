"""The spool: records that the fleet does not have yet, in SQLite.

Invariants:
    * ``epoch`` is drawn once for the life of the database; ``seq`` is 1, 2, 3, … without gaps over all kinds of
    record, and a seq
      never names two records.
    * A record is forgotten only after :meth:`Spool.ack`, or, when the caps are exceeded, from the oldest on; that is
    counted.
    * A window's record and the pipeline's next window index are one transaction: a kill neither repeats nor skips an
    index.
    * A repeated command is answered once: the id is kept in the transaction of its answer.

WAL with ``synchronous=FULL``: after a power cut with NORMAL the newest transactions may be gone although their
records were sent, and
the next records would get the same seq, so the fleet would take them for duplicates. One fsync a window is what that
costs.

The hot path uses the plain connection; sqlite-utils makes the schema. Not done here: batching, sending, time-outs.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from wheeltapper_protocols.messages import Alert, CaptureReport, Report, TelemetryRecord

__all__ = ["Held", "Item", "Spool", "SpoolFigures", "read_figures"]

_LOG = logging.getLogger(__name__)
Item: TypeAlias = TelemetryRecord | Alert | Report
_KINDS: Final[dict[type[Item], str]] = {TelemetryRecord: "telemetry", Alert: "alert", Report: "report"}
_TYPES: Final[dict[str, type[Item]]] = {kind: struct for struct, kind in _KINDS.items()}
_TRIM_EVERY: Final = 64
_TABLES: Final = {"records", "meta", "windows", "answered"}


@dataclass(frozen=True, slots=True)
class Held:
    """A record in the spool."""

    seq: int
    item: Item


@dataclass(frozen=True, slots=True)
class SpoolFigures:
    """Where the spool stands."""

    epoch: str
    seq: int
    acked: int
    oldest: int
    held: int
    dropped: int


def _has_schema(path: Path) -> bool:
    """Whether the database is there and whole; a corrupt one raises."""
    if not path.exists():
        return False
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return tables >= _TABLES and {"epoch", "seq", "acked", "dropped"} <= _meta(connection).keys()


def _schema(path: Path) -> None:
    if _has_schema(path):
        return
    import sqlite_utils  # 5 MB that only a new spool needs

    database = sqlite_utils.Database(path)
    try:
        database.conn.execute("PRAGMA journal_mode=WAL")
        database["records"].create({"seq": int, "kind": str, "payload": bytes}, pk="seq", if_not_exists=True)
        database["meta"].create({"key": str, "value": str}, pk="key", if_not_exists=True)
        database["windows"].create({"pipeline": str, "next": int}, pk="pipeline", if_not_exists=True)
        database["answered"].create({"command": str}, pk="command", if_not_exists=True)
        with database.conn:
            for key, value in (("epoch", secrets.token_hex(8)), ("seq", "0"), ("acked", "0"), ("dropped", "0")):
                database.conn.execute("INSERT OR IGNORE INTO meta(key, value) VALUES (?, ?)", (key, value))
    finally:
        database.close()


def _meta(connection: sqlite3.Connection) -> dict[str, str]:
    return dict(connection.execute("SELECT key, value FROM meta"))


def read_figures(path: Path) -> SpoolFigures | None:
    """Where the spool at ``path`` stands, without opening it for writing; None if there is none."""
    if not path.exists():
        return None
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
    try:
        meta = _meta(connection)
        held, oldest = connection.execute("SELECT count(*), min(seq) FROM records").fetchone()
    except sqlite3.Error as error:
        _LOG.warning("spool.unreadable: %s", error)
        return None
    finally:
        connection.close()
    seq = int(meta["seq"])
    return SpoolFigures(meta["epoch"], seq, int(meta["acked"]), oldest or seq + 1, held, int(meta["dropped"]))


class Spool:
    """The records of one device. Safe to use from several threads.

    Args:
        path: the database; one that cannot be opened is put aside and a new epoch begins.
        max_records: beyond this the oldest are dropped and counted.
    """

    def __init__(self, path: Path, max_records: int = 1_000_000) -> None:
        self._max_records = max_records
        self._lock = threading.Lock()
        try:
            self._connection = self._open(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            _LOG.error("spool.corrupt: %s; put aside as %s.bad, a new epoch begins", error, path.name)
            for suffix in ("", "-wal", "-shm"):
                old = path.with_name(path.name + suffix)
                if old.exists():
                    old.replace(path.with_name(f"{path.name}.bad{suffix}"))
            self._connection = self._open(path)
        meta = _meta(self._connection)
        self.epoch = meta["epoch"]
        self._seq, self._acked, self._dropped = int(meta["seq"]), int(meta["acked"]), int(meta["dropped"])
        self._windows: dict[str, int] = dict(self._connection.execute("SELECT pipeline, next FROM windows"))
        self.appended = threading.Condition()

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        _schema(path)
        connection = sqlite3.connect(path, check_same_thread=False, timeout=10)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def append(self, *items: Item) -> None:
        """Give each item its seq (and epoch) and keep it; durable on return."""
        with self._lock:
            seq, windows = self._seq, {}
            rows: list[tuple[int, str, bytes]] = []
            answered: list[tuple[str]] = []
            for item in items:
                seq += 1
                if isinstance(item, TelemetryRecord):
                    windows[item.pipeline] = item.window + 1
                    numbered: Item = msgspec.structs.replace(item, seq=seq)
                else:
                    numbered = msgspec.structs.replace(item, seq=seq, epoch=self.epoch)
                    if isinstance(item, Report) and isinstance(item.body, CaptureReport):
                        answered.append((item.body.command,))
                rows.append((seq, _KINDS[type(item)], msgspec.msgpack.encode(numbered)))
            with self._connection as connection:
                connection.executemany("INSERT INTO records(seq, kind, payload) VALUES (?, ?, ?)", rows)
                connection.execute("UPDATE meta SET value = ? WHERE key = 'seq'", (str(seq),))
                connection.executemany("INSERT OR REPLACE INTO windows(pipeline, next) VALUES (?, ?)", windows.items())
                connection.executemany("INSERT OR IGNORE INTO answered(command) VALUES (?)", answered)
            self._seq = seq
            self._windows.update(windows)
            if seq % _TRIM_EVERY < len(rows):
                try:
                    self._trim()
                except sqlite3.Error as error:  # the items are in: an error here would have them appended again
                    _LOG.error("spool.storage: trimming: %s", error)
        with self.appended:
            self.appended.notify_all()

    def _trim(self) -> None:
        low = self._seq - self._max_records
        if low <= self._acked:
            return
        with self._connection as connection:
            gone = connection.execute("DELETE FROM records WHERE seq <= ?", (low,)).rowcount
            if gone:
                self._dropped += gone
                connection.execute("UPDATE meta SET value = ? WHERE key = 'dropped'", (str(self._dropped),))
                _LOG.warning("spool.full: %d oldest records dropped", gone)

    def peek(self, after: int, limit: int, kinds: Sequence[str]) -> list[Held]:
        """Up to ``limit`` records of ``kinds`` with a seq above ``after``, in rising seq."""
        marks = ",".join("?" * len(kinds))
        query = f"SELECT seq, kind, payload FROM records WHERE seq > ? AND kind IN ({marks}) ORDER BY seq LIMIT ?"  # noqa: S608  # only question marks are put in
        with self._lock:
            rows = self._connection.execute(query, (after, *kinds, limit)).fetchall()
        return [Held(seq, msgspec.msgpack.decode(payload, type=_TYPES[kind])) for seq, kind, payload in rows]

    def ack(self, epoch: str, seq: int) -> bool:
        """Forget every record up to ``seq``. Another epoch's or an old ack does nothing; True if it did."""
        with self._lock:
            seq = min(seq, self._seq)
            if epoch != self.epoch or seq <= self._acked:
                return False
            with self._connection as connection:
                connection.execute("DELETE FROM records WHERE seq <= ?", (seq,))
                connection.execute("UPDATE meta SET value = ? WHERE key = 'acked'", (str(seq),))
            self._acked = seq
            return True

    def figures(self) -> SpoolFigures:
        """Where the spool stands."""
        with self._lock:
            held, oldest = self._connection.execute("SELECT count(*), min(seq) FROM records").fetchone()
            return SpoolFigures(self.epoch, self._seq, self._acked, oldest or self._seq + 1, held, self._dropped)

    def oldest(self) -> int:
        """The lowest seq held; the next one to be given if none is."""
        with self._lock:
            row = self._connection.execute("SELECT min(seq) FROM records").fetchone()
            return int(row[0] or self._seq + 1)

    def next_window(self, pipeline: str) -> int:
        """The index of the next window of ``pipeline``."""
        with self._lock:
            return self._windows.get(pipeline, 0)

    def answered(self, command: str) -> bool:
        """Whether an answer to ``command`` was appended."""
        with self._lock:
            row = self._connection.execute("SELECT 1 FROM answered WHERE command = ?", (command,)).fetchone()
            return row is not None

    def close(self) -> None:
        """Close the database; what was appended stays."""
        with self._lock:
            self._connection.close()

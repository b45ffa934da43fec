"""The spool's database as a store: transactions of numbered records, and what a full or damaged disk asks for.

Invariants: those of :mod:`spool` on numbering, forgetting, drops and damage; whatever is done here is one transaction
or none. The lock is held by whoever changes anything.

Not done here: when to commit (:mod:`spool`), the file (:mod:`spool_database`), what is dropped (:mod:`spool_limits`).
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from wheeltapper_agent.records.database import (
    STATE_EVERY,
    UNREADABLE,
    Damaged,
    State,
    damaged_of,
    holds,
    insert,
    is_corrupt,
    is_full,
    keep_answers,
    limit_growth,
    open_database,
    read_state,
    release,
    release_damaged,
    reserve,
    salvaged,
    set_aside,
    transaction,
    write_state,
)
from wheeltapper_agent.records.limits import SpoolLimits, drop_acked, drop_beyond, drop_share
from wheeltapper_agent.records.port import NO_EPOCH, unnumbered_report
from wheeltapper_agent.records.rows import Item, Row, decode_item, encode_item, kind_of, of_kinds
from wheeltapper_protocols.wire.messages import LossReport, Severity, TelemetryRecord

__all__ = ["Held", "SpoolFigures", "SpoolStore", "read_figures"]

_LOG = logging.getLogger(__name__)
_ACK_SECONDS: Final = 5.0
_ACKS_TOGETHER: Final = 64
"""Acknowledged records are forgotten so many at a time, or after so long: a page less to write a commit."""
_AGE_CHECK_SECONDS: Final = 60.0
_ATTEMPTS: Final = 4


@dataclass(frozen=True, slots=True)
class Held:
    """A record in the spool."""

    seq: int
    item: Item
    before: int = 0
    """The seq held next below (or acknowledged): what lies between the two will never come."""

    @property
    def after(self) -> int | None:
        """What the message says of a hole below it, if there is one."""
        return None if self.before == self.seq - 1 else self.before


@dataclass(frozen=True, slots=True)
class SpoolFigures:
    """Where the spool stands."""

    epoch: str
    seq: int
    acked: int
    oldest: int
    held: int
    dropped: int
    dropped_by_kind: dict[str, int] = field(default_factory=dict)


def _oldest(connection: sqlite3.Connection, state: State) -> int:
    row = connection.execute("SELECT min(seq) FROM records WHERE seq > ?", (state.acked,)).fetchone()
    return int(row[0] or state.seq + 1)


def _figures(state: State, oldest: int) -> SpoolFigures:
    held, dropped = sum(state.held.values()), sum(state.dropped.values())
    return SpoolFigures(state.epoch, state.seq, state.acked, oldest, held, dropped, dict(state.dropped))


def read_figures(path: Path) -> SpoolFigures | None:
    """Where the spool at ``path`` stands, without opening it for writing; None if there is none."""
    if not path.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:
            state = read_state(connection)
            return _figures(state, _oldest(connection, state))
    except UNREADABLE as error:
        _LOG.warning("spool.unreadable: %s", error)
        return None


class SpoolStore:
    """The database of one device's spool. Safe to use from several threads.

    Args:
        path: of it; a damaged one is set aside and a new epoch begins; a disk that refuses is tried again at each use.
        limits: beyond them records are dropped and counted.
        monotonic: seconds that never jump.
        now: Unix seconds, for the loss report.
    """

    def __init__(
        self, path: Path, limits: SpoolLimits, monotonic: Callable[[], float], now: Callable[[], float]
    ) -> None:
        self._path = path
        self._limits = limits
        self._monotonic, self._now = monotonic, now
        self._lock = threading.RLock()
        self._state = State()
        self._state_dirty = False
        self._forgotten = 0
        self._forget_at = 0.0
        self._losses: list[LossReport] = []
        self._saved = 0
        self._opened_at = self._age_checked_at = monotonic()
        self._age_base = 0.0
        self._committed_at = float("-inf")
        self.urgent_commits = 0
        """Transactions so far that held an alert or a report."""
        self._limited = False
        self._maybe: sqlite3.Connection | None = None
        try:
            with self._lock:
                self._open()
                if self._losses:
                    self._write([])
        except Exception as error:  # noqa: BLE001  # SQLite, the file system and damage each have their own
            _LOG.error("spool.storage: %s; records wait in memory until the disk takes them", error)
            self._peep()

    # --- opening ------------------------------------------------------------------------------------------------------

    @property
    def _connection(self) -> sqlite3.Connection:
        return self._open()

    @property
    def epoch(self) -> str:
        """The id of this spool's life; zeros while it could not be opened yet."""
        return self._state.epoch

    @property
    def newest(self) -> int:
        """The seq given last."""
        return self._state.seq

    def _open(self) -> sqlite3.Connection:
        """The connection; opened again where the disk refused before. The lock is held.

        Raises:
            sqlite3.Error, OSError: the disk refuses.
        """
        if self._maybe is not None:
            return self._maybe
        try:
            self._take(open_database(self._path))
        except Exception as error:
            if not is_corrupt(error):
                raise
            self._renew(error)
        kept = damaged_of(self._path)
        if self._state.seq == 0 and not self._losses and kept.exists():  # killed before the new epoch's first record
            lost = salvaged(kept)
            self._losses.append(_loss(lost, "the agent ended while it was set aside"))
            self._state.windows |= lost.windows
            self._state.alerts |= lost.alerts
        return self._connection

    def _take(self, connection: sqlite3.Connection) -> None:
        try:
            state = read_state(connection)
        except BaseException:
            connection.close()
            raise
        for pipeline, window in self._state.windows.items():  # of a spool that was lost meanwhile
            state.windows.setdefault(pipeline, window)
        for pipeline, severity in self._state.alerts.items():
            state.alerts.setdefault(pipeline, severity)
        self._maybe, self._state = connection, state
        self._saved, self._forgotten, self._state_dirty = state.seq, state.acked, False
        self._age_base, self._opened_at = state.age_seconds, self._monotonic()
        self._keep_reserve()

    def _renew(self, error: Exception) -> None:
        """Set the damaged database aside and begin a new epoch; its first record tells what was lost."""
        lost = self._state if self._state.epoch != NO_EPOCH else salvaged(self._path)
        _LOG.error("spool.corrupt: %s; set aside as %s.bad, a new epoch begins", error, self._path.name)
        if self._maybe is not None:
            with contextlib.suppress(sqlite3.Error):
                self._maybe.close()
            self._maybe = None
        set_aside(self._path)
        self._losses.append(_loss(lost, str(error)))
        self._state = State(windows=dict(lost.windows), alerts=dict(lost.alerts))
        self._take(open_database(self._path))

    def _peep(self) -> None:
        """Where a spool that cannot be written stands, so that no window gets an index twice."""
        found = salvaged(self._path)
        if found.windows:
            self._state = State(windows=found.windows, alerts=found.alerts)

    # --- transactions ---------------------------------------------------------------------------------------------

    def _write(self, rows: Sequence[Row]) -> None:
        """Commit ``rows``, whatever has to be done for it: set a damaged file aside, make room on a full disk."""
        for attempt in range(_ATTEMPTS):
            try:
                self._transaction(rows)
            except Exception as error:
                if attempt == _ATTEMPTS - 1:
                    raise
                if is_corrupt(error):
                    self._renew(error)
                elif not (is_full(error, self._path) and self._make_room(drop=attempt > 0)):
                    raise
            else:
                self._keep_reserve()
                return

    def _transaction(self, rows: Sequence[Row]) -> None:
        connection = self._open()
        state, losses = self._state.copy(), list(self._losses)
        state.age_seconds = self._age_base + max(0.0, self._monotonic() - self._opened_at)
        forgets = self._state_dirty and (
            state.acked - self._forgotten >= _ACKS_TOGETHER or self._monotonic() >= self._forget_at
        )
        dirty = forgets or bool(losses)
        with transaction(connection):
            if forgets:
                drop_acked(connection, state)
            insert(connection, state, [self._report(loss) for loss in losses])
            insert(connection, state, rows)
            dirty |= keep_answers(connection, rows)
            if drop_beyond(connection, state, self._limits, self._age_due()):
                dirty = True
            dirty |= self._report_drops(connection, state)
            saves = dirty or state.seq - self._saved >= STATE_EVERY
            if saves:
                if not forgets:
                    drop_acked(connection, state)  # what is kept as acknowledged is never held
                write_state(connection, state)
        if saves:
            self._saved, self._forgotten, self._state_dirty = state.seq, state.acked, False
        telemetry = sum(type(item) is TelemetryRecord for item, _ in rows)
        self.urgent_commits += state.seq - self._state.seq > telemetry
        self._state = state
        self._committed_at = self._monotonic()
        del self._losses[: len(losses)]

    def _report(self, body: LossReport) -> Row:
        report = unnumbered_report(body, self._now())
        return report, encode_item(report)

    def _report_drops(self, connection: sqlite3.Connection, state: State) -> bool:
        """Tell of what was dropped, unless the report before still waits: then once that is gone."""
        dropped = sum(state.dropped.values())
        if dropped == state.reported or (state.report_seq > state.acked and holds(connection, state.report_seq)):
            return False
        _LOG.warning("%s: dropped so far, by kind: %s", ",".join(state.why), state.dropped)
        body = LossReport(why=",".join(sorted(state.why))[:80], counts=dict(state.dropped))
        insert(connection, state, [self._report(body)])
        state.reported, state.report_seq = dropped, state.seq
        return True

    def _age_due(self) -> bool:
        now = self._monotonic()
        if now - self._age_checked_at < _AGE_CHECK_SECONDS:
            return False
        self._age_checked_at = now
        return True

    # --- a full disk --------------------------------------------------------------------------------------------------

    def _keep_reserve(self) -> None:
        """Keep a little of the disk back: dropping records on a full one needs room for a moment. Without that reserve
        the file grows no more than the disk lets it, so that its log can always be written back."""
        if self._maybe is None:
            return
        reserved = reserve(self._path)
        if not reserved or self._limited:
            with contextlib.suppress(sqlite3.Error, OSError):  # what was committed before is committed
                limit_growth(self._maybe, None if reserved else self._path)
        self._limited = not reserved

    def _make_room(self, drop: bool) -> bool:
        """On a full disk: use the log's place again, and where that was not enough (``drop``) give up the damaged
        spool that was kept, or else some of the oldest telemetry; False if it cannot be done."""
        connection, state = self._open(), self._state.copy()
        if drop and release_damaged(self._path):
            self._keep_reserve()
            return True
        if drop:
            release(self._path)
        try:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
            if not drop:
                return True
            with transaction(connection):
                drop_acked(connection, state)
                gone = drop_share(connection, state)
                write_state(connection, state)
        except sqlite3.Error:
            return False
        self._state, self._saved, self._state_dirty = state, state.seq, False
        self._keep_reserve()
        return gone > 0

    # --- reading and forgetting ---------------------------------------------------------------------------------------

    def peek(self, after: int, limit: int, kinds: Sequence[str]) -> list[Held]:
        """Up to ``limit`` records of ``kinds`` with a seq above ``after``, in rising seq.

        A record whose bytes are damaged is dropped and counted, not given.

        Raises:
            sqlite3.Error: the disk refuses.
        """
        columns, condition = "seq, kind, payload, age_seconds, crc", of_kinds(kinds)
        query = f"SELECT {columns} FROM records WHERE seq > ? {condition} ORDER BY seq LIMIT ?"  # noqa: S608  # constants
        with self._lock:
            if self._maybe is None:
                return []
            try:
                return self._peek(query, max(after, self._state.acked), limit)
            except Exception as error:
                if not is_corrupt(error):
                    raise
                self._write_renewed(error)
                return []

    def _write_renewed(self, error: Exception) -> None:
        self._renew(error)
        self._write([])

    def _peek(self, query: str, after: int, limit: int) -> list[Held]:
        for _ in range(_ATTEMPTS):
            rows = self._connection.execute(query, (after, limit)).fetchall()
            held: list[Held] = []
            damaged: list[tuple[int, object]] = []
            previous = 0
            for row in rows:
                seq, item = row[0], decode_item(self._state.epoch, row)
                if item is None:
                    damaged.append((seq, row[1]))
                    continue
                before = seq - 1 if previous == seq - 1 else self._below(seq)
                held.append(Held(seq, item, before))
                previous = seq
            if not damaged:
                return held
            try:
                self._discard(damaged, "spool.unreadable")
            except sqlite3.OperationalError:  # a disk that refuses: the hole is not told yet
                return held
        raise Damaged("damaged records cannot be removed")

    def _below(self, seq: int) -> int:
        row = self._connection.execute("SELECT max(seq) FROM records WHERE seq < ?", (seq,)).fetchone()
        return max(int(row[0] or 0), self._state.acked)

    def discard(self, seq: int, why: str) -> None:
        """Drop one record that can never be sent; it is counted.

        Raises:
            sqlite3.Error, OSError: the disk refuses.
        """
        with self._lock:
            row = self._connection.execute("SELECT kind FROM records WHERE seq = ?", (seq,)).fetchone()
            if row is not None:
                self._discard([(seq, row[0])], why)

    def _discard(self, rows: Iterable[tuple[int, object]], why: str) -> None:
        connection, state = self._connection, self._state.copy()
        with transaction(connection):
            for seq, stored in rows:
                kind = kind_of(stored)
                connection.execute("DELETE FROM records WHERE seq = ?", (seq,))
                state.held[kind] = max(0, state.held.get(kind, 0) - 1)
                state.dropped[kind] = state.dropped.get(kind, 0) + 1
            state.why = sorted({*state.why, why})
            self._report_drops(connection, state)
            write_state(connection, state)
        self._state, self._saved = state, state.seq

    def ack(self, epoch: str, seq: int) -> bool:
        """Forget every record up to ``seq``. Another epoch's or an old ack does nothing; True if it did.

        It is kept with a later commit, at most some seconds from now: a kill before that only sends again what the
        fleet has, and the fleet acknowledges it again.
        """
        with self._lock:
            state = self._state
            if self._maybe is None or epoch != state.epoch or seq <= state.acked:
                return False
            if seq > state.seq:
                self._went_back(seq)
                return True
            query = "SELECT kind, count(*) FROM records WHERE seq > ? AND seq <= ? GROUP BY kind"
            try:
                for stored, count in self._maybe.execute(query, (state.acked, seq)).fetchall():
                    kind = kind_of(stored)
                    state.held[kind] = max(0, state.held.get(kind, 0) - count)
            except Exception as error:  # noqa: BLE001  # what is not damage passes: the fleet acknowledges it again
                if is_corrupt(error):
                    self._write_renewed(error)
                return False
            if seq == state.seq:
                state.held = {}
            state.acked = seq
            if not self._state_dirty:
                self._state_dirty, self._forget_at = True, self._monotonic() + _ACK_SECONDS
        return True

    def _went_back(self, seq: int) -> None:
        """The fleet has more than was ever given here: the file lost its newest records, and some seqs were given
        twice."""
        self._write_renewed(sqlite3.DatabaseError(f"the fleet has seq {seq}, this spool gave {self._state.seq}"))

    def figures(self) -> SpoolFigures:
        """Where the spool stands; by what is in memory where the disk cannot be read."""
        with self._lock:
            if self._maybe is None:
                return SpoolFigures(self._state.epoch, 0, 0, 1, 0, 0)
            try:
                oldest = self.oldest()
            except Exception as error:  # noqa: BLE001  # who asks how it is must get an answer
                _LOG.warning("spool.storage: %s", error)
                oldest = self._state.acked + 1
            return _figures(self._state, oldest)

    def oldest(self) -> int:
        """The lowest seq held; the next one to be given if none is.

        Raises:
            sqlite3.Error, OSError: the disk refuses.
        """
        with self._lock:
            if self._maybe is None:
                return 1
            try:
                return _oldest(self._maybe, self._state)
            except Exception as error:
                if not is_corrupt(error):
                    raise
                self._write_renewed(error)
                return 1

    def next_window(self, pipeline: str) -> int:
        """The index of the next window of ``pipeline``, committed ones only."""
        with self._lock:
            return self._state.windows.get(pipeline, 0)

    def open_alert(self, pipeline: str) -> Severity:
        """The severity of the alert of ``pipeline`` that is open, by committed records; NORMAL where none is."""
        with self._lock:
            return Severity(self._state.alerts.get(pipeline, Severity.NORMAL))

    def answered(self, command: str) -> bool:
        """Whether an answer to ``command`` was appended.

        Raises:
            sqlite3.Error, OSError: the disk refuses.
        """
        with self._lock:
            if self._maybe is None:
                return False
            try:
                row = self._maybe.execute("SELECT 1 FROM answered WHERE command = ?", (command,)).fetchone()
            except Exception as error:
                if not is_corrupt(error):
                    raise
                self._write_renewed(error)
                return False
            return row is not None


def _loss(lost: State, detail: str) -> LossReport:
    return LossReport(
        why="spool.corrupt",
        counts=dict(lost.held),
        lost_epoch=None if lost.epoch == NO_EPOCH else lost.epoch,
        first=lost.acked + 1 if lost.seq > lost.acked else 0,
        last=lost.seq,
        detail=detail[:500],
    )

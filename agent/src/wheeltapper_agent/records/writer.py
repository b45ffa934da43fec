"""Writes records into the spool's database, whatever has to be done for that: open it, set a damaged one aside, make
room on a full disk.

Invariants: those of :mod:`~wheeltapper_agent.records.spool` on numbering, deletion and damage. Every change is one
transaction: all of it or nothing. Whoever changes anything holds the lock.

Not done here: when to commit (:mod:`~wheeltapper_agent.records.spool`), reading and acknowledging
(:mod:`~wheeltapper_agent.records.store`), the schema (:mod:`~wheeltapper_agent.records.database`), which records are
dropped (:mod:`~wheeltapper_agent.records.limits`).
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from wheeltapper_agent.records.database import (
    STATE_EVERY,
    contains,
    insert,
    is_corrupt,
    is_full,
    keep_answers,
    limit_growth,
    open_database,
    read_state,
    read_state_of_damaged,
    transaction,
    write_state,
)
from wheeltapper_agent.records.limits import SpoolLimits, drop_acked, drop_beyond, drop_share
from wheeltapper_agent.records.port import NO_EPOCH, unnumbered_report
from wheeltapper_agent.records.rows import Row, encode_item, kind_of
from wheeltapper_agent.records.spool_files import (
    create_reserve,
    delete_damaged,
    delete_reserve,
    path_of_damaged,
    set_aside,
)
from wheeltapper_agent.records.state import State, loss_report
from wheeltapper_protocols.wire.messages import LossReport, TelemetryRecord

__all__ = ["ATTEMPTS", "SpoolWriter"]

_LOG = logging.getLogger(__name__)
_ACKS_TOGETHER: Final = 64
"""Acknowledged records are deleted so many at a time, or some seconds after the ack: fewer pages to write a commit."""
_AGE_CHECK_SECONDS: Final = 60.0
ATTEMPTS: Final = 4
"""How often one piece of work is tried on a database that is damaged or full."""


class SpoolWriter:
    """The writing half of one device's spool; see :class:`~wheeltapper_agent.records.store.SpoolStore`.

    Args:
        path: the database. A damaged one is set aside and a new epoch begins; a disk that refuses is tried again at
            each use.
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
        """Whether an ack is not written yet."""
        self._forgotten = 0
        """Acknowledged records up to this number are deleted."""
        self._forget_at = 0.0
        """When the next acknowledged records are deleted, however few they are."""
        self._losses: list[LossReport] = []
        """Reports about damaged spools that the next transaction writes."""
        self._saved = 0
        """The newest record of the stored state."""
        self._opened_at = self._age_checked_at = monotonic()
        self._age_base = 0.0
        """Age of the spool when it was opened."""
        self._committed_at = float("-inf")
        self.urgent_commits = 0
        """Transactions so far that held an alert or a report."""
        self._limited = False
        """Whether the database has a size limit, because there is no room for the reserve."""
        self._opened: sqlite3.Connection | None = None
        """None until the disk allows opening the database."""
        try:
            with self._lock:
                self._open()
                if self._losses:
                    self._write([])
        except Exception as error:  # noqa: BLE001  # SQLite, the file system and damage each have their own
            _LOG.error("spool.storage: %s; records wait in memory until the disk accepts them", error)
            self._read_positions()

    @property
    def epoch(self) -> str:
        """The id of this spool's life; zeros until the database could be opened."""
        return self._state.epoch

    @property
    def newest(self) -> int:
        """The number that was given last."""
        return self._state.seq

    # --- opening ------------------------------------------------------------------------------------------------------

    @property
    def _connection(self) -> sqlite3.Connection:
        return self._open()

    def _open(self) -> sqlite3.Connection:
        """The connection to the database, opened if it is not yet. The caller holds the lock.

        Raises:
            sqlite3.Error, OSError: the disk refuses.
        """
        if self._opened is not None:
            return self._opened
        try:
            self._adopt(open_database(self._path))
        except Exception as error:
            if not is_corrupt(error):
                raise
            self._start_new_epoch(error)
        damaged = path_of_damaged(self._path)
        if self._state.seq == 0 and not self._losses and damaged.exists():
            # The agent was killed after it set the database aside, before it wrote the new epoch's first record.
            lost = read_state_of_damaged(damaged)
            self._losses.append(loss_report(lost, "the agent ended while it was set aside"))
            self._state.windows |= lost.windows
            self._state.alerts |= lost.alerts
        return self._connection

    def _adopt(self, connection: sqlite3.Connection) -> None:
        """Use ``connection`` from now on, and the state in its database. Windows and alerts that are known already are
        kept: they are of a spool that was lost just before."""
        try:
            state = read_state(connection)
        except BaseException:
            connection.close()
            raise
        for pipeline, window in self._state.windows.items():
            state.windows.setdefault(pipeline, window)
        for pipeline, severity in self._state.alerts.items():
            state.alerts.setdefault(pipeline, severity)
        self._opened, self._state = connection, state
        self._saved, self._forgotten, self._state_dirty = state.seq, state.acked, False
        self._age_base, self._opened_at = state.age_seconds, self._monotonic()
        self._keep_reserve()

    def _start_new_epoch(self, error: Exception) -> None:
        """Set the damaged database aside and begin a new one; its first record will report what was lost."""
        lost = self._state if self._state.epoch != NO_EPOCH else read_state_of_damaged(self._path)
        _LOG.error(
            "spool.corrupt: %s; the spool is damaged and was renamed to %s.bad, a new one begins; check the disk",
            error,
            self._path.name,
        )
        if self._opened is not None:
            with contextlib.suppress(sqlite3.Error):
                self._opened.close()
            self._opened = None
        set_aside(self._path)
        self._losses.append(loss_report(lost, str(error)))
        self._state = State(windows=dict(lost.windows), alerts=dict(lost.alerts))
        self._adopt(open_database(self._path))

    def _start_new_epoch_and_report(self, error: Exception) -> None:
        """As :meth:`_start_new_epoch`; the report is committed at once."""
        self._start_new_epoch(error)
        self._write([])

    def _read_positions(self) -> None:
        """Read next windows and open alerts of a database that cannot be written, so that no window is given an index
        a second time."""
        found = read_state_of_damaged(self._path)
        if found.windows:
            self._state = State(windows=found.windows, alerts=found.alerts)

    # --- transactions -------------------------------------------------------------------------------------------------

    def _write(self, rows: Sequence[Row]) -> None:
        """Commit ``rows``: set a damaged database aside and make room on a full disk, as often as it takes.

        Raises:
            sqlite3.Error, OSError: the disk refuses; nothing of ``rows`` was stored.
        """
        for attempt in range(ATTEMPTS):
            try:
                self._transaction(rows)
            except Exception as error:
                if attempt == ATTEMPTS - 1:
                    raise
                if is_corrupt(error):
                    self._start_new_epoch(error)
                elif not (is_full(error, self._path) and self._make_room(drop=attempt > 0)):
                    raise
            else:
                self._keep_reserve()
                return

    def _transaction(self, rows: Sequence[Row]) -> None:
        """One transaction: delete acknowledged records, insert loss reports and ``rows``, keep the limits."""
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
                    drop_acked(connection, state)  # a record that the stored state calls acknowledged is never held
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
        """Insert a report about dropped records, unless the report before still waits for its ack: then the next one
        follows once that is gone. Returns whether one was inserted."""
        dropped = sum(state.dropped.values())
        if dropped == state.reported or (state.report_seq > state.acked and contains(connection, state.report_seq)):
            return False
        _LOG.warning("%s: records dropped so far, by kind: %s", ",".join(state.why), state.dropped)
        body = LossReport(why=",".join(sorted(state.why))[:80], counts=dict(state.dropped))
        insert(connection, state, [self._report(body)])
        state.reported, state.report_seq = dropped, state.seq
        return True

    def _age_due(self) -> bool:
        """Whether it is time to look for records that are too old; about once a minute."""
        now = self._monotonic()
        if now - self._age_checked_at < _AGE_CHECK_SECONDS:
            return False
        self._age_checked_at = now
        return True

    def _drop(self, rows: Iterable[tuple[int, object]], why: str) -> None:
        """Delete records that can never be sent, count and report them, in one transaction.

        Args:
            rows: number and stored kind of each record.
            why: the error code that the report names.

        Raises:
            sqlite3.Error: the disk refuses.
        """
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

    # --- a full disk --------------------------------------------------------------------------------------------------

    def _keep_reserve(self) -> None:
        """Have the reserve on the disk: dropping records on a full disk needs room for a moment. Where there is no room
        for the reserve, limit the database's growth instead, so that its log can always be written back."""
        if self._opened is None:
            return
        reserved = create_reserve(self._path)
        if not reserved or self._limited:
            with contextlib.suppress(sqlite3.Error, OSError):  # whatever was committed stays committed
                limit_growth(self._opened, None if reserved else self._path)
        self._limited = not reserved

    def _make_room(self, drop: bool) -> bool:
        """Make room on a full disk.

        First (not ``drop``) SQLite's log is written back, so that its pages can be used again. Where that was not
        enough (``drop``), the damaged database that was kept is deleted, or else some of the oldest telemetry.

        Returns:
            Whether it is worth trying again.
        """
        connection, state = self._open(), self._state.copy()
        if drop and delete_damaged(self._path):
            self._keep_reserve()
            return True
        if drop:
            delete_reserve(self._path)
        try:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
            if not drop:
                return True
            with transaction(connection):
                drop_acked(connection, state)
                dropped = drop_share(connection, state)
                write_state(connection, state)
        except sqlite3.Error:
            return False
        self._state, self._saved, self._state_dirty = state, state.seq, False
        self._keep_reserve()
        return dropped > 0

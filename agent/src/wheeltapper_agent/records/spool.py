"""The spool: records that the fleet does not have yet, in SQLite.

Invariants:
    * ``epoch`` is drawn once for the life of the database; ``seq`` is 1, 2, 3, … without gaps over all kinds of
      record, and a seq never names two records.
    * A record is forgotten only after :meth:`Spool.ack`, or when a limit is exceeded: the oldest telemetry first,
      alerts and reports when no telemetry is left. What was dropped is counted by kind in the same transaction, and a
      :class:`LossReport` tells the fleet.
    * What :meth:`Spool.peek` gives was committed: a seq is never sent before a power cut could not take it back.
    * A window's record and the pipeline's next window index are one transaction: a kill neither repeats nor skips an
      index.
    * A repeated command is answered once: the id is kept in the transaction of its answer.
    * A damaged database is set aside at any moment, a new epoch begins and its first record tells what was lost. A disk
      that is full or read-only loses nothing that was committed; :meth:`Spool.append` says so to its caller.

Commits are shared: threads that append at the same time wait for one transaction, and telemetry that comes within
``commit_seconds`` of the last commit waits for company until they are over, in memory; an alert or a report takes it
along at once. Until the commit such a record is not in the spool: it has no seq and is not sent. Acks are kept with a
later commit; those that a kill loses cost a repetition.

WAL with ``synchronous=FULL``: after a power cut with NORMAL the newest transactions may be gone although their records
were sent, and the next records would get the same seq, so the fleet would take them for duplicates.

Not done here: the transactions (:mod:`spool_store`), the file (:mod:`spool_database`), what is dropped
(:mod:`spool_limits`), batching, sending, time-outs.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wheeltapper_agent.records.limits import SpoolLimits
from wheeltapper_agent.records.rows import Item, Row, encode_item
from wheeltapper_agent.records.store import Held, SpoolFigures, SpoolStore, read_figures
from wheeltapper_protocols.wire.messages import TelemetryRecord

__all__ = ["Held", "Item", "Spool", "SpoolFigures", "SpoolLimits", "read_figures"]

_LOG = logging.getLogger(__name__)
_RETRY_SECONDS: Final = 1.0
_STEP_SECONDS: Final = 1.0
_TURN_SECONDS: Final = 0.02
_MAX_WAITING: Final = 2000


@dataclass(slots=True, eq=False)
class _Ticket:
    """Items on their way into a transaction, with their bytes."""

    rows: list[Row]
    waits: bool
    done: bool = False
    error: Exception | None = None


class Spool(SpoolStore):
    """The records of one device: the store, and when it commits. Safe to use from several threads.

    Args:
        path: the database; a damaged one is set aside and a new epoch begins; a disk that refuses is tried again at
            each use.
        max_records: as in :class:`SpoolLimits`, where only that one matters.
        limits: beyond them records are dropped and counted.
        commit_seconds: telemetry alone is committed no more often than this; 0: each append commits.
        monotonic: seconds that never jump.
        now: Unix seconds, for the loss report.
    """

    def __init__(
        self,
        path: Path,
        max_records: int = 1_000_000,
        *,
        limits: SpoolLimits | None = None,
        commit_seconds: float = 0.0,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._commit_seconds = commit_seconds
        self._queue_lock = threading.Lock()
        self._queue: list[_Ticket] = []
        self._waiting = 0
        self._refused = False
        self._due = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.on_commit: Callable[[], None] = lambda: None
        """Called after each commit that held records, by whoever committed; it must be quick."""
        super().__init__(path, limits or SpoolLimits(max_records), monotonic, now)

    def append(self, *items: Item) -> None:
        """Give each item its seq (and epoch) and keep it; durable on return, but for telemetry alone within
        ``commit_seconds`` of the last commit: that is durable, and sent, when they are over.

        Raises:
            sqlite3.Error, OSError: the disk refuses; none of the items was taken.
        """
        if not items:
            return
        waits = self._monotonic() - self._committed_at < self._commit_seconds
        waits = waits and all(type(item) is TelemetryRecord for item in items)
        waits = waits and not self._refused and self._waiting + len(items) <= _MAX_WAITING
        ticket = _Ticket([(item, encode_item(item)) for item in items], waits)
        with self._queue_lock:
            self._queue.append(ticket)
            self._waiting += len(items)
        if waits:
            self._commit_later()
            return
        with self._lock:
            if not ticket.done:
                self._commit()
        if ticket.error is not None:
            raise ticket.error
        self.on_commit()

    def flush(self) -> None:
        """Commit what waits.

        Raises:
            sqlite3.Error, OSError: the disk refuses; it waits on.
        """
        with self._lock:
            error = self._commit()
        if error is not None:
            raise error
        self.on_commit()

    def _commit(self) -> Exception | None:
        """One transaction for every ticket; the lock is held. Where it fails, what may wait goes on waiting."""
        with self._queue_lock:
            tickets, self._queue, self._waiting = self._queue, [], 0
        failed: Exception | None = None
        try:
            self._write([row for ticket in tickets for row in ticket.rows])
        except Exception as error:  # noqa: BLE001  # whatever it is, no ticket may be lost
            failed = error
        self._refused = failed is not None
        with self._queue_lock:
            if failed is not None:
                again = [ticket for ticket in tickets if ticket.waits]
                self._queue[:0] = again
                self._waiting += sum(len(ticket.rows) for ticket in again)
        for ticket in tickets:
            if failed is None or not ticket.waits:
                ticket.done, ticket.error = True, failed
        return failed

    def _commit_later(self) -> None:
        self._due.set()
        if self._thread is None:
            with self._queue_lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        """Commits what waits, ``commit_seconds`` after the commit before."""
        while True:
            self._due.wait()
            due_at = self._committed_at + self._commit_seconds if self._queue else self._forget_at
            left = due_at - self._monotonic()
            if left > 0:  # in steps, since telemetry may come that waits less long than an ack
                if self._closing.wait(max(_TURN_SECONDS, min(left, self._commit_seconds or _STEP_SECONDS))):
                    return
                continue
            if self._closing.is_set():
                return
            self._due.clear()
            refused = self._refused
            try:
                self.flush()
            except Exception as error:  # noqa: BLE001  # logged; a disk that fails now may be right again
                if not refused:
                    _LOG.error("spool.storage: %s; records wait", error)
                if self._closing.wait(_RETRY_SECONDS):
                    return
                self._due.set()
            else:  # what comes meanwhile waits at least so long: no need to be woken for it
                if self._closing.wait(self._commit_seconds):
                    return

    def ack(self, epoch: str, seq: int) -> bool:
        """As :meth:`SpoolStore.ack`; it is kept with a commit in a while."""
        told = super().ack(epoch, seq)
        if told:
            self._commit_later()
        return told

    def close(self) -> None:
        """Commit what waits and close the database; what was appended stays."""
        self._closing.set()
        self._due.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        with self._lock:
            if self._maybe is not None and (self._queue or self._state_dirty):
                self._forget_at = float("-inf")
                failed = self._commit()
                if failed is not None:
                    _LOG.error("spool.storage: %s; the newest records are lost", failed)
            if self._maybe is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._maybe.close()

"""The spool: records that the fleet does not have yet, in SQLite.

Invariants:
    * ``epoch`` is drawn at random once for the life of a database. ``seq`` numbers the records 1, 2, 3, … without gaps
      over all kinds, and a number never names two records.
    * A record is deleted only after :meth:`Spool.ack`, or when a limit is exceeded: the oldest telemetry first, alerts
      and reports when no telemetry is left. Dropped records are counted by kind in the same transaction, and a
      :class:`LossReport` tells the fleet.
    * :meth:`Spool.peek` gives committed records only: a record that a power cut could still take back is never sent.
    * The record of a window and the pipeline's next window index are one transaction: a kill neither repeats nor skips
      an index.
    * A repeated command is answered once: its id is stored in the transaction of the answer.
    * A damaged database is set aside whenever it is noticed, a new epoch begins, and its first record tells what was
      lost. A disk that is full or read-only loses no committed record; :meth:`Spool.append` raises.

Commits are shared. Threads that append at the same time wait for one transaction. Telemetry that comes within
``commit_seconds`` of the last commit waits in memory for the next one; an alert or a report commits it at once. Until
then such a record has no number and is not sent. Acks are written with a later commit; one that a kill loses only
makes the agent send records again.

The database runs in WAL mode with ``synchronous=FULL``. With NORMAL, a power cut could take back the newest
transactions although their records were sent; the next records would get the same numbers, and the fleet would take
them for duplicates.

Example::

    spool = Spool(Path("spool.db"), commit_seconds=1.0)
    spool.append(TelemetryRecord(seq=1, pipeline="main", window=spool.next_window("main"), t_s=0.0))
    for held in spool.peek(0, 100, ("telemetry", "alert", "report")):
        print(held.seq, held.item)
    spool.ack(spool.epoch, spool.newest)
    spool.close()

Not done here: the transactions (:mod:`~wheeltapper_agent.records.writer`), reading
(:mod:`~wheeltapper_agent.records.store`), which records are dropped (:mod:`~wheeltapper_agent.records.limits`),
batches, sending and time-outs (:mod:`~wheeltapper_agent.records.delivery`).
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

from wheeltapper_agent.records.dating import Dating
from wheeltapper_agent.records.limits import SpoolLimits
from wheeltapper_agent.records.rows import Item, Row, encode_item
from wheeltapper_agent.records.store import Held, SpoolFigures, SpoolStore, read_figures
from wheeltapper_protocols.wire.messages import TelemetryRecord

__all__ = ["SPOOL_FILE", "Held", "Item", "Spool", "SpoolFigures", "SpoolLimits", "read_figures"]

_LOG = logging.getLogger(__name__)
SPOOL_FILE: Final = "spool.sqlite"
"""In the agent's state folder."""
_RETRY_SECONDS: Final = 1.0
_LONGEST_WAIT_SECONDS: Final = 1.0
_SHORTEST_WAIT_SECONDS: Final = 0.02
_MAX_WAITING: Final = 2000
"""So many records wait in memory for a commit at most; the next one commits at once."""


@dataclass(slots=True, eq=False)
class _Append:
    """The records of one call of :meth:`Spool.append`, on their way into a transaction."""

    rows: list[Row]
    waits: bool
    """Whether they may wait for a later commit; the caller does not wait then."""
    done: bool = False
    error: Exception | None = None


class Spool(SpoolStore):
    """The records of one device: the store, and when it commits. Safe to use from several threads.

    Args:
        path: the database. A damaged one is set aside and a new epoch begins; a disk that refuses is tried again at
            each use.
        max_records: for callers that need no other limit; the same as in :class:`SpoolLimits`.
        limits: beyond them records are dropped and counted.
        commit_seconds: telemetry alone is committed no more often than this; 0: each append commits.
        monotonic: seconds that never jump.
        now: Unix seconds, for the loss report.
        dating: marks records that are made before the clock is set; None: their times are taken as they are.
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
        dating: Dating | None = None,
    ) -> None:
        self._commit_seconds = commit_seconds
        self._queue_lock = threading.Lock()
        self._queue: list[_Append] = []
        self._waiting = 0
        """How many records are in the queue."""
        self._refused = False
        """Whether the last commit failed."""
        self._due = threading.Event()
        """Set when the thread has something to commit."""
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.on_commit: Callable[[], None] = lambda: None
        """Called after each commit that held records, in the thread that committed; it must be quick."""
        super().__init__(path, limits or SpoolLimits(max_records), monotonic, now)
        self._dating = dating
        if dating is not None:
            dating.begin(self.epoch, self.newest)

    def append(self, *items: Item) -> None:
        """Give each record its number and epoch, and store it.

        The records are durable when this returns. Only telemetry without alerts and reports, within
        ``commit_seconds`` of the last commit, is committed after that time.

        Raises:
            sqlite3.Error, OSError: the disk refuses; none of the records was stored.
        """
        if not items:
            return
        waits = self._monotonic() - self._committed_at < self._commit_seconds
        waits = waits and all(type(item) is TelemetryRecord for item in items)
        waits = waits and not self._refused and self._waiting + len(items) <= _MAX_WAITING
        if self._dating is not None and not self._dating.known():
            items = tuple(self._dating.stamped(item) for item in items)
        append = _Append([(item, encode_item(item)) for item in items], waits)
        with self._queue_lock:
            self._queue.append(append)
            self._waiting += len(items)
        if waits:
            self._commit_later()
            return
        with self._lock:
            if not append.done:
                self._commit()
        if append.error is not None:
            raise append.error
        self.on_commit()

    def flush(self) -> None:
        """Commit the records and acks that wait in memory.

        Raises:
            sqlite3.Error, OSError: the disk refuses; they go on waiting.
        """
        with self._lock:
            error = self._commit()
        if error is not None:
            raise error
        self.on_commit()

    def _commit(self) -> Exception | None:
        """Commit all of the queue in one transaction. The caller holds the lock.

        Returns:
            The error if the transaction failed; records that may wait are in the queue again then.
        """
        with self._queue_lock:
            appends, self._queue, self._waiting = self._queue, [], 0
        failed: Exception | None = None
        try:
            self._write([row for append in appends for row in append.rows])
        except Exception as error:  # noqa: BLE001  # whatever it is, no record may be lost
            failed = error
        self._refused = failed is not None
        with self._queue_lock:
            if failed is not None:
                again = [append for append in appends if append.waits]
                self._queue[:0] = again
                self._waiting += sum(len(append.rows) for append in again)
        for append in appends:
            if failed is None or not append.waits:
                append.done, append.error = True, failed
        return failed

    def _commit_later(self) -> None:
        """Have the thread commit when it is time; the first call starts the thread."""
        self._due.set()
        if self._thread is None:
            with self._queue_lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        """The thread: commit the queue ``commit_seconds`` after the last commit, and acks some seconds after they
        came."""
        while True:
            self._due.wait()
            due_at = self._committed_at + self._commit_seconds if self._queue else self._forget_at
            left = due_at - self._monotonic()
            if left > 0:  # in short waits: telemetry may come, which is due sooner than an ack
                wait_seconds = min(left, self._commit_seconds or _LONGEST_WAIT_SECONDS)
                if self._closing.wait(max(_SHORTEST_WAIT_SECONDS, wait_seconds)):
                    return
                continue
            if self._closing.is_set():
                return
            self._due.clear()
            refused = self._refused
            try:
                self.flush()
            except Exception as error:  # noqa: BLE001  # logged; a disk that fails now may work again later
                if not refused:
                    _LOG.error("spool.storage: %s; records wait in memory until the disk accepts them", error)
                if self._closing.wait(_RETRY_SECONDS):
                    return
                self._due.set()
            else:  # records that come now wait at least so long, so the thread need not wake for them
                if self._closing.wait(self._commit_seconds):
                    return

    def ack(self, epoch: str, seq: int) -> bool:
        """See :meth:`~wheeltapper_agent.records.store.SpoolStore.ack`; the thread commits it some seconds later."""
        changed = super().ack(epoch, seq)
        if changed:
            self._commit_later()
        return changed

    def close(self) -> None:
        """Commit the records and acks that wait in memory, and close the database."""
        self._closing.set()
        self._due.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        with self._lock:
            if self._opened is not None and (self._queue or self._state_dirty):
                self._forget_at = float("-inf")
                failed = self._commit()
                if failed is not None:
                    _LOG.error("spool.storage: %s; the records that waited in memory are lost", failed)
            if self._opened is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._opened.close()

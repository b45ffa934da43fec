"""The spool's database as a store: numbered records are read, acknowledged and dropped.

Invariants: those of :mod:`~wheeltapper_agent.records.spool` on numbering, deletion and damage.

Not done here: writing records (:mod:`~wheeltapper_agent.records.writer`), when to commit
(:mod:`~wheeltapper_agent.records.spool`).
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from wheeltapper_agent.records.database import UNREADABLE, DamagedError, is_corrupt, read_state
from wheeltapper_agent.records.rows import Item, decode_item, kind_of, of_kinds
from wheeltapper_agent.records.state import State
from wheeltapper_agent.records.writer import ATTEMPTS, SpoolWriter
from wheeltapper_protocols.wire.messages import Severity

__all__ = ["Held", "SpoolFigures", "SpoolStore", "read_figures"]

_LOG = logging.getLogger(__name__)
_ACK_SECONDS: Final = 5.0
"""An ack is written with the first commit after so long, at the latest."""


@dataclass(frozen=True, slots=True)
class Held:
    """A record in the spool."""

    seq: int
    item: Item
    before: int = 0
    """The number of the next record below that is held, or that is acknowledged. Records in between do not exist any
    more."""

    @property
    def after(self) -> int | None:
        """``before``, if records are missing right below this one, else None: the ``after`` of a wire message."""
        return None if self.before == self.seq - 1 else self.before


@dataclass(frozen=True, slots=True)
class SpoolFigures:
    """Where the spool stands, for status and delivery."""

    epoch: str
    seq: int
    """The number that was given last."""
    acked: int
    """The fleet has every record up to this number."""
    oldest: int
    """The lowest number that is held; the next one to be given where none is."""
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
    """Where the spool at ``path`` stands, without opening it for writing. For ``status`` while the agent does not run.

    Returns:
        None if there is no spool, or if it cannot be read.
    """
    if not path.exists():
        return None
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
        ) as connection:
            state = read_state(connection)
            return _figures(state, _oldest(connection, state))
    except UNREADABLE as error:
        _LOG.warning("spool.unreadable: %s cannot be read: %s", path, error)
        return None


class SpoolStore(SpoolWriter):
    """The database of one device's spool. Safe to use from several threads.

    Args: those of :class:`~wheeltapper_agent.records.writer.SpoolWriter`.
    """

    def peek(self, after: int, limit: int, kinds: Sequence[str]) -> list[Held]:
        """Read records without deleting them. A damaged one is dropped and counted instead.

        Args:
            after: only records with a higher number.
            limit: at most so many.
            kinds: some of ``telemetry``, ``alert``, ``report``.

        Returns:
            The records in rising order of their numbers; none while the database could not be opened.

        Raises:
            sqlite3.Error: the disk refuses.
        """
        columns, condition = "seq, kind, payload, age_seconds, crc", of_kinds(kinds)
        query = f"SELECT {columns} FROM records WHERE seq > ? {condition} ORDER BY seq LIMIT ?"  # noqa: S608  # constants
        with self._lock:
            if self._opened is None:
                return []
            try:
                return self._peek(query, max(after, self._state.acked), limit)
            except Exception as error:
                if not is_corrupt(error):
                    raise
                self._start_new_epoch_and_report(error)
                return []

    def _peek(self, query: str, after: int, limit: int) -> list[Held]:
        for _ in range(ATTEMPTS):
            rows = self._connection.execute(query, (after, limit)).fetchall()
            held: list[Held] = []
            damaged: list[tuple[int, object]] = []
            previous = 0
            for row in rows:
                seq, item = row[0], decode_item(self._state.epoch, row)
                if item is None:
                    damaged.append((seq, row[1]))
                    continue
                before = seq - 1 if previous == seq - 1 else self._next_below(seq)
                held.append(Held(seq, item, before))
                previous = seq
            if not damaged:
                return held
            try:
                self._drop(damaged, "spool.unreadable")
            except sqlite3.OperationalError:  # the disk refuses: the damaged records are dropped and reported later
                return held
        raise DamagedError("damaged records cannot be removed")

    def _next_below(self, seq: int) -> int:
        """The highest number below ``seq`` that is held or acknowledged."""
        row = self._connection.execute("SELECT max(seq) FROM records WHERE seq < ?", (seq,)).fetchone()
        return max(int(row[0] or 0), self._state.acked)

    def discard(self, seq: int, why: str) -> None:
        """Drop one record that can never be sent; it is counted and reported.

        Args:
            seq: its number; nothing is done where there is no such record.
            why: the error code that the report names.

        Raises:
            sqlite3.Error, OSError: the disk refuses.
        """
        with self._lock:
            row = self._connection.execute("SELECT kind FROM records WHERE seq = ?", (seq,)).fetchone()
            if row is not None:
                self._drop([(seq, row[0])], why)

    def ack(self, epoch: str, seq: int) -> bool:
        """Take note that the fleet has every record of ``epoch`` up to ``seq``; they are deleted with a later commit.

        A kill before that commit only sends records again that the fleet has, and the fleet acknowledges them again.

        Returns:
            False if nothing changed: the ack is of another epoch, or an old one.
        """
        with self._lock:
            state = self._state
            if self._opened is None or epoch != state.epoch or seq <= state.acked:
                return False
            if seq > state.seq:
                # The file lost its newest records, e.g. an old copy was put back: numbers would be given twice.
                message = f"the fleet has record {seq}, but this spool gave only {state.seq}"
                self._start_new_epoch_and_report(sqlite3.DatabaseError(message))
                return True
            query = "SELECT kind, count(*) FROM records WHERE seq > ? AND seq <= ? GROUP BY kind"
            try:
                for stored, count in self._opened.execute(query, (state.acked, seq)).fetchall():
                    kind = kind_of(stored)
                    state.held[kind] = max(0, state.held.get(kind, 0) - count)
            except Exception as error:  # noqa: BLE001  # other errors pass by: the fleet acknowledges again
                if is_corrupt(error):
                    self._start_new_epoch_and_report(error)
                return False
            if seq == state.seq:
                state.held = {}
            state.acked = seq
            if not self._state_dirty:
                self._state_dirty, self._forget_at = True, self._monotonic() + _ACK_SECONDS
        return True

    def figures(self) -> SpoolFigures:
        """Where the spool stands. Where the disk cannot be read, what is known in memory."""
        with self._lock:
            if self._opened is None:
                return SpoolFigures(self._state.epoch, 0, 0, 1, 0, 0)
            try:
                oldest = self.oldest()
            except Exception as error:  # noqa: BLE001  # a question for the status is always answered
                _LOG.warning("spool.storage: the spool cannot be read: %s", error)
                oldest = self._state.acked + 1
            return _figures(self._state, oldest)

    def oldest(self) -> int:
        """The lowest number that is held; the next one to be given if none is.

        Raises:
            sqlite3.Error, OSError: the disk refuses.
        """
        with self._lock:
            if self._opened is None:
                return 1
            try:
                return _oldest(self._opened, self._state)
            except Exception as error:
                if not is_corrupt(error):
                    raise
                self._start_new_epoch_and_report(error)
                return 1

    def next_window(self, pipeline: str) -> int:
        """The index of the next window of ``pipeline``, counting committed records only."""
        with self._lock:
            return self._state.windows.get(pipeline, 0)

    def open_alert(self, pipeline: str) -> Severity:
        """The severity of the open alert of ``pipeline``, counting committed records only; NORMAL if none is open."""
        with self._lock:
            return Severity(self._state.alerts.get(pipeline, Severity.NORMAL))

    def answered(self, command: str) -> bool:
        """Whether a report that answers the command with id ``command`` is or was in this spool.

        Raises:
            sqlite3.Error, OSError: the disk refuses.
        """
        with self._lock:
            if self._opened is None:
                return False
            try:
                row = self._opened.execute("SELECT 1 FROM answered WHERE command = ?", (command,)).fetchone()
            except Exception as error:
                if not is_corrupt(error):
                    raise
                self._start_new_epoch_and_report(error)
                return False
            return row is not None

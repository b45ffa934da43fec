"""The ingest: messages from the broker are read, batched, applied, committed and then acknowledged.

Invariants:
    * An acknowledgement is published only after the commit that it covers.
    * The queue is bounded; when it is full, messages are dropped and counted: devices send again what is not
      acknowledged.
    * No payload stops the service: what cannot be read or stored is counted in ``refused`` with its code.
    * A fault of the database (locked, full, gone, all its connections taken) says nothing of a message: the same
      batch is tried again until the database has it (:mod:`wheeltapper_fleet.db.faults`).

What this module does not do: know what a message means (:mod:`wheeltapper_fleet.ingest.apply`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine

from wheeltapper_fleet.db.faults import database_fault
from wheeltapper_fleet.ground.publication import Publication
from wheeltapper_fleet.ingest.apply import apply_batch
from wheeltapper_fleet.ingest.backlog import Backlog
from wheeltapper_fleet.ingest.message import DeviceMessage, read_message
from wheeltapper_fleet.telemetry.rules import Refusal

__all__ = ["Ingest", "IngestCounts", "Publish"]

_LOG: Final = logging.getLogger(__name__)
_FIRST_RETRY_SECONDS: Final = 0.2
_LAST_RETRY_SECONDS: Final = 5.0

Publish = Callable[[str, bytes, bool], None]
"""Publishes ``(topic, payload, retain)``."""


@dataclass
class IngestCounts:
    """What has happened since the start."""

    messages: int = 0
    records: int = 0
    refused: int = 0
    overflowed: int = 0
    """Messages that were dropped because the queue was full."""
    commits: int = 0


class Ingest:
    """One worker thread between :meth:`offer` and the database.

    Args:
        engine: the fleet's database.
        publish: called on the worker's thread, after the commit.
        queue_messages: how many messages may wait,
        queue_bytes: and how many bytes of them.
        batch_messages: a transaction takes up to this many messages,
        batch_bytes: of about so many bytes,
        batch_seconds: that came within this time.
        clock: Unix seconds.
        address_of: gives where a device's newest connection comes from; empty if that is not known.
    """

    def __init__(
        self,
        engine: Engine,
        publish: Publish,
        *,
        queue_messages: int = 50_000,
        queue_bytes: int = 64 * 1024 * 1024,
        batch_messages: int = 2000,
        batch_bytes: int = 4 * 1024 * 1024,
        batch_seconds: float = 0.05,
        clock: Callable[[], float] = time.time,
        address_of: Callable[[str], str] = lambda device: "",
    ) -> None:
        self.counts = IngestCounts()
        self._engine = engine
        self._publish = publish
        self._backlog = Backlog(
            max_messages=queue_messages,
            max_bytes=queue_bytes,
            batch_messages=batch_messages,
            batch_bytes=batch_bytes,
            gather_seconds=batch_seconds,
        )
        self._clock = clock
        self._address_of = address_of
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def offer(self, topic: str, payload: bytes) -> None:
        """Take a message; it is dropped when the queue is full. Never blocks."""
        if not self._backlog.put(topic, payload):
            self.counts.overflowed += 1

    def start(self) -> None:
        """Start the worker thread."""
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Store the messages that wait, then end the thread."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def process(self, batch: Sequence[tuple[str, bytes]]) -> None:
        """Store one batch of ``(topic, payload)`` and acknowledge it; waits while the database does not answer."""
        results = [read_message(topic, payload) for topic, payload in batch]
        messages = [each for each in results if isinstance(each, DeviceMessage)]
        refusals = [each for each in results if isinstance(each, Refusal)]
        self.counts.messages += len(batch)
        try:
            self._commit(messages, refusals)
        except Exception as error:  # noqa: BLE001  # the service goes on, whatever came
            _LOG.warning(
                "a batch of %d messages cannot be stored (%s); storing them one by one",
                len(batch),
                type(error).__name__,
            )
            self._commit_one_by_one(messages, refusals)

    def _commit_one_by_one(self, messages: Sequence[DeviceMessage], refusals: Sequence[Refusal]) -> None:
        """Store each message in a transaction of its own, so that one that cannot be stored spoils no other."""
        all_refusals = list(refusals)
        for each in messages:
            try:
                self._commit([each], [])
            except Exception as error:  # noqa: BLE001  # the service goes on, whatever came
                _LOG.error("a message of %s cannot be stored and is refused: %s", each.device, type(error).__name__)
                all_refusals.append(Refusal(each.device, "ingest.unstorable", type(error).__name__))
        self._commit([], all_refusals)

    def _commit(self, messages: Sequence[DeviceMessage], refusals: Sequence[Refusal]) -> None:
        pause_seconds, tries = _FIRST_RETRY_SECONDS, 1
        while True:
            try:
                with self._engine.begin() as connection:
                    applied = apply_batch(connection, messages, refusals, self._clock(), self._address_of)
                break
            except Exception as error:
                fault = database_fault(error)
                if fault is None:
                    raise
                if self._stopping.is_set():
                    _LOG.error("stopping although a batch could not be stored; devices will send it again")
                    return
                if tries == 1:
                    _LOG.error("the database does not take what devices send (%s); trying again until it does", fault)
                self._stopping.wait(pause_seconds)
                pause_seconds = min(pause_seconds * 2, _LAST_RETRY_SECONDS)
                tries += 1
        if tries > 1:
            _LOG.warning("the database takes what devices send again, at try %d", tries)
        self.counts.commits += 1
        self.counts.refused += len(refusals)
        self.counts.records += applied.records
        self._answer(applied.publications)

    def _answer(self, publications: Sequence[Publication]) -> None:
        """Publish what follows from a commit. What cannot be published is said again when the device asks again."""
        try:
            for each in publications:
                self._publish(each.topic, each.payload, each.retain)
        except Exception:  # noqa: BLE001  # the batch is stored all the same
            _LOG.exception("answers to devices could not be published")

    def _run(self) -> None:
        while not (self._stopping.is_set() and self._backlog.empty()):
            try:
                if batch := self._backlog.take(hurry=self._stopping.is_set()):
                    self.process(batch)
            except Exception:  # noqa: BLE001  # the service goes on, whatever came
                _LOG.exception("a batch could not be stored; devices will send it again")

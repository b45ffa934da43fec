"""From the broker into the database: reads, batches, commits, then acknowledges.

Invariants:
    * An ack is said only after the commit that it covers.
    * The queue is bounded; when it is full, messages are dropped and counted: devices send again what is not
      acknowledged.
    * No payload stops the service: what cannot be read or stored is counted in ``refused`` with its code. A database
      that does not answer is tried again with the same batch.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from wheeltapper_fleet.ingest.store import Heard, Outcome, Refusal, store
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.codec import decode
from wheeltapper_protocols.wire.ids import device_id
from wheeltapper_protocols.wire.messages import Ack, Command
from wheeltapper_protocols.wire.topics import parse_up_topic

__all__ = ["Ingest", "Publish", "read"]

_LOG: Final = logging.getLogger(__name__)
_NOBODY: Final = "unknown"
Publish = Callable[[str, bytes, bool], None]


def read(topic: str, payload: bytes) -> Heard | Refusal:
    """What one message says, or why it is refused. Never raises."""
    device = _NOBODY
    try:
        parts = topic.split("/")
        device = device_id(parts[2]) if len(parts) > 2 else _NOBODY
        device, kind = parse_up_topic(topic)
        message = decode(kind, payload)
    except WireError as error:
        return Refusal(device, error.code, error.message)
    if isinstance(message, Command | Ack):
        return Refusal(device, "wire.topic", "a device may not say this")
    return Heard(device, message)


@dataclass
class IngestCounts:
    """What has happened since the start."""

    messages: int = 0
    records: int = 0
    refused: int = 0
    overflowed: int = 0
    commits: int = 0


class Ingest:
    """One worker thread between :meth:`offer` and the database.

    Args:
        publish: says ``(topic, payload, retain)``; called on the worker's thread, after the commit.
        batch_messages, batch_seconds: a transaction takes what came within this time, up to this many.
    """

    def __init__(
        self,
        engine: Engine,
        publish: Publish,
        *,
        queue_messages: int = 20_000,
        batch_messages: int = 500,
        batch_seconds: float = 0.05,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.counts = IngestCounts()
        self._engine = engine
        self._publish = publish
        self._queue: queue.Queue[tuple[str, bytes]] = queue.Queue(queue_messages)
        self._batch_messages = batch_messages
        self._batch_seconds = batch_seconds
        self._clock = clock
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def offer(self, topic: str, payload: bytes) -> None:
        """Take a message; drops it when the queue is full. Never blocks."""
        try:
            self._queue.put_nowait((topic, payload))
        except queue.Full:
            self.counts.overflowed += 1

    def start(self) -> None:
        """Work on a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Store what has come, then end."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def process(self, batch: Sequence[tuple[str, bytes]]) -> None:
        """Store one batch and acknowledge it; waits while the database does not answer."""
        results = [read(topic, payload) for topic, payload in batch]
        heard = [each for each in results if isinstance(each, Heard)]
        refusals = [each for each in results if isinstance(each, Refusal)]
        self.counts.messages += len(batch)
        try:
            self._commit(heard, refusals)
        except Exception as error:  # noqa: BLE001  # the service goes on, whatever came
            _LOG.warning("a batch of %d could not be stored at once: %s", len(batch), type(error).__name__)
            self._commit_singly(heard, refusals)

    def _commit_singly(self, heard: Sequence[Heard], refusals: Sequence[Refusal]) -> None:
        """One of them is bad: find it, keep the others."""
        found = list(refusals)
        for each in heard:
            try:
                self._commit([each], [])
            except Exception as error:  # noqa: BLE001  # the service goes on, whatever came
                _LOG.exception("a message of %s could not be stored", each.device)
                found.append(Refusal(each.device, "ingest.unstorable", type(error).__name__))
        self._commit([], found)

    def _commit(self, heard: Sequence[Heard], refusals: Sequence[Refusal]) -> None:
        pause_seconds = 0.2
        while True:
            try:
                with self._engine.begin() as connection:
                    outcome = store(connection, heard, refusals, self._clock())
                break
            except OperationalError as error:
                if self._stopping.is_set():
                    _LOG.error("stopping although a batch could not be stored; devices will send it again")
                    return
                _LOG.error("the database does not answer: %s", error.orig)
                self._stopping.wait(pause_seconds)
                pause_seconds = min(pause_seconds * 2, 5.0)
        self.counts.commits += 1
        self.counts.refused += len(refusals)
        self._say(outcome)

    def _say(self, outcome: Outcome) -> None:
        self.counts.records += outcome.records
        for topic, payload, retain in outcome.publish:
            self._publish(topic, payload, retain)

    def _run(self) -> None:
        while not (self._stopping.is_set() and self._queue.empty()):
            try:
                batch = [self._queue.get(timeout=0.1)]
            except queue.Empty:
                continue
            until = time.monotonic() + self._batch_seconds
            while len(batch) < self._batch_messages and (left := until - time.monotonic()) > 0:
                try:
                    batch.append(self._queue.get(timeout=left))
                except queue.Empty:
                    break
            try:
                self.process(batch)
            except Exception:  # noqa: BLE001  # the service goes on, whatever came
                _LOG.exception("a batch was lost; devices will send it again")

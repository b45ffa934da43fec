"""From the spool to the fleet: batches, repeats, and the fleet's acks.

Invariants: nothing is taken from the spool but by an ack; what is not acked within the resend time is sent again from
the oldest on, and at once after a reconnection; at most ``max_in_flight`` telemetry records are unacked at a time. A
fleet that does not ack gets each alert and report once, and again no more than :data:`_URGENT_BATCH` a resend time.

Order: alerts and reports made since the connection came up go first and at once, each once. Then those that waited for
it or are sent again, then telemetry, each in rising seq and together at most ``catch_up_records_per_second`` (a token
bucket of one batch): a week that was missed neither floods the fleet nor starves what happens now. A hole that dropped
records left in the numbering is told by the message above it (``after``).

An idle device is quiet: the spool is asked only when something new is in it, and the thread sleeps until a batch is
due or full, something is to be sent again, or it is woken by an alert, a report, an ack or a connection.

Not done here: the connection (:mod:`mqtt`), the store (:mod:`spool`).
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from typing import Final, Protocol

import msgspec

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.rate import TokenBucket
from wheeltapper_agent.records.config import DeliveryConfig
from wheeltapper_agent.records.spool import Held, Spool
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.messages import Ack, Alert, Report, Telemetry, TelemetryRecord
from wheeltapper_protocols.wire.topics import Up

__all__ = ["Delivery", "Publisher"]

_LOG = logging.getLogger(__name__)
_URGENT: Final = ("alert", "report")
_BULK: Final = ("telemetry",)
_URGENT_BATCH: Final = 50
_RESEND_CAP_SECONDS: Final = 60.0
_FAILED_SECONDS: Final = 2.0
_BUSY_SECONDS: Final = 0.2
_IDLE_SECONDS: Final = 5.0
"""Nothing is waited for longer, whatever was missed."""


class Publisher(Protocol):
    """The connection, as delivery sees it."""

    @property
    def connected(self) -> bool: ...

    def publish(self, kind: Up, payload: bytes, retain: bool = False) -> bool: ...


class Delivery:
    """Sends what the spool holds, in a thread of its own."""

    def __init__(
        self, spool: Spool, publisher: Publisher, config: DeliveryConfig, clock: Clock, batch_records: int = 200
    ) -> None:
        self._spool = spool
        self._publisher = publisher
        self._config = config
        self._clock = clock
        self._batch_records = batch_records
        self._max_in_flight = max(config.max_in_flight, batch_records)
        rate = config.catch_up_records_per_second
        self._bucket = TokenBucket(rate, max(batch_records, _URGENT_BATCH), clock.monotonic())
        self._lock = threading.Lock()
        self._wake = threading.Condition()
        self._poked = False
        self._look_at = 0
        """The seq for which the thread looks again, whatever it is of."""
        self._urgent_seen = 0
        """The spool's urgent commits when the thread looked last."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)
        self._restart()
        spool.on_commit = self._on_commit

    def _restart(self) -> None:
        """Begin from the oldest record; what is in the spool now is what waited."""
        figures = self._spool.figures()
        self._epoch, self._live = figures.epoch, figures.seq
        self._rewind(figures.oldest)

    def _rewind(self, oldest: int) -> None:
        """Begin again from the oldest record; what was sent as it was made is now sent as what waited."""
        self._urgent = self._bulk = oldest - 1
        self._live_from = self._live = max(self._live, oldest - 1)
        self._urgent_left: float = _URGENT_BATCH
        """How many alerts and reports that waited, or are sent again, may go before the fleet acks something."""
        self._searched_live = self._searched_waiting = self._searched_bulk = 0
        """Up to there is nothing to send beyond what was sent."""
        self._flight: deque[tuple[int, int]] = deque()
        self._progress_at = self._clock.monotonic()
        self._resend_seconds = self._config.resend_seconds
        self._batch_began_at: float | None = None

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def on_connected(self) -> None:
        """A new connection: what was under way may be lost, so send it again."""
        with self._lock:
            self._restart()
        self._poke()

    def on_ack(self, ack: Ack) -> None:
        """The fleet has everything up to ``ack.seq``."""
        if not self._spool.ack(ack.epoch, ack.seq):
            return
        with self._lock:
            self._urgent, self._bulk = max(self._urgent, ack.seq), max(self._bulk, ack.seq)
            self._live = max(self._live, ack.seq)
            while self._flight and self._flight[0][0] <= ack.seq:
                self._flight.popleft()
            self._progress_at = self._clock.monotonic()
            self._resend_seconds = self._config.resend_seconds
            self._urgent_left = math.inf
            goes_on = bool(self._flight) or self._bulk < self._spool.newest
        if goes_on:
            self._poke()

    def _poke(self) -> None:
        """Have the thread look."""
        with self._wake:
            self._poked = True
            self._wake.notify_all()

    def _on_commit(self) -> None:
        if self._is_due():
            with self._wake:
                self._wake.notify_all()

    def _is_due(self) -> bool:
        """Whether the thread has something to look at."""
        if not self._publisher.connected:
            return self._poked
        return (
            self._poked
            or self._spool.newest >= self._look_at
            or self._spool.urgent_commits != self._urgent_seen  # a lost spool's first record is a report
        )

    def flush(self, timeout_seconds: float) -> bool:
        """Send what there is without waiting for batches to fill; True if the fleet acked all in time."""
        deadline = self._clock.monotonic() + timeout_seconds
        try:
            self._spool.flush()
        except Exception as error:  # noqa: BLE001  # SQLite and the file system each have their own
            _LOG.error("delivery: spool.storage: %s", error)
        while self._publisher.connected and self._clock.monotonic() < deadline:
            if self._spool.figures().held == 0:
                return True
            try:
                with self._lock:
                    self._step(flush=True)
            except Exception as error:  # noqa: BLE001  # as above: whoever ends has more to do
                _LOG.error("delivery: spool.storage: %s", error)
                break
            threading.Event().wait(0.05)
        return self._spool.figures().held == 0

    def alive(self) -> bool:
        """Whether the thread runs, or was stopped."""
        return self._thread.is_alive() or self._stopping.is_set()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._poke()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopping.is_set():
            wait_seconds = _IDLE_SECONDS
            self._poked, self._urgent_seen = False, self._spool.urgent_commits
            if self._publisher.connected:
                try:
                    with self._lock:
                        wait_seconds = self._step()
                except WireError as error:
                    _LOG.error("delivery: %s", error)
                except Exception:  # noqa: BLE001  # logged; a disk that fails now may be right again
                    _LOG.exception("delivery: spool.storage")
                    self._stopping.wait(_FAILED_SECONDS)
            if wait_seconds > 0:
                with self._wake:
                    if not self._is_due():
                        self._wake.wait(wait_seconds)

    def _step(self, flush: bool = False) -> float:
        """Send what is due; returns how long nothing will be due unless a record or an ack comes."""
        now = self._clock.monotonic()
        if self._spool.epoch != self._epoch:  # the spool was lost and began anew
            self._restart()
        newest = self._spool.newest
        self._look_at = newest + 1
        oldest = self._spool.oldest()
        unacked = max(self._urgent, self._bulk) >= oldest or self._live > max(self._live_from, oldest - 1)
        if not unacked:
            self._progress_at, self._urgent_left = now, max(self._urgent_left, _URGENT_BATCH)
        elif now - self._progress_at >= self._resend_seconds:
            resend_seconds = min(self._resend_seconds * 2, _RESEND_CAP_SECONDS)
            self._rewind(oldest)
            self._progress_at, self._resend_seconds = now, resend_seconds
        if newest > self._searched_live:
            found = self._spool.peek(max(self._live, self._searched_live), _URGENT_BATCH, _URGENT)
            for held in found:
                if not self._send_urgent(held, oldest):
                    return _BUSY_SECONDS
                self._live = held.seq
            if len(found) == _URGENT_BATCH:
                return 0.0
            self._searched_live = newest
        waited = self._send_waiting(now, oldest)
        wait_seconds = waited if waited is not None else self._send_bulk(now, oldest, newest, flush)
        return max(0.0, min(wait_seconds, self._progress_at + self._resend_seconds - now))

    def _send_waiting(self, now: float, oldest: int) -> float | None:
        """Alerts and reports of the time without a connection, or sent again; None when telemetry may go."""
        if self._searched_waiting >= self._live_from or self._urgent_left < 1:
            return None
        allowed = int(min(_URGENT_BATCH, self._urgent_left, self._bucket.available(now)))
        found = self._spool.peek(self._urgent, max(1, allowed), _URGENT)
        for held in found:
            if held.seq > self._live_from:
                self._urgent = max(self._urgent, self._live)
                break
            if allowed < 1:
                return self._pause(now, 1)
            if not self._send_urgent(held, oldest):
                return _BUSY_SECONDS
            self._bucket.take(1)
            self._urgent_left -= 1
            self._urgent = held.seq
        else:
            if len(found) == max(1, allowed):
                return 0.0  # there may be more
        self._searched_waiting = self._live_from
        return None

    def _pause(self, now: float, records: int) -> float:
        """How long until the bucket holds ``records``."""
        return max(0.01, min(0.5, self._bucket.wait_seconds(records, now)))

    def _send_urgent(self, held: Held, oldest: int) -> bool:
        item = held.item
        if not isinstance(item, Alert | Report):
            return True
        kind = Up.ALERT if isinstance(item, Alert) else Up.REPORT
        message = msgspec.structs.replace(item, oldest=min(oldest, item.seq), after=held.after)
        try:
            payload = encode(message)
        except WireError as error:
            _LOG.error("delivery: a %s can never be sent: %s", kind.value, error)
            self._spool.discard(held.seq, error.code)
            return True
        return self._publisher.publish(kind, payload)

    def _send_bulk(self, now: float, oldest: int, newest: int, flush: bool) -> float:
        if newest <= max(self._bulk, self._searched_bulk):
            self._batch_began_at = None
            return _IDLE_SECONDS
        if self._batch_began_at is None:
            self._batch_began_at = now
        left = self._config.batch_seconds - (now - self._batch_began_at)
        if not flush and left > 0 and newest - self._bulk < self._batch_records:
            self._look_at = self._bulk + self._batch_records
            return max(0.01, left)
        room = self._max_in_flight - sum(count for _, count in self._flight)
        if room <= 0:
            return _BUSY_SECONDS
        if self._bucket.available(now) < 1:
            return self._pause(now, self._batch_records)
        found = self._spool.peek(self._bulk, min(self._batch_records, room), _BULK)
        batch = _unbroken(found)
        if not batch:
            self._searched_bulk, self._batch_began_at = newest, None
            return _IDLE_SECONDS
        more = flush or len(batch) == self._batch_records or len(batch) < len(found)
        if not more and left > 0:
            self._look_at = newest + self._batch_records - len(batch)
            return max(0.01, left)
        if self._bucket.available(now) < len(batch):
            return self._pause(now, len(batch))
        payload = self._encoded(batch, oldest)
        if payload is None:
            return 0.0
        if not self._publisher.publish(Up.TELEMETRY, payload):
            return _BUSY_SECONDS
        self._bucket.take(len(batch))
        self._bulk = batch[-1].seq
        self._flight.append((self._bulk, len(batch)))
        self._batch_began_at = None
        return 0.0

    def _encoded(self, batch: list[Held], oldest: int) -> bytes | None:
        """The message of ``batch``, which is cut in place to what fits; None if even its first record does not."""
        while True:
            records = [held.item for held in batch if isinstance(held.item, TelemetryRecord)]
            first = batch[0]
            try:
                return encode(
                    Telemetry(epoch=self._epoch, oldest=min(oldest, first.seq), records=records, after=first.after)
                )
            except WireError as error:
                if len(batch) == 1:
                    _LOG.error("delivery: a telemetry record can never be sent: %s", error)
                    self._spool.discard(first.seq, error.code)
                    return None
                del batch[len(batch) // 2 :]


def _unbroken(batch: list[Held]) -> list[Held]:
    """``batch`` up to the first hole within it: a message can tell of one below its first record only."""
    for index, held in enumerate(batch[1:], start=1):
        if held.after is not None:
            return batch[:index]
    return batch

"""Sends the spool's records to the fleet: in batches, again where they are not acknowledged, and in a fair order.

Invariants:
    * A record leaves the spool only through an ack.
    * Records that are not acknowledged within the resend time are sent again, from the oldest on; after a reconnection
      this begins at once.
    * At most ``max_in_flight`` telemetry records are sent and not acknowledged.
    * A fleet that never acknowledges gets each alert and report once, and then at most :data:`_URGENT_BATCH` of them in
      one resend time.

Order: alerts and reports that are made while connected are sent first and at once, each once. Next come alerts and
reports that waited for the connection or are sent again, and last telemetry; both in rising seq and together at most
``catch_up_records_per_second`` (a token bucket of one batch). So after a week without a connection the device neither
floods the fleet nor delays what happens now. Where dropped records left a gap in the numbering, the message with the
next record above says so (``after``).

An idle device is quiet: the spool is read only when something new is in it. The thread sleeps until a batch is due or
full, something is to be sent again, or an alert, a report, an ack or a connection wakes it.

Not done here: the connection (:mod:`wheeltapper_agent.link.mqtt`), storing records
(:mod:`wheeltapper_agent.records.spool`).
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
from wheeltapper_agent.records.dating import Dating
from wheeltapper_agent.records.rows import Item
from wheeltapper_agent.records.spool import Held, Spool
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.messages import Ack, Alert, Report, Telemetry, TelemetryRecord
from wheeltapper_protocols.wire.topics import Up

__all__ = ["Delivery", "Publisher"]

_LOG = logging.getLogger(__name__)
_URGENT: Final = ("alert", "report")
_TELEMETRY: Final = ("telemetry",)
_URGENT_BATCH: Final = 50
"""Alerts and reports that are read from the spool together."""
_RESEND_MAX_SECONDS: Final = 60.0
_ERROR_SECONDS: Final = 2.0
"""Wait after an error of the disk."""
_BUSY_SECONDS: Final = 0.2
"""Wait where the connection or the fleet does not take more now."""
_IDLE_SECONDS: Final = 5.0
"""Longest wait, in case a wake-up was missed."""
_FLUSH_STEP_SECONDS: Final = 0.05


class Publisher(Protocol):
    """The connection to the broker, as delivery sees it; see :class:`wheeltapper_agent.link.mqtt.Link`."""

    @property
    def connected(self) -> bool:
        """Whether the connection stands, as far as is known."""

    def publish(self, kind: Up, payload: bytes, retain: bool = False) -> bool:
        """Publish without waiting for the broker; False if that is not possible now."""


class Delivery:
    """Sends the records of a spool, in a thread of its own.

    Args:
        spool: the records; its ``on_commit`` is set here.
        publisher: the connection.
        config: the section ``[delivery]``.
        clock: time.
        batch_records: most telemetry records in one message.
        dating: dates records that were made before the clock was set; None: they are sent as they are.
    """

    def __init__(
        self,
        spool: Spool,
        publisher: Publisher,
        config: DeliveryConfig,
        clock: Clock,
        batch_records: int = 200,
        dating: Dating | None = None,
    ) -> None:
        self._spool = spool
        self._publisher = publisher
        self._config = config
        self._batch_seconds = config.batch_seconds
        self._clock = clock
        self._batch_records = batch_records
        self._dating = dating
        self._max_in_flight = max(config.max_in_flight, batch_records)
        rate = config.catch_up_records_per_second
        self._bucket = TokenBucket(rate, max(batch_records, _URGENT_BATCH), clock.monotonic())
        self._lock = threading.Lock()
        self._wake = threading.Condition()
        self._woken = False
        """Whether somebody asked the thread to look."""
        self._wake_at_seq = 0
        """The thread looks again when the spool has a record with this number."""
        self._urgent_seen = 0
        """The spool's ``urgent_commits`` when the thread looked last."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)
        self._restart()
        spool.on_commit = self._on_commit

    def _restart(self) -> None:
        """Begin from the oldest record. All records that are in the spool now count as having waited."""
        figures = self._spool.figures()
        self._epoch, self._live = figures.epoch, figures.seq
        self._rewind(figures.oldest)

    def _rewind(self, oldest: int) -> None:
        """Send again from the record ``oldest`` on. Alerts and reports that were sent as soon as they were made are now
        sent in turn."""
        self._urgent = self._telemetry = oldest - 1
        """Alerts and reports that waited, and telemetry, are sent up to these numbers."""
        self._live_from = self._live = max(self._live, oldest - 1)
        """Alerts and reports above ``_live_from`` are sent at once; up to ``_live`` they have been."""
        self._urgent_left: float = _URGENT_BATCH
        """How many alerts and reports that waited, or are sent again, may be sent before the fleet's next ack."""
        self._searched_live = self._searched_waiting = self._searched_telemetry = 0
        """Up to these numbers the spool was searched: there is nothing else to send."""
        self._in_flight: deque[tuple[int, int]] = deque()
        """Of each telemetry message that is not acknowledged: its last number and its count of records."""
        self._progress_at = self._clock.monotonic()
        """When the fleet last acknowledged something, or nothing was unacknowledged."""
        self._resend_seconds = self._config.resend_seconds
        self._batch_began_at: float | None = None
        """Since when telemetry is gathered for the next message."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def on_connected(self) -> None:
        """To be called after each connection: send everything again that may have been lost with the one before."""
        with self._lock:
            self._restart()
        self._wake_thread()

    def on_ack(self, ack: Ack) -> None:
        """To be called with each ack: the fleet has every record up to ``ack.seq``."""
        if not self._spool.ack(ack.epoch, ack.seq):
            return
        with self._lock:
            self._urgent, self._telemetry = max(self._urgent, ack.seq), max(self._telemetry, ack.seq)
            self._live = max(self._live, ack.seq)
            while self._in_flight and self._in_flight[0][0] <= ack.seq:
                self._in_flight.popleft()
            self._progress_at = self._clock.monotonic()
            self._resend_seconds = self._config.resend_seconds
            self._urgent_left = math.inf
            goes_on = bool(self._in_flight) or self._telemetry < self._spool.newest
        if goes_on:
            self._wake_thread()

    def _wake_thread(self) -> None:
        """Have the thread look for something to send."""
        with self._wake:
            self._woken = True
            self._wake.notify_all()

    def _on_commit(self) -> None:
        """Called by the spool after each commit, in the thread that committed."""
        if self._is_due():
            with self._wake:
                self._wake.notify_all()

    def _is_due(self) -> bool:
        """Whether the thread has a reason to look for something to send."""
        if not self._publisher.connected:
            return self._woken
        return (
            self._woken
            or self._spool.newest >= self._wake_at_seq
            or self._spool.urgent_commits
            != self._urgent_seen  # also if the spool began a new epoch: its first record is a report
        )

    def flush(self, timeout_seconds: float) -> bool:
        """Send all records without waiting for full batches, before the agent ends.

        Returns:
            Whether the fleet acknowledged all of them within ``timeout_seconds``.
        """
        deadline = self._clock.monotonic() + timeout_seconds
        try:
            self._spool.flush()
        except Exception as error:  # noqa: BLE001  # SQLite and the file system raise different errors
            _LOG.error("delivery: spool.storage: %s", error)
        while self._publisher.connected and self._clock.monotonic() < deadline:
            if self._spool.figures().held == 0:
                return True
            try:
                with self._lock:
                    self._step(flush=True)
            except Exception as error:  # noqa: BLE001  # as above; the agent must go on with its end
                _LOG.error("delivery: spool.storage: %s", error)
                break
            threading.Event().wait(_FLUSH_STEP_SECONDS)
        return self._spool.figures().held == 0

    def alive(self) -> bool:
        """Whether the thread runs, or was told to end."""
        return self._thread.is_alive() or self._stopping.is_set()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._wake_thread()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        """The thread."""
        while not self._stopping.is_set():
            wait_seconds = _IDLE_SECONDS
            self._woken, self._urgent_seen = False, self._spool.urgent_commits
            if self._publisher.connected:
                try:
                    with self._lock:
                        wait_seconds = self._step()
                except WireError as error:
                    _LOG.error("delivery: %s", error)
                except Exception:  # noqa: BLE001  # logged; a disk that fails now may work again later
                    _LOG.exception("delivery: spool.storage")
                    self._stopping.wait(_ERROR_SECONDS)
            if wait_seconds > 0:
                with self._wake:
                    if not self._is_due():
                        self._wake.wait(wait_seconds)

    def _step(self, flush: bool = False) -> float:
        """Send what is due now; returns for how many seconds nothing will be due unless a record or an ack comes."""
        now = self._clock.monotonic()
        if self._spool.epoch != self._epoch:  # the spool was damaged and began a new epoch
            self._restart()
        newest = self._spool.newest
        self._wake_at_seq = newest + 1
        oldest = self._spool.oldest()
        unacked = max(self._urgent, self._telemetry) >= oldest or self._live > max(self._live_from, oldest - 1)
        if not unacked:
            self._progress_at, self._urgent_left = now, max(self._urgent_left, _URGENT_BATCH)
        elif now - self._progress_at >= self._resend_seconds:
            resend_seconds = min(self._resend_seconds * 2, _RESEND_MAX_SECONDS)
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
        waited = self._send_waiting_urgent(now, oldest)
        wait_seconds = waited if waited is not None else self._send_telemetry(now, oldest, newest, flush)
        return max(0.0, min(wait_seconds, self._progress_at + self._resend_seconds - now))

    def _send_waiting_urgent(self, now: float, oldest: int) -> float | None:
        """Send alerts and reports that waited for the connection, or that are sent again.

        Returns:
            Seconds to wait; None if all are sent, so that telemetry may be sent.
        """
        if self._searched_waiting >= self._live_from or self._urgent_left < 1:
            return None
        allowed = int(min(_URGENT_BATCH, self._urgent_left, self._bucket.available(now)))
        found = self._spool.peek(self._urgent, max(1, allowed), _URGENT)
        for held in found:
            if held.seq > self._live_from:
                self._urgent = max(self._urgent, self._live)
                break
            if allowed < 1:
                return self._wait_for_bucket(now, 1)
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

    def _wait_for_bucket(self, now: float, records: int) -> float:
        """How many seconds to wait until the rate allows ``records`` more."""
        return max(0.01, min(0.5, self._bucket.wait_seconds(records, now)))

    def _send_urgent(self, held: Held, oldest: int) -> bool:
        """Publish one alert or report; False if the connection does not take it now. One that can never be encoded is
        discarded."""
        item = self._dated(held)
        if not isinstance(item, Alert | Report):
            return True
        kind = Up.ALERT if isinstance(item, Alert) else Up.REPORT
        message = msgspec.structs.replace(item, oldest=min(oldest, item.seq), after=held.after)
        try:
            payload = encode(message)
        except WireError as error:
            _LOG.error("delivery: a %s cannot be encoded and is dropped: %s", kind.value, error)
            self._spool.discard(held.seq, error.code)
            return True
        return self._publisher.publish(kind, payload)

    def gather(self, seconds: float | None) -> None:
        """Gather telemetry for ``seconds`` from now on; None: for as long as the configuration says."""
        self._batch_seconds = self._config.batch_seconds if seconds is None else seconds

    def _send_telemetry(self, now: float, oldest: int, newest: int, flush: bool) -> float:
        """Send one batch of telemetry if it is due; returns how many seconds to wait for the next."""
        if newest <= max(self._telemetry, self._searched_telemetry):
            self._batch_began_at = None
            return _IDLE_SECONDS
        if self._batch_began_at is None:
            self._batch_began_at = now
        left = self._batch_seconds - (now - self._batch_began_at)
        if not flush and left > 0 and newest - self._telemetry < self._batch_records:
            self._wake_at_seq = self._telemetry + self._batch_records
            return max(0.01, left)
        room = self._max_in_flight - sum(count for _, count in self._in_flight)
        if room <= 0:
            return _BUSY_SECONDS
        if self._bucket.available(now) < 1:
            return self._wait_for_bucket(now, self._batch_records)
        found = self._spool.peek(self._telemetry, min(self._batch_records, room), _TELEMETRY)
        batch = _without_gaps(found)
        if not batch:
            self._searched_telemetry, self._batch_began_at = newest, None
            return _IDLE_SECONDS
        more = flush or len(batch) == self._batch_records or len(batch) < len(found)
        if not more and left > 0:
            self._wake_at_seq = newest + self._batch_records - len(batch)
            return max(0.01, left)
        if self._bucket.available(now) < len(batch):
            return self._wait_for_bucket(now, len(batch))
        payload = self._encoded(batch, oldest)
        if payload is None:
            return 0.0
        if not self._publisher.publish(Up.TELEMETRY, payload):
            return _BUSY_SECONDS
        self._bucket.take(len(batch))
        self._telemetry = batch[-1].seq
        self._in_flight.append((self._telemetry, len(batch)))
        self._batch_began_at = None
        return 0.0

    def _dated(self, held: Held) -> Item:
        """The record as it is sent: dated, if it was made before the clock was set and can be dated now."""
        if self._dating is None or not held.item.undated:
            return held.item
        return self._dating.dated(held.item, self._epoch, held.seq)

    def _encoded(self, batch: list[Held], oldest: int) -> bytes | None:
        """The message with ``batch``, which is shortened in place until the message fits.

        Returns:
            None if not even its first record fits; that record is discarded.
        """
        while True:
            items = [self._dated(held) for held in batch]
            records = [item for item in items if isinstance(item, TelemetryRecord)]
            first = batch[0]
            try:
                return encode(
                    Telemetry(epoch=self._epoch, oldest=min(oldest, first.seq), records=records, after=first.after)
                )
            except WireError as error:
                if len(batch) == 1:
                    _LOG.error("delivery: a telemetry record cannot be encoded and is dropped: %s", error)
                    self._spool.discard(first.seq, error.code)
                    return None
                del batch[len(batch) // 2 :]


def _without_gaps(batch: list[Held]) -> list[Held]:
    """``batch`` up to its first gap in the numbering: a message can only tell of a gap below its first record."""
    for index, held in enumerate(batch[1:], start=1):
        if held.after is not None:
            return batch[:index]
    return batch

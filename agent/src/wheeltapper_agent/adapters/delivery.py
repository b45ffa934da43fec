"""From the spool to the fleet: batches, repeats, and the fleet's acks.

Invariants: nothing is taken from the spool but by an ack; what is not acked within the resend time is sent again from
the oldest on, and
at once after a reconnection; at most ``max_in_flight`` telemetry records are unacked at a time; alerts and reports
never wait
behind telemetry.

Not done here: the connection (:mod:`mqtt`), the store (:mod:`spool`).
"""

from __future__ import annotations

import logging
import threading
from typing import Final, Protocol

import msgspec

from wheeltapper_agent.adapters.spool import Held, Spool
from wheeltapper_agent.config import DeliveryConfig
from wheeltapper_agent.ports import Clock
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.messages import Ack, Alert, Report, Telemetry, TelemetryRecord, encode
from wheeltapper_protocols.topics import Up

__all__ = ["Delivery", "Publisher"]

_LOG = logging.getLogger(__name__)
_URGENT: Final = ("alert", "report")
_BULK: Final = ("telemetry",)
_URGENT_BATCH: Final = 50
_RESEND_CAP_SECONDS: Final = 60.0
_FAILED_SECONDS: Final = 2.0


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
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)
        self._restart(self._acked())

    def _acked(self) -> int:
        return self._spool.oldest() - 1

    def _restart(self, acked: int) -> None:
        self._urgent = self._bulk = acked
        self._in_flight = 0
        self._progress_at = self._clock.monotonic()
        self._resend_seconds = self._config.resend_seconds
        self._batch_began_at: float | None = None

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def on_connected(self) -> None:
        """A new connection: what was under way may be lost, so send it again."""
        with self._lock:
            self._restart(self._acked())

    def on_ack(self, ack: Ack) -> None:
        """The fleet has everything up to ``ack.seq``."""
        if not self._spool.ack(ack.epoch, ack.seq):
            return
        with self._lock:
            self._urgent, self._bulk = max(self._urgent, ack.seq), max(self._bulk, ack.seq)
            self._progress_at = self._clock.monotonic()
            self._resend_seconds = self._config.resend_seconds
        with self._spool.appended:
            self._spool.appended.notify_all()

    def flush(self, timeout_seconds: float) -> bool:
        """Send what there is without waiting for batches to fill; True if the fleet acked all in time."""
        deadline = self._clock.monotonic() + timeout_seconds
        while self._publisher.connected and self._clock.monotonic() < deadline:
            if self._spool.figures().held == 0:
                return True
            with self._lock:
                self._step(flush=True)
            threading.Event().wait(0.05)
        return self._spool.figures().held == 0

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        with self._spool.appended:
            self._spool.appended.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopping.is_set():
            wait_seconds = 0.5
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
                with self._spool.appended:
                    self._spool.appended.wait(wait_seconds)

    def _step(self, flush: bool = False) -> float:
        """Send what is due; returns how long nothing will be due unless a record or an ack comes."""
        now = self._clock.monotonic()
        oldest = self._spool.oldest()
        unacked = max(self._urgent, self._bulk) >= oldest
        if not unacked:
            self._progress_at = now
        elif now - self._progress_at >= self._resend_seconds:
            self._urgent = self._bulk = oldest - 1
            self._resend_seconds = min(self._resend_seconds * 2, _RESEND_CAP_SECONDS)
            self._progress_at = now
        for held in self._spool.peek(self._urgent, _URGENT_BATCH, _URGENT):
            if not self._send_urgent(held, oldest):
                return 0.2
            self._urgent = held.seq
        return self._send_bulk(now, oldest, flush)

    def _send_urgent(self, held: Held, oldest: int) -> bool:
        item = held.item
        if not isinstance(item, Alert | Report):
            return True
        kind = Up.ALERT if isinstance(item, Alert) else Up.REPORT
        return self._publisher.publish(kind, encode(msgspec.structs.replace(item, oldest=min(oldest, item.seq))))

    def _send_bulk(self, now: float, oldest: int, flush: bool) -> float:
        room = self._max_in_flight - (self._bulk - oldest + 1)
        if room <= 0:
            return 0.2
        batch = self._spool.peek(self._bulk, min(self._batch_records, room), _BULK)
        if not batch:
            self._batch_began_at = None
            return 0.5
        if self._batch_began_at is None:
            self._batch_began_at = now
        age = now - self._batch_began_at
        if len(batch) < self._batch_records and age < self._config.batch_seconds and not flush:
            return max(0.01, min(0.5, self._config.batch_seconds - age))
        records = [held.item for held in batch if isinstance(held.item, TelemetryRecord)]
        message = Telemetry(epoch=self._spool.epoch, oldest=min(oldest, records[0].seq), records=records)
        if not self._publisher.publish(Up.TELEMETRY, encode(message)):
            return 0.2
        self._bulk = batch[-1].seq
        self._batch_began_at = None
        return 0.0 if len(batch) == self._batch_records else 0.05

"""The records of a simulated device that the fleet has not acknowledged, kept in memory as an agent's spool does. Pure.

Invariants:
    * ``seq`` counts 1, 2, 3, … over telemetry, alerts and reports of one epoch.
    * A record leaves the spool at an ack of its epoch, or when the spool is full: then the oldest telemetry goes first,
      is counted, and what is sent next says so (``oldest``, ``after``).
    * What is not acknowledged within the resend time is sent again, from the oldest on, at most ``window_messages`` at
      a time; the time doubles up to a minute while nothing comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from wheeltapper_protocols.wire.messages import Ack, Alert, Report, Telemetry, TelemetryRecord
from wheeltapper_protocols.wire.topics import Up

__all__ = ["Message", "Spool"]

_RESEND_MAX_SECONDS: Final = 60.0
Message = Telemetry | Alert | Report


@dataclass(slots=True)
class _Held:
    """One message of the spool: its records' numbers, and when it was made (seconds)."""

    first: int
    last: int
    made_at: float
    records: tuple[TelemetryRecord, ...] = ()
    """Of telemetry; otherwise empty, and ``make`` makes the message."""
    make: Callable[[int, int | None], Alert | Report] | None = None
    sent: bool = False


@dataclass(slots=True)
class Spool:
    """The spool of one device.

    Args:
        epoch: of this spool, 16 hex digits.
        capacity: how many records it holds; more drop the oldest telemetry.
        resend_seconds: after this time without an ack it is sent again.
        window_messages: at most so many messages are on their way.
    """

    epoch: str
    capacity: int = 10_000
    resend_seconds: float = 10.0
    window_messages: int = 32
    seq: int = 0
    acked: int = 0
    dropped: int = 0
    resent: int = 0
    """Messages that were sent again."""
    _held: deque[_Held] = field(default_factory=deque)
    _count: int = 0
    _in_flight: int = 0
    _progress_at: float = 0.0
    _pause: float = 0.0

    @property
    def held(self) -> int:
        """Records that are not acknowledged."""
        return self._count

    @property
    def oldest(self) -> int:
        """The lowest seq that is still here; with an empty spool, the next one."""
        return self._held[0].first if self._held else self.seq + 1

    def add_telemetry(self, make: Callable[[int], Sequence[TelemetryRecord]], now: float) -> None:
        """Add records; ``make`` is given the seq of the first."""
        records = tuple(make(self.seq + 1))
        self._add(_Held(self.seq + 1, self.seq + len(records), now, records), len(records))

    def add(self, make: Callable[[str, int, int, int | None], Alert | Report], now: float) -> None:
        """Add an alert or a report; ``make(epoch, seq, oldest, after)`` makes the message."""
        seq, epoch = self.seq + 1, self.epoch
        self._add(_Held(seq, seq, now, make=lambda oldest, after: make(epoch, seq, oldest, after)), 1)

    def _add(self, held: _Held, count: int) -> None:
        self.seq = held.last
        self._held.append(held)
        self._count += count
        while self._count > self.capacity:
            victim = next((each for each in self._held if each.make is None), None)
            if victim is None or victim is held:
                return
            self._held.remove(victim)
            self._in_flight -= victim.sent
            self._count -= len(victim.records)
            self.dropped += len(victim.records)

    def on_ack(self, ack: Ack, now: float) -> list[float]:
        """Forget what the fleet has; returns how many seconds each message that is now done waited for it."""
        if ack.epoch != self.epoch or ack.seq <= self.acked or ack.seq > self.seq:
            return []
        self.acked = ack.seq
        waited: list[float] = []
        while self._held and self._held[0].first <= ack.seq:
            first = self._held[0]
            if first.last > ack.seq:  # a part of a message: the rest is sent with the next resend
                kept = first.records[ack.seq - first.first + 1 :]
                self._count -= len(first.records) - len(kept)
                first.first, first.records = ack.seq + 1, kept
                break
            self._held.popleft()
            self._count -= max(1, len(first.records))
            self._in_flight -= first.sent
            waited.append(now - first.made_at)
        self._progress_at, self._pause = now, self.resend_seconds
        return waited

    def rewind(self, now: float) -> None:
        """Nothing counts as sent any more: after a new connection."""
        for held in self._held:
            held.sent = False
        self._in_flight, self._progress_at, self._pause = 0, now, self.resend_seconds

    def due(self, now: float) -> list[tuple[Up, Message]]:
        """What to send now, oldest first."""
        if self._in_flight == 0:
            self._progress_at, self._pause = now, self._pause or self.resend_seconds
        elif now - self._progress_at >= self._pause:
            self.resent += self._in_flight
            pause = min(self._pause * 2, _RESEND_MAX_SECONDS)
            self.rewind(now)
            self._pause = pause
        found: list[tuple[Up, Message]] = []
        oldest = self.oldest
        below: int | None = None
        for held in self._held:
            if self._in_flight >= self.window_messages:
                break
            if not held.sent:
                held.sent = True
                self._in_flight += 1
                after = below if below is not None and below + 1 < held.first else None
                found.append(self._message(held, oldest, after))
            below = held.last
        return found

    def next_at(self) -> float | None:
        """When :meth:`due` has something to send again; None: nothing is on its way."""
        return self._progress_at + self._pause if self._in_flight else None

    def _message(self, held: _Held, oldest: int, after: int | None) -> tuple[Up, Message]:
        if held.make is not None:
            message = held.make(oldest, after)
            return (Up.ALERT if isinstance(message, Alert) else Up.REPORT), message
        return Up.TELEMETRY, Telemetry(epoch=self.epoch, oldest=oldest, records=list(held.records), after=after)

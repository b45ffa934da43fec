"""What windows add to the roll-ups and to the newest score of their pipeline. Pure.

Invariants:
    * Each window counts once in each span (300 s, an hour, a day).
    * A window counts at the time that its machine's clock said, if that can be: see :func:`event_time`.
    * Sums are finite: a score or a latency beyond :data:`_MOST` counts as missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from wheeltapper_protocols.wire.messages import Alert, Severity, TelemetryRecord

__all__ = ["MOST_BACKLOG_SECONDS", "SPANS", "Newest", "Rollups", "event_time", "usable"]

SPANS: Final = (300, 3600, 86_400)
"""Lengths of the buckets in seconds, from fine to coarse. Each divides the next."""
MOST_BACKLOG_SECONDS: Final = 30 * 86_400.0
_MOST_AHEAD_SECONDS: Final = 300.0
_MOST: Final = 1e100
"""Its square, many times, is still a number."""

_WINDOWS, _SCORED, _MISSING, _SUM, _SQUARES, _MIN, _MAX = range(7)
_LATENCY_SUM, _LATENCY_MAX, _LATENCIES, _WARNINGS, _CRITICALS, _ALERTS = range(7, 13)
_ADDED: Final = tuple(index for index in range(13) if index not in (_MIN, _MAX, _LATENCY_MAX))


def event_time(t_s: float, undated: bool, now: float) -> float:
    """When something happened, in Unix seconds: by the machine's clock where that can be, else by its arrival.

    The machine's clock is believed from 30 days ago to five minutes ahead, so what a device delivers after a week
    without a connection is shown where it belongs. The time of a replay, of a board that was never set and of a clock
    that is far off is not: such windows count when they come.

    Args:
        t_s: the machine's time.
        undated: whether the device said that it cannot date it.
        now: Unix seconds by the fleet's clock.
    """
    return t_s if not undated and now - MOST_BACKLOG_SECONDS <= t_s <= now + _MOST_AHEAD_SECONDS else now


def usable(number: float | None) -> bool:
    """Whether a score or a latency is there and can be summed up."""
    return number is not None and -_MOST < number < _MOST


class Rollups:
    """Sums of one batch, by device, pipeline, model, release and bucket. ``now`` is when it came, in Unix seconds."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._sums: dict[tuple[str, str, str, int, int], list[Any]] = {}

    def add(self, device: str, records: Sequence[TelemetryRecord]) -> tuple[float, float, str | None]:
        """Add windows of ``device``.

        Returns:
            Their first and last time, and their pipeline; None if they are of several.
        """
        now, fine = self._now, SPANS[0]
        from_s, to_s, arrival = now - MOST_BACKLOG_SECONDS, now + _MOST_AHEAD_SECONDS, int(now // fine)
        first = records[0]
        pipeline: str | None = first.pipeline
        low = high = first.t_s
        begin, last = 0, self._number(first.t_s, first.undated)
        for index, record in enumerate(records):
            t_s = record.t_s
            if t_s < low:
                low = t_s
            elif t_s > high:
                high = t_s
            number = int(t_s // fine) if from_s <= t_s <= to_s and not record.undated else arrival
            if (
                number != last
                or record.pipeline != first.pipeline
                or record.release != first.release
                or record.model != first.model
            ):
                self._add_run(device, last, records[begin:index])
                if record.pipeline != pipeline:
                    pipeline = None
                first, begin, last = record, index, number
        self._add_run(device, last, records[begin:] if begin else records)
        return low, high, pipeline

    def _number(self, t_s: float, undated: bool) -> int:
        return int(event_time(t_s, undated, self._now) // SPANS[0])

    def _add_run(self, device: str, number: int, records: Sequence[TelemetryRecord]) -> None:
        """Add windows that have one pipeline, model, release and bucket; sums are in locals: this is the hot path."""
        scored = latencies = 0
        total = squares = latency_total = 0.0
        low = high = None
        latency_high = -1.0
        warnings = criticals = 0
        for record in records:
            score = record.score
            if score is not None and -_MOST < score < _MOST:
                scored += 1
                total += score
                squares += score * score
                if low is None or high is None:
                    low = high = score
                elif score < low:
                    low = score
                elif score > high:
                    high = score
            latency = record.latency_ms
            if latency is not None and 0 <= latency < _MOST:
                latencies += 1
                latency_total += latency
                if latency > latency_high:
                    latency_high = latency
            if record.severity is not Severity.NORMAL:
                if record.severity is Severity.WARNING:
                    warnings += 1
                else:
                    criticals += 1
        count, most = len(records), latency_high if latencies else None
        scores = (count, scored, count - scored, total, squares, low, high)
        sums = [*scores, latency_total, most, latencies, warnings, criticals, 0]
        first = records[0]
        _merge(self._of(device, first.pipeline, first.model, first.release, number), sums)

    def add_alert(self, device: str, alert: Alert) -> None:
        """Count an alert of ``device``, if it was raised and not cleared."""
        if alert.raised:
            number = self._number(alert.at, alert.undated)
            self._of(device, alert.pipeline, alert.model, alert.release, number)[_ALERTS] += 1

    def rows(self) -> list[tuple[Any, ...]]:
        """Rows of the table ``rollups`` to be added, in the order of its columns; one a key and span."""
        found: dict[tuple[Any, ...], list[Any]] = {}
        for (device, pipeline, model, release, number), sums in self._sums.items():
            for span in SPANS:
                key = (device, pipeline, span, number * SPANS[0] // span * span, model, release)
                known = found.get(key)
                if known is None:
                    found[key] = list(sums)
                else:
                    _merge(known, sums)
        return [(*key, *sums) for key, sums in found.items()]

    def _of(self, device: str, pipeline: str, model: str | None, release: int | None, number: int) -> list[Any]:
        key = (device, pipeline, model or "", release or 0, number)
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = [0, 0, 0, 0.0, 0.0, None, None, 0.0, None, 0, 0, 0, 0]
        return sums


def _merge(known: list[Any], more: Sequence[Any]) -> None:
    """Add sums to sums."""
    for index in _ADDED:
        known[index] += more[index]
    if more[_MIN] is not None and (known[_MIN] is None or more[_MIN] < known[_MIN]):
        known[_MIN] = more[_MIN]
    for index in (_MAX, _LATENCY_MAX):
        if more[index] is not None and (known[index] is None or more[index] > known[index]):
            known[index] = more[index]


_PACED: Final = 119
"""The pace is that of about so many windows."""
_LONGEST_PACE_SECONDS: Final = 2 * 86_400.0


class Newest:
    """The newest window of one pipeline and its newest score: a row of ``latest`` that moves on.

    Args:
        row: the row that is stored, in the order of :data:`COLUMNS`; None: there is none.

    Invariants:
        * Within an epoch, a window that comes late does not take the place of a later one.
        * A window without a score does not renew the score.
    """

    COLUMNS: Final = (
        "device", "pipeline", "epoch", "seq", "received_at", "last_t_s", "windows", "paced", "arrival_pace_s",
        "machine_pace_s", "at", "t_s", "model", "release", "score", "severity", "label", "value", "zone",
    )  # fmt: skip

    def __init__(self, device: str, pipeline: str, row: Sequence[Any] | None = None) -> None:
        self._key = (device, pipeline)
        self.epoch, self.seq = "", 0
        self.received_at = self.last_t_s = self.arrival_pace_s = self.machine_pace_s = 0.0
        self.windows = self.paced = 0
        self._score: tuple[Any, ...] = (None,) * 9
        if row is not None:
            self.epoch, self.seq, self.received_at, self.last_t_s, self.windows = row[2:7]
            self.paced, self.arrival_pace_s, self.machine_pace_s = row[7:10]
            self._score = tuple(row[10:])

    def add(self, epoch: str, records: Sequence[TelemetryRecord], now: float) -> None:
        """Take in windows of one message, which are of this pipeline and rise."""
        self.windows += len(records)
        if epoch == self.epoch and records[0].seq <= self.seq:
            records = [record for record in records if record.seq > self.seq]
        if not records:
            return
        last = records[-1]
        steps = len(records)
        if not self.epoch:  # the first window has none before it
            steps -= 1
            self.received_at, self.last_t_s = now, records[0].t_s
        if steps:
            self.paced = min(self.paced + steps, _PACED)
            weight = min(1.0, steps / self.paced)
            arrival = min(max(now - self.received_at, 0.0) / steps, _LONGEST_PACE_SECONDS)
            machine = min(max(last.t_s - self.last_t_s, 0.0) / steps, _LONGEST_PACE_SECONDS)
            self.arrival_pace_s += (arrival - self.arrival_pace_s) * weight
            self.machine_pace_s += (machine - self.machine_pace_s) * weight
        self.epoch, self.seq, self.received_at, self.last_t_s = epoch, last.seq, now, last.t_s
        for record in reversed(records):
            if record.score is not None:
                label = record.label.replace("\0", "\N{REPLACEMENT CHARACTER}") if record.label else None
                said = (record.model, record.release, record.score, record.severity.value, label)
                self._score = (now, record.t_s, *said, record.value, record.zone)
                break

    def row(self) -> tuple[Any, ...]:
        """The row to be stored."""
        place = (self.epoch, self.seq, self.received_at, self.last_t_s, self.windows)
        return (*self._key, *place, self.paced, self.arrival_pace_s, self.machine_pace_s, *self._score)

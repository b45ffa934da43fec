"""What windows add to the roll-ups and to the newest score of their pipeline. Pure.

Invariants:
    * Each window counts once in each span (300 s, an hour, a day).
    * A window counts at the time that its machine's clock said, if that can be: see :func:`event_time`.
    * Sums are finite: a score or a latency beyond :data:`_MOST` counts as missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
_COLUMNS: Final = 13


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

    def add(self, device: str, records: Iterable[TelemetryRecord]) -> None:
        """Add windows of ``device``."""
        now, fine = self._now, SPANS[0]
        from_s, to_s, arrival = now - MOST_BACKLOG_SECONDS, now + _MOST_AHEAD_SECONDS, int(now // fine)
        key: Any = None
        sums: list[Any] = []
        for record in records:
            t_s, score, latency = record.t_s, record.score, record.latency_ms
            number = int(t_s // fine) if from_s <= t_s <= to_s and not record.undated else arrival
            its_key = (record.pipeline, record.model, record.release, number)
            if its_key != key:
                key = its_key
                sums = self._of(device, record.pipeline, record.model, record.release, number)
            sums[_WINDOWS] += 1
            if score is not None and -_MOST < score < _MOST:
                sums[_SCORED] += 1
                sums[_SUM] += score
                sums[_SQUARES] += score * score
                if sums[_MIN] is None or score < sums[_MIN]:
                    sums[_MIN] = score
                if sums[_MAX] is None or score > sums[_MAX]:
                    sums[_MAX] = score
            else:
                sums[_MISSING] += 1
            if latency is not None and 0 <= latency < _MOST:
                sums[_LATENCY_SUM] += latency
                sums[_LATENCIES] += 1
                if sums[_LATENCY_MAX] is None or latency > sums[_LATENCY_MAX]:
                    sums[_LATENCY_MAX] = latency
            if record.severity is not Severity.NORMAL:
                sums[_WARNINGS if record.severity is Severity.WARNING else _CRITICALS] += 1

    def add_alert(self, device: str, alert: Alert) -> None:
        """Count an alert of ``device``, if it was raised and not cleared."""
        if alert.raised:
            number = int(event_time(alert.at, alert.undated, self._now) // SPANS[0])
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
    for index in range(_COLUMNS):
        if index == _MIN:
            known[index] = min((each for each in (known[index], more[index]) if each is not None), default=None)
        elif index in (_MAX, _LATENCY_MAX):
            known[index] = max((each for each in (known[index], more[index]) if each is not None), default=None)
        else:
            known[index] += more[index]


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
        if epoch == self.epoch:
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

"""x"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["RATE_SHARE", "LatenessEstimator", "RateMonitor"]

RATE_SHARE: Final = 0.08
"""How far the rate may be from the declared one. The oscillators inside MEMS sensors are within 1 % (trimmed) to 5 %
(not trimmed) and drift by 1 to 2 % over temperature; the nearest rates that are taken for one another, 44.1 and 48 kHz,
are 8.8 % apart."""
_SPANS: Final = 5
"""So many spans in a row must show a wrong rate, all too high or all too low: what jitter adds to one it takes from
another."""
_SPAN_SECONDS: Final = 2.0
"""A span is at least so long, and as these samples and tolerances, so that jitter within it stays below the share."""
_SPAN_SAMPLES: Final = 64
_SPAN_TOLERANCES: Final = 20
_NEAR_PERIODS: Final = 1.25
_NEAR_SHARE: Final = 0.05
"""A sample follows on the one before if they are not further apart; chance would have to lose 95 % to leave fewer."""
_PERIOD_SECONDS: Final = 30.0
"""After so long without a sample a stream without time stamps begins anew; or after :data:`_PAUSE_CHUNKS` chunks."""
_LEARN_PERIODS: Final = 2
_PAUSE_CHUNKS: Final = 4


class RateMonitor:
    """Counts samples between time stamps.

    The rate is too high where samples that were not there before are more than fit the time: loss only lowers it, and
    repetition is not counted. It is too low where all samples, with those that are known to be missing, are fewer:
    repetition only raises it, and loss is made up for; or where hardly any sample follows on the one before, which no
    loss by chance does.

    Args:
        rate_hz: declared.
        tolerance_seconds: how far a time stamp may be off, where that is configured.
    """

    def __init__(self, rate_hz: float, tolerance_seconds: float) -> None:
        self._rate_hz = rate_hz
        self._span_s = max(_SPAN_SECONDS, _SPAN_SAMPLES / rate_hz, _SPAN_TOLERANCES * tolerance_seconds)
        self._off = 0
        """Spans in a row with a rate too high; negative: too low."""
        self.wrong_hz: float | None = None
        """What the rate is, if for long it is not the declared one."""
        self.begin()

    def begin(self) -> None:
        """What follows has nothing to do with the times before it."""
        self._began_s: float | None = None
        self._newest_s = 0.0
        self._fresh = self._all = self._near = 0

    @property
    def span_samples(self) -> int:
        """Samples that a span has at the declared rate."""
        return math.ceil(self._span_s * self._rate_hz)

    def miss(self, count: int) -> None:
        """Samples are missing before those that are taken next."""
        self._all += count

    def chunk(self, t_s: float | None, count: int, known: int = 0, lost: int = 0) -> None:
        """Take ``count`` samples into account that follow each other.

        Args:
            t_s: time of the first, where it was measured.
            count: of samples.
            known: of them were there before.
            lost: samples that perhaps are missing before them, though their time is within the tolerance.
        """
        self._all += lost
        if t_s is not None:
            self._reach(t_s)
        self._fresh += count - known
        self._all += count
        if not lost:
            self._near += count

    def each(self, times_s: NDArray[np.floating[Any]], steps_s: NDArray[np.floating[Any]]) -> None:
        """Take samples, at least one, that each have their time into account; ``steps_s`` is from each to the next."""
        if self._began_s is None:
            self._reach(float(times_s[0]))
        near_s = _NEAR_PERIODS / self._rate_hz
        self._near += int(np.count_nonzero(steps_s < near_s)) + (float(times_s[0]) - self._newest_s < near_s)
        self._fresh += int(np.count_nonzero(times_s > self._newest_s))
        self._all += len(times_s)
        self._reach(float(times_s.max()))

    def _reach(self, t_s: float) -> None:
        """All samples that were taken so far came before this time."""
        if self._began_s is None:
            self._began_s = self._newest_s = t_s
            self._fresh = self._all = self._near = 0
        if t_s <= self._newest_s:
            return
        self._newest_s = t_s
        passed_s = t_s - self._began_s
        if passed_s < self._span_s:
            return
        self._end_span(passed_s)
        self._began_s, self._fresh, self._all, self._near = t_s, 0, 0, 0

    def _end_span(self, passed_s: float) -> None:
        due = passed_s * self._rate_hz
        least = (1 - RATE_SHARE) * due
        scattered = self._near < _NEAR_SHARE * self._fresh
        if self._fresh > (1 + RATE_SHARE) * due:
            self._off = max(self._off, 0) + 1
        elif self._all < least or (scattered and self._fresh < least):
            self._off = min(self._off, 0) - 1
        else:
            self._off, self.wrong_hz = 0, None
        if abs(self._off) >= _SPANS:
            self.wrong_hz = (self._fresh if self._off > 0 or scattered else self._all) / passed_s


class LatenessEstimator:
    """How much later than its forerunners a chunk came, where only its arrival is known.

    The sensor's rate is not what was declared to the last digit, and some senders measure for a while and then rest:
    so the delay against the declared rate may grow for ever without anything being late. Lateness is measured from a
    line instead, through the least delays of two half minutes. Until these are over, and after a pause, nothing is
    late: whether samples are old or were not measured meanwhile cannot be known.
    """

    def __init__(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self._came_s: float | None = None
        self._start(0, 0.0)

    def begin(self) -> None:
        """What follows has nothing to do with the times before it."""
        self._came_s = None

    def _start(self, count: int, monotonic_s: float) -> None:
        self._count = self._periods = 0
        self._growth = 0.0
        """Of the delay, in seconds a second: what the sensor is slower than declared."""
        delay_s = monotonic_s - count / self._rate_hz
        self._floor_s = delay_s
        self._floor_at_s = monotonic_s
        self._low_s, self._low_at_s = delay_s, monotonic_s
        self._low_late_s = 0.0
        """How late the chunk with the least delay of this half minute was."""
        self._mark_s, self._mark_at_s = delay_s, monotonic_s
        self._period_at_s = monotonic_s

    def late_seconds(self, count: int, monotonic_s: float) -> float:
        """Take ``count`` samples into account, at least one, that came now; returns how late they are."""
        pause_s = max(_PERIOD_SECONDS, _PAUSE_CHUNKS * count / self._rate_hz)
        if self._came_s is None or monotonic_s - self._came_s > pause_s:
            self._start(count, monotonic_s)
        self._came_s = monotonic_s
        self._count += count
        delay_s = monotonic_s - self._count / self._rate_hz
        late_s = delay_s - self._floor_s - self._growth * (monotonic_s - self._floor_at_s)
        if late_s < 0:
            late_s, self._floor_s, self._floor_at_s = 0.0, delay_s, monotonic_s
        if late_s <= self._low_late_s:
            self._low_late_s, self._low_s, self._low_at_s = late_s, delay_s, monotonic_s
        learned = self._periods >= _LEARN_PERIODS
        if monotonic_s - self._period_at_s >= _PERIOD_SECONDS:
            self._end_period(monotonic_s)
        return late_s if learned else 0.0

    def _end_period(self, monotonic_s: float) -> None:
        """Lay the line through the least delays of this period and the one before."""
        passed_s = self._low_at_s - self._mark_at_s
        if passed_s > 0:
            self._growth = min(1.0, max(0.0, (self._low_s - self._mark_s) / passed_s))
        self._floor_s = self._mark_s = self._low_s
        self._floor_at_s = self._mark_at_s = self._low_at_s
        self._low_late_s, self._period_at_s = math.inf, monotonic_s
        self._periods += 1

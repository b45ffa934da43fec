"""The rate and the lateness of a stream, from the times of its samples. Pure: times are handed in.

:class:`RateMonitor` compares the rate that time stamps show with the declared rate. :class:`LatenessEstimator` tells
how late the samples of a stream without time stamps are.

What this module does not do: cut windows, or react to a wrong rate (:mod:`wheeltapper_agent.source.framing`).
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["RATE_SHARE", "LatenessEstimator", "RateMonitor"]

RATE_SHARE: Final = 0.08
"""How far the rate may be from the declared one, as a share. Oscillators inside MEMS sensors are accurate to 1 %
(trimmed) or 5 % (not trimmed) and drift by 1 to 2 % over temperature. The nearest two rates that are mistaken for one
another, 44.1 and 48 kHz, are 8.8 % apart."""
_SPANS: Final = 5
"""Number of spans in a row that must show a rate that is too high, or one that is too low. Jitter that adds to one span
takes from another."""
_SPAN_SECONDS: Final = 2.0
"""A span is at least as long as this, as :data:`_SPAN_SAMPLES` samples and as :data:`_SPAN_TOLERANCES` tolerances.
Jitter within it then stays below the share."""
_SPAN_SAMPLES: Final = 64
_SPAN_TOLERANCES: Final = 20
_NEAR_PERIODS: Final = 1.25
"""A sample is consecutive to the one before if they are at most so many sample periods apart."""
_NEAR_SHARE: Final = 0.05
"""If fewer samples than this share are consecutive, the rate is wrong: random loss would have to take 95 % of the
samples."""
_PERIOD_SECONDS: Final = 30.0
"""After so long without a sample, or after :data:`_PAUSE_CHUNKS` chunks, the estimate begins anew."""
_LEARN_PERIODS: Final = 2
_PAUSE_CHUNKS: Final = 4


class RateMonitor:
    """Compares the number of samples between time stamps with the declared rate.

    The rate is too high if more samples came than fit the time. Loss only lowers that number, and samples that came
    twice are not counted. The rate is too low if all samples, including those known to be missing, are fewer than fit
    the time; repetition only raises that number. It is also too low if hardly any sample is consecutive to the one
    before, which random loss does not cause.

    Args:
        rate_hz: the declared rate.
        tolerance_seconds: how far a time stamp may be off; 0 where it is not configured.
    """

    def __init__(self, rate_hz: float, tolerance_seconds: float) -> None:
        self._rate_hz = rate_hz
        self._span_s = max(_SPAN_SECONDS, _SPAN_SAMPLES / rate_hz, _SPAN_TOLERANCES * tolerance_seconds)
        self._wrong_spans = 0
        """Number of spans in a row with a rate that is too high; negative: too low."""
        self.wrong_hz: float | None = None
        """The measured rate, if it has differed from the declared one for long enough."""
        self.reset()

    def reset(self) -> None:
        """Forget the times so far: the next ones do not follow on from them."""
        self._began_s: float | None = None
        self._newest_s = 0.0
        self._new = self._total = self._consecutive = 0

    @property
    def span_samples(self) -> int:
        """Number of samples in a span at the declared rate."""
        return math.ceil(self._span_s * self._rate_hz)

    def add_missing(self, count: int) -> None:
        """Count samples that are known to be missing before the next ones."""
        self._total += count

    def add_chunk(self, t_s: float | None, count: int, known: int = 0, lost: int = 0) -> None:
        """Count ``count`` samples that follow one another.

        Args:
            t_s: measured time of the first one; None if it was not measured.
            count: number of samples.
            known: how many of them came before, already.
            lost: samples that may be missing before them, though their time is within the tolerance.
        """
        self._total += lost
        if t_s is not None:
            self._reach(t_s)
        self._new += count - known
        self._total += count
        if not lost:
            self._consecutive += count

    def add_times(self, times_s: NDArray[np.floating[Any]], steps_s: NDArray[np.floating[Any]]) -> None:
        """Count samples, at least one, that have a time each.

        Args:
            times_s: [sample].
            steps_s: [sample - 1], from each time to the next.
        """
        if self._began_s is None:
            self._reach(float(times_s[0]))
        near_s = _NEAR_PERIODS / self._rate_hz
        self._consecutive += int(np.count_nonzero(steps_s < near_s)) + (float(times_s[0]) - self._newest_s < near_s)
        self._new += int(np.count_nonzero(times_s > self._newest_s))
        self._total += len(times_s)
        self._reach(float(times_s.max()))

    def _reach(self, t_s: float) -> None:
        """End the span if it is long enough at ``t_s``; all samples counted so far came before this time."""
        if self._began_s is None:
            self._began_s = self._newest_s = t_s
            self._new = self._total = self._consecutive = 0
        if t_s <= self._newest_s:
            return
        self._newest_s = t_s
        passed_s = t_s - self._began_s
        if passed_s < self._span_s:
            return
        self._end_span(passed_s)
        self._began_s, self._new, self._total, self._consecutive = t_s, 0, 0, 0

    def _end_span(self, passed_s: float) -> None:
        """Compare the counts of a span of ``passed_s`` seconds with the declared rate."""
        due = passed_s * self._rate_hz
        least = (1 - RATE_SHARE) * due
        mostly_isolated = self._consecutive < _NEAR_SHARE * self._new
        if self._new > (1 + RATE_SHARE) * due:
            self._wrong_spans = max(self._wrong_spans, 0) + 1
        elif self._total < least or (mostly_isolated and self._new < least):
            self._wrong_spans = min(self._wrong_spans, 0) - 1
        else:
            self._wrong_spans, self.wrong_hz = 0, None
        if abs(self._wrong_spans) >= _SPANS:
            self.wrong_hz = (self._new if self._wrong_spans > 0 or mostly_isolated else self._total) / passed_s


class LatenessEstimator:
    """Tells how much later than earlier chunks a chunk came, if only its arrival is known.

    The sensor's rate differs a little from the declared one, and some senders pause. The delay against the declared
    rate may therefore grow forever without any sample being late. Lateness is measured from a straight line through the
    least delays of two half minutes instead. Until these have passed, and after a pause, nothing is late: whether
    samples are old or were not measured in between cannot be known.
    """

    def __init__(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self._came_s: float | None = None
        self._start(0, 0.0)

    def reset(self) -> None:
        """Forget the arrivals so far: the next ones do not follow on from them."""
        self._came_s = None

    def _start(self, count: int, monotonic_s: float) -> None:
        """Begin with ``count`` samples that came at ``monotonic_s``."""
        self._count = self._periods = 0
        self._growth = 0.0
        """Growth of the delay in seconds a second: how much slower the sensor is than declared."""
        delay_s = monotonic_s - count / self._rate_hz
        self._floor_s = delay_s
        self._floor_at_s = monotonic_s
        self._low_s, self._low_at_s = delay_s, monotonic_s
        self._low_late_s = 0.0
        """Lateness of the chunk with the least delay of this half minute."""
        self._previous_low_s, self._previous_low_at_s = delay_s, monotonic_s
        self._period_at_s = monotonic_s

    def late_seconds(self, count: int, monotonic_s: float) -> float:
        """Count ``count`` samples, at least one, that came at ``monotonic_s``; return how late they are in seconds."""
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
        """Lay the line through the least delays of this half minute and the one before."""
        passed_s = self._low_at_s - self._previous_low_at_s
        if passed_s > 0:
            self._growth = min(1.0, max(0.0, (self._low_s - self._previous_low_s) / passed_s))
        self._floor_s = self._previous_low_s = self._low_s
        self._floor_at_s = self._previous_low_at_s = self._low_at_s
        self._low_late_s, self._period_at_s = math.inf, monotonic_s
        self._periods += 1

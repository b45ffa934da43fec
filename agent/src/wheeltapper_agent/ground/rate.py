"""A token bucket: how much may go out now. A least rate: whether enough comes in.

Invariant: over any span of time no more than ``burst`` plus ``rate`` times its seconds is granted. A clock that stands
still or runs backwards grants nothing.
"""

from __future__ import annotations

__all__ = ["LeastRate", "TokenBucket"]


class TokenBucket:
    """Fills at ``rate`` units a second up to ``burst``; begins full.

    Args:
        rate: units a second; 0 or less: without a bound.
        burst: units that may go out at once.
        now: seconds of a clock that never jumps.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def available(self, now: float) -> float:
        """Units that may go out at ``now``."""
        if self._rate <= 0:
            return float("inf")
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
        return self._tokens

    def take(self, units: float) -> None:
        """Count ``units`` as gone; may be asked after :meth:`available` only."""
        if self._rate > 0:
            self._tokens -= units

    def wait_seconds(self, units: float, now: float) -> float:
        """How long until ``units`` (at most the burst) may go out."""
        lacking = min(units, self._burst) - self.available(now)
        return lacking / self._rate if lacking > 0 else 0.0


class LeastRate:
    """Looks once in ``window_seconds`` of waiting whether so much came meanwhile.

    Args:
        rate: units a second; 0: anything is enough.
        window_seconds: long enough for a line that is bad for a while.
    """

    def __init__(self, rate: float, window_seconds: float) -> None:
        self._rate = rate
        self._window_seconds = window_seconds
        self._units = self._seconds = 0.0

    def enough(self, units: float, seconds: float) -> bool:
        """Count ``units`` that took ``seconds`` to come; False if a window ended with too few of them."""
        self._units += units
        self._seconds += seconds
        if self._seconds < self._window_seconds:
            return True
        came, wanted = self._units, self._rate * self._seconds
        self._units = self._seconds = 0.0
        return came >= wanted

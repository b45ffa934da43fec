"""Rates: a token bucket says how much may be sent now, a minimum rate says whether enough is received. Pure.

Invariant of the bucket: in any span of time it grants at most ``burst`` plus ``rate`` times the span's seconds. A clock
that stands still or runs backwards grants nothing.
"""

from __future__ import annotations

__all__ = ["MinimumRate", "TokenBucket"]


class TokenBucket:
    """A token bucket, with units instead of tokens (e.g. records or bytes). It is full at the beginning.

    Args:
        rate: units that come in a second; 0 or less: without a bound.
        burst: units that the bucket holds at most, and so may be sent at once.
        now: present time in seconds, of a clock that never jumps.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def available(self, now: float) -> float:
        """How many units may be sent at the time ``now``."""
        if self._rate <= 0:
            return float("inf")
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
        return self._tokens

    def take(self, units: float) -> None:
        """Take ``units`` that are sent out of the bucket. Call :meth:`available` before, which fills it."""
        if self._rate > 0:
            self._tokens -= units

    def wait_seconds(self, units: float, now: float) -> float:
        """How many seconds from ``now`` until ``units`` may be sent; more than the burst counts as the burst."""
        lacking = min(units, self._burst) - self.available(now)
        return lacking / self._rate if lacking > 0 else 0.0


class MinimumRate:
    """Finds a sender that is too slow: checks its mean rate once in ``window_seconds`` of waiting for it.

    Args:
        rate: units a second that are the minimum; 0: any rate is enough.
        window_seconds: long enough to allow for a line that is bad for a while.
    """

    def __init__(self, rate: float, window_seconds: float) -> None:
        self._rate = rate
        self._window_seconds = window_seconds
        self._units = self._seconds = 0.0

    def enough(self, units: float, seconds: float) -> bool:
        """Count received units.

        Args:
            units: what was received.
            seconds: how long it took.

        Returns:
            False if a window ended now in which the mean rate was below the minimum.
        """
        self._units += units
        self._seconds += seconds
        if self._seconds < self._window_seconds:
            return True
        received, minimum = self._units, self._rate * self._seconds
        self._units = self._seconds = 0.0
        return received >= minimum

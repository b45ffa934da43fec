"""Token buckets: how often each of many may do something. Pure.

Invariants:
    * Each key may do ``burst`` things at once and ``per_second`` on average.
    * Only the latest :data:`MAX_KEYS` keys are remembered, so that many keys cannot fill the memory. One that is
      forgotten begins with a full bucket.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

__all__ = ["MAX_KEYS", "Buckets"]

MAX_KEYS: Final = 4096


class Buckets:
    """A bucket for each key. Times are seconds of a clock that never goes back.

    Args:
        per_second: how fast a bucket fills.
        burst: how much it holds.
    """

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, now: float) -> float:
        """Take one from the bucket of ``key``; returns 0, or the seconds after which there is one again."""
        wait = self.wait(key, now)
        if wait == 0.0:
            self._levels[key] = (self._level(key, now) - 1.0, now)
            self._levels.move_to_end(key)
            if len(self._levels) > MAX_KEYS:
                self._levels.popitem(last=False)
        return wait

    def wait(self, key: str, now: float) -> float:
        """The seconds after which there is one in the bucket of ``key``; 0 where there is. Nothing is taken."""
        level = self._level(key, now)
        return 0.0 if level >= 1.0 else (1.0 - level) / self._per_second

    def _level(self, key: str, now: float) -> float:
        level, at = self._levels.get(key, (self._burst, now))
        return min(self._burst, level + max(0.0, now - at) * self._per_second)

"""How often a source gives windows: as it declares, and as they came. Pure: times are handed in."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["Pace"]

_KEPT: Final = 32


class Pace:
    """The time from one window to the next. One thread writes, any thread reads."""

    def __init__(self) -> None:
        self._arrivals: deque[tuple[float, int]] = deque(maxlen=_KEPT)

    def add(self, now_s: float, windows: int) -> None:
        """Note that ``windows`` came together at the monotonic time ``now_s``."""
        self._arrivals.append((now_s, windows))

    def interval_seconds(self, declared_seconds: float) -> float:
        """Return the mean seconds between two windows, at least ``declared_seconds``; 0: unknown.

        A source that gives its windows in bursts, or only when something happens, has the mean over its last arrivals.
        """
        arrivals = list(self._arrivals)
        if len(arrivals) < 2:
            return declared_seconds
        windows = sum(count for _, count in arrivals[1:])
        return max(declared_seconds, (arrivals[-1][0] - arrivals[0][0]) / windows)

"""Rates and shares with the intervals that say how sure they are. Pure.

Sources: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927) 209-212,
for a share; Byar's approximation of the exact Poisson interval, N. E. Breslow and N. E. Day, "Statistical methods in
cancer research" II (1987), equation 2.10, for a count.

Example::

    share_interval(9, 10)  # (0.596, 0.982): nine of ten were right
    count_interval(3)  # (0.60, 8.77): three false alarms were seen
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

__all__ = ["count_interval", "median", "share_interval"]

_Z: Final = 1.959964
"""Of a two-sided interval that holds in 95 % of all cases."""


def share_interval(successes: int, of: int) -> tuple[float, float]:
    """Between what a share lies, of which ``successes`` of ``of`` were seen; (0, 1) for none."""
    if of <= 0:
        return 0.0, 1.0
    share, square = successes / of, _Z * _Z
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = _Z * math.sqrt(share * (1 - share) / of + square / (4 * of * of)) / (1 + square / of)
    return (0.0 if successes == 0 else middle - half), (1.0 if successes == of else middle + half)


def count_interval(count: int) -> tuple[float, float]:
    """Between what the expected count lies, where ``count`` events were seen."""
    low = 0.0
    if count > 0:
        low = count * (1 - 1 / (9 * count) - _Z / (3 * math.sqrt(count))) ** 3
    more = count + 1
    high = more * (1 - 1 / (9 * more) + _Z / (3 * math.sqrt(more))) ** 3
    return max(0.0, low), high


def median(values: Sequence[float]) -> float | None:
    """The median of ``values``; None for none."""
    ordered = sorted(values)
    if not ordered:
        return None
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2

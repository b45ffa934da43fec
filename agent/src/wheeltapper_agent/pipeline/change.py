"""Change detection on a stream of scores, with bounded memory: ADWIN, and on it a watch over level and spread.

ADWIN keeps a window of the newest values that is as long as their mean did not change. At each look it compares the
means of every older and newer part; where they differ by more than chance allows, the older part is forgotten: all of
it at the clearest cut, not value by value until no cut shows, so that one change is told once.
Source: Bifet and Gavaldà, "Learning from Time-Changing Data with Adaptive Windowing", SDM 2007, section 3.1 (the cut
with the variance, equation 3.1) and section 3.2 (ADWIN2: buckets of sizes 1, 2, 4, …, at most :data:`_SAME_SIZE` of a
size, so that n values take ``O(log n)`` memory).

The bound needs values in 0 to 1. A score has no upper end, so what is watched is ``score / (1 + score)``: 0.5 is the
warning threshold. Two windows are kept: of this value (``level``), and of how much it differs from the one before
(``spread``), since a machine that begins to rattle may keep its mean.

Invariants:
    * Pure but for the detector's own state; the same values always give the same changes.
    * Memory is bounded whatever comes: at most :data:`_SIZES` sizes of :data:`_SAME_SIZE` + 1 buckets; beyond, the
      oldest values are forgotten.
    * A NaN is ignored; an infinite score counts as 1.

What this module does not do: say what to do about a change; look at features (their sketches are compared with the
reference by :mod:`wheeltapper_protocols.drift.drift`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from wheeltapper_protocols.drift.drift import ChangeSpec

__all__ = ["Adwin", "Change", "ScoreChangeDetector", "to_unit_interval"]

_SAME_SIZE: Final = 5
_SIZES: Final = 24
"""Up to 5 * 2**24 of the smallest buckets: weeks at a hundred windows a second."""
_LEAST_BUCKET: Final = 4
"""Where looks are further apart, values need not be told apart so finely: a quarter of the work."""
_LEAST_PART: Final = 5
"""Shorter parts of the window are not compared."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change found: the means of the older and of the newer part, as watched (0 to 1)."""

    kind: Literal["level", "spread"]
    before: float
    after: float


class Adwin:
    """The adaptive window over values between 0 and 1.

    Values wait for the next look and are then put into buckets together, :attr:`base` to the smallest.

    Args:
        delta: how probable a false alarm may be at one look.
        look_every: values between two looks.
        warm_up: values before the first look.
    """

    def __init__(self, delta: float, look_every: int = 32, warm_up: int = 10) -> None:
        self.base = math.gcd(look_every, _LEAST_BUCKET)
        self._delta = delta
        self._look_every = look_every
        self._warm_up = warm_up
        self._new: list[float] = []
        self._sizes: list[list[tuple[float, float]]] = [[]]
        """Buckets by size, in each the oldest first: the sum of ``base * 2**size`` values, and the sum of their squared
        deviations from their mean."""
        self._width = 0
        self._total = 0.0
        self._m2 = 0.0

    @property
    def width(self) -> int:
        """How many values the window holds."""
        return self._width + len(self._new)

    @property
    def mean(self) -> float:
        """The mean of the window; 0 while it is empty."""
        return (self._total + sum(self._new)) / self.width if self.width else 0.0

    @property
    def buckets(self) -> int:
        """How many buckets there are: the memory."""
        return sum(len(buckets) for buckets in self._sizes)

    def add(self, value: float) -> tuple[float, float] | None:
        """Take a value; the means before and after the change, where a look found one."""
        self._new.append(value)
        if len(self._new) < self._look_every:
            return None
        for start in range(0, self._look_every, self.base):
            self._insert(self._new[start : start + self.base])
        self._new.clear()
        return self._look()

    def _insert(self, values: list[float]) -> None:
        """Put ``base`` values into a bucket."""
        n, total = len(values), sum(values)
        mean = total / n
        m2 = sum((value - mean) ** 2 for value in values)
        self._m2 += m2 + _between(self._width, self._total, n, total)
        self._width += n
        self._total += total
        self._sizes[0].append((total, m2))
        for size, buckets in enumerate(self._sizes):
            if len(buckets) <= _SAME_SIZE:
                return
            if size + 1 == _SIZES:
                self._forget()
                return
            if size + 1 == len(self._sizes):
                self._sizes.append([])
            one, other = buckets[:2]
            del buckets[:2]
            held = n << size
            joined_m2 = one[1] + other[1] + _between(held, one[0], held, other[0])
            self._sizes[size + 1].append((one[0] + other[0], joined_m2))

    def _forget(self) -> int:
        """Drop the oldest bucket; how many values it held."""
        total, m2 = self._sizes[-1].pop(0)
        n = self.base << (len(self._sizes) - 1)
        while len(self._sizes) > 1 and not self._sizes[-1]:
            self._sizes.pop()
        self._width -= n
        self._total -= total
        self._m2 = max(0.0, self._m2 - m2 - _between(self._width, self._total, n, total)) if self._width else 0.0
        return n

    def _look(self) -> tuple[float, float] | None:
        """Forget what is older than the clearest cut, while there is one; the first cut's means."""
        found: tuple[float, float] | None = None
        while self._width > self._warm_up and (cut := self._cut()) is not None:
            older, before, after = cut
            found = found or (before, after)
            while older > 0:
                older -= self._forget()
        return found

    def _cut(self) -> tuple[int, float, float] | None:
        """The cut whose means differ most beyond chance: values in its older part, and both means."""
        variance = self._m2 / self._width
        confidence = math.log(2.0 * math.log(self._width) / self._delta)
        best: tuple[int, float, float] | None = None
        clearest = 1.0
        older, total = 0, 0.0
        for size in range(len(self._sizes) - 1, -1, -1):
            for bucket_total, _ in self._sizes[size]:
                older += self.base << size
                total += bucket_total
                newer = self._width - older
                if older < _LEAST_PART or newer < _LEAST_PART:
                    continue
                inverse = 1.0 / older + 1.0 / newer
                limit = math.sqrt(2.0 * inverse * variance * confidence) + 2.0 / 3.0 * inverse * confidence
                before, after = total / older, (self._total - total) / newer
                if abs(before - after) > clearest * limit:
                    clearest = abs(before - after) / limit
                    best = older, before, after
        return best


def _between(n: int, total: float, other_n: int, other_total: float) -> float:
    """What joining two parts adds to their sums of squared deviations (Chan, Golub and LeVeque 1979)."""
    if not n or not other_n:
        return 0.0
    delta = total / n - other_total / other_n
    return delta * delta * n * other_n / (n + other_n)


class ScoreChangeDetector:
    """Watches the level and the spread of a stream of scores."""

    def __init__(self, spec: ChangeSpec) -> None:
        self.level = Adwin(spec.delta, spec.look_windows, spec.warm_up_windows)
        self.spread = Adwin(spec.delta, spec.look_windows, spec.warm_up_windows)
        self._before: float | None = None

    def add(self, score: float) -> list[Change]:
        """Take one window's score; the changes that it brought to light."""
        if math.isnan(score):
            return []
        value = to_unit_interval(score)
        changes = []
        if (found := self.level.add(value)) is not None:
            changes.append(Change("level", *found))
        if self._before is not None and (found := self.spread.add(abs(value - self._before))) is not None:
            changes.append(Change("spread", *found))
        self._before = value
        return changes


def to_unit_interval(score: float) -> float:
    """A score between 0 and 1: 0.5 is the warning threshold."""
    score = max(0.0, score)
    return score / (1.0 + score) if score < math.inf else 1.0

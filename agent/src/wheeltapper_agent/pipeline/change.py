"""Detects changes of level or spread in a stream of scores, with bounded memory (ADWIN). Pure.

ADWIN keeps a window of the newest values that grows as long as their mean does not change. At each check it compares
the means of the older and the newer part of the window, for every way to cut it. Where they differ by more than chance
allows, the older part is dropped. It is dropped whole at the clearest cut, not value by value until no cut shows, so
that one change is reported once.

Source: Bifet and Gavaldà, "Learning from Time-Changing Data with Adaptive Windowing", SDM 2007: section 3.1 (the cut
that uses the variance, equation 3.1) and section 3.2 (ADWIN2: buckets of sizes 1, 2, 4, …, at most :data:`_SAME_SIZE`
of a size, so that n values take ``O(log n)`` memory).

ADWIN's bound holds for values from 0 to 1. A score has no upper end, so the detector sees ``score / (1 + score)``: 0.5
is the warning threshold. It keeps two windows: of this value (``level``), and of its absolute difference from the value
before (``spread``). A machine that begins to rattle may keep its mean.

Invariants:
    * The same values always give the same changes.
    * Memory is bounded: at most :data:`_SIZES` sizes of :data:`_SAME_SIZE` + 1 buckets. Beyond that the oldest values
      are dropped.
    * A NaN is ignored; an infinite score counts as 1.

What this module does not do: decide what is done about a change; look at features
(:mod:`wheeltapper_protocols.drift.drift`).

Example:
    >>> detector = ScoreChangeDetector(ChangeSpec())
    >>> for score in scores:
    ...     for change in detector.add(score):
    ...         print(change.kind, change.before, change.after)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from wheeltapper_protocols.drift.drift import ChangeSpec

__all__ = ["Adwin", "Change", "ScoreChangeDetector", "to_unit_interval"]

_SAME_SIZE: Final = 5
"""Greatest number of buckets of one size; M in the paper."""
_SIZES: Final = 24
"""Number of bucket sizes. They hold up to 5 * 2**24 of the smallest buckets: weeks at a hundred windows a second."""
_LEAST_BUCKET: Final = 4
"""Values in the smallest bucket, if checks are far enough apart: values between two checks need not be told apart, and
a quarter of the buckets is a quarter of the work."""
_LEAST_PART: Final = 5
"""Parts of the window with fewer values than this are not compared."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change that was found: the means of the older and the newer part of the window, from 0 to 1."""

    kind: Literal["level", "spread"]
    before: float
    after: float


class Adwin:
    """The adaptive window over values from 0 to 1.

    Values wait for the next check and are then put into buckets, :attr:`base` values in each of the smallest.

    Args:
        delta: probability of a false alarm at one check.
        look_every: number of values from one check to the next.
        warm_up: number of values before the first check.
    """

    def __init__(self, delta: float, look_every: int = 32, warm_up: int = 10) -> None:
        self.base = math.gcd(look_every, _LEAST_BUCKET)
        self._delta = delta
        self._look_every = look_every
        self._warm_up = warm_up
        self._new: list[float] = []
        self._sizes: list[list[tuple[float, float]]] = [[]]
        """Buckets by size, the oldest first within a size. A bucket holds the sum of ``base * 2**size`` values, and the
        sum of their squared deviations from their mean."""
        self._width = 0
        self._total = 0.0
        self._m2 = 0.0

    @property
    def width(self) -> int:
        """Number of values in the window."""
        return self._width + len(self._new)

    @property
    def mean(self) -> float:
        """Mean of the window; 0 while it is empty."""
        return (self._total + sum(self._new)) / self.width if self.width else 0.0

    @property
    def buckets(self) -> int:
        """Number of buckets; the memory is proportional to it."""
        return sum(len(buckets) for buckets in self._sizes)

    def add(self, value: float) -> tuple[float, float] | None:
        """Take a value; return the means before and after a change, if the check that is due now finds one."""
        self._new.append(value)
        if len(self._new) < self._look_every:
            return None
        for start in range(0, self._look_every, self.base):
            self._insert(self._new[start : start + self.base])
        self._new.clear()
        return self._check()

    def _insert(self, values: list[float]) -> None:
        """Put ``base`` values into a new bucket, and join the oldest buckets of each size that has too many."""
        n, total = len(values), sum(values)
        mean = total / n
        m2 = sum((value - mean) ** 2 for value in values)
        self._m2 += m2 + _joined_m2(self._width, self._total, n, total)
        self._width += n
        self._total += total
        self._sizes[0].append((total, m2))
        for size, buckets in enumerate(self._sizes):
            if len(buckets) <= _SAME_SIZE:
                return
            if size + 1 == _SIZES:
                self._drop_oldest()
                return
            if size + 1 == len(self._sizes):
                self._sizes.append([])
            oldest, second = buckets[:2]
            del buckets[:2]
            held = n << size
            m2 = oldest[1] + second[1] + _joined_m2(held, oldest[0], held, second[0])
            self._sizes[size + 1].append((oldest[0] + second[0], m2))

    def _drop_oldest(self) -> int:
        """Drop the oldest bucket; return how many values it held."""
        total, m2 = self._sizes[-1].pop(0)
        n = self.base << (len(self._sizes) - 1)
        while len(self._sizes) > 1 and not self._sizes[-1]:
            self._sizes.pop()
        self._width -= n
        self._total -= total
        self._m2 = max(0.0, self._m2 - m2 - _joined_m2(self._width, self._total, n, total)) if self._width else 0.0
        return n

    def _check(self) -> tuple[float, float] | None:
        """Drop the part before the clearest cut as long as there is one; return the means of the first cut."""
        found: tuple[float, float] | None = None
        while self._width > self._warm_up and (cut := self._clearest_cut()) is not None:
            older, before, after = cut
            found = found or (before, after)
            while older > 0:
                older -= self._drop_oldest()
        return found

    def _clearest_cut(self) -> tuple[int, float, float] | None:
        """Return the cut whose means differ most beyond chance: the values in its older part, and both means."""
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


def _joined_m2(n: int, total: float, other_n: int, other_total: float) -> float:
    """Return what joining two parts adds to the sum of their squared deviations.

    Source: Chan, Golub and LeVeque, STAN-CS-79-773, 1979.
    """
    if not n or not other_n:
        return 0.0
    delta = total / n - other_total / other_n
    return delta * delta * n * other_n / (n + other_n)


class ScoreChangeDetector:
    """Detects changes of the level and of the spread of a stream of scores."""

    def __init__(self, spec: ChangeSpec) -> None:
        self.level = Adwin(spec.delta, spec.look_windows, spec.warm_up_windows)
        self.spread = Adwin(spec.delta, spec.look_windows, spec.warm_up_windows)
        self._last_value: float | None = None

    def add(self, score: float) -> list[Change]:
        """Take the score of one window; return the changes that it revealed, usually none."""
        if math.isnan(score):
            return []
        value = to_unit_interval(score)
        changes = []
        if (found := self.level.add(value)) is not None:
            changes.append(Change("level", *found))
        if self._last_value is not None and (found := self.spread.add(abs(value - self._last_value))) is not None:
            changes.append(Change("spread", *found))
        self._last_value = value
        return changes


def to_unit_interval(score: float) -> float:
    """Return ``score / (1 + score)``, which is from 0 to 1; 0.5 is the warning threshold."""
    score = max(0.0, score)
    return score / (1.0 + score) if score < math.inf else 1.0

"""Which records of one spool are stored: a high-water mark and the gaps below it. Pure.

A device numbers its records 1, 2, 3, … within an epoch. Of such a spool the fleet knows the highest number stored or
stated (``highest``) and the gaps below: runs of numbers that are not stored. A gap is *missing* while its records may
still come, *dropped* once the device said that they will not. Everything else up to ``highest`` is stored.

Invariants:
    * A number is taken once: :meth:`SpoolPosition.take` returns only what was not stored before.
    * ``stored + dropped + missing = highest``. ``contiguous`` only rises: nothing up to it is missing.
    * What a device says about gaps (``oldest``, ``after``) stays true, so old and repeated messages do no harm. A hole
      further up than ``contiguous`` reaches is not remembered: the device says it again with what is not acknowledged.
    * A record that was under way when the device dropped it is stored when it comes, and no longer counted as dropped.
    * Dropped gaps lie below ``contiguous``, missing ones above.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from wheeltapper_protocols.wire.messages import Alert, Report, Telemetry

__all__ = ["MAX_GAPS", "SpoolChange", "SpoolPosition", "rising", "runs"]

MAX_GAPS: Final = 10_000
"""A spool with more missing runs than this takes only what leaves it no more of them: the device sends the rest again,
from its oldest record on, which closes gaps."""

Gap = tuple[int, int]
"""First and last number that is not stored."""


@dataclass
class SpoolChange:
    """What the messages of one batch say about what a spool holds no more."""

    oldest: int = 1
    """The device holds nothing below this number any more."""
    holes: dict[int, int] = field(default_factory=dict)
    """Upper end → lower end (both exclusive) of ranges of which no record will ever come."""

    def add(self, message: Telemetry | Alert | Report, first: int) -> None:
        """Take in one message of the spool, whose lowest record is ``first``."""
        self.oldest = max(self.oldest, min(message.oldest, first))
        if message.after is not None and message.after < first - 1:
            self.holes[first] = min(message.after, self.holes.get(first, first))


@dataclass
class SpoolPosition:
    """Where a spool stands.

    ``gaps`` hold all missing ones, and of the dropped ones those that the numbers to be taken may lie in; they are
    sorted and do not touch.
    """

    contiguous: int = 0
    highest: int = 0
    stored: int = 0
    dropped: int = 0
    gaps: list[Gap] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """How many records below ``highest`` may still come."""
        return self.highest - self.stored - self.dropped

    def needs_gaps(self, first: int) -> bool:
        """Whether gaps must be read before numbers from ``first`` on are taken."""
        return self.contiguous < self.highest or (self.dropped > 0 and first <= self.highest)

    def take(self, numbers: Sequence[int]) -> Sequence[int]:
        """Store records.

        Args:
            numbers: rising.

        Returns:
            Those that were not stored before; ``numbers`` itself if that is all of them.
        """
        if numbers[0] == self.highest + 1 == self.contiguous + 1 and numbers[-1] - numbers[0] == len(numbers) - 1:
            self.contiguous = self.highest = numbers[-1]
            self.stored += len(numbers)
            return numbers
        taken: list[Gap] = []
        for first, last in runs(numbers):
            self._fill(first, last, taken)
        self._climb()
        count = sum(last - first + 1 for first, last in taken)
        self.stored += count
        if count == len(numbers):
            return numbers
        return [number for first, last in taken for number in range(first, last + 1)]

    def scattered(self, numbers: Sequence[int]) -> bool:
        """Whether taking ``numbers`` would leave more than :data:`MAX_GAPS` gaps, and more than there are."""
        if len(self.gaps) + len(numbers) <= MAX_GAPS:
            return False
        trial = SpoolPosition(self.contiguous, self.highest, self.stored, self.dropped, list(self.gaps))
        trial.take(numbers)
        return len(trial.gaps) > max(MAX_GAPS, len(self.gaps))

    def hear(self, change: SpoolChange) -> None:
        """Count as dropped what the device said will not come."""
        for low, high in sorted([(0, change.oldest), *((low, high) for high, low in change.holes.items())]):
            if low <= self.contiguous < high - 1:
                self._drop(high - 1)

    def _drop(self, last: int) -> None:
        """Nothing up to ``last`` comes any more that is not stored."""
        index = bisect_left(self.gaps, (self.contiguous + 1, 0))
        while index < len(self.gaps) and self.gaps[index][0] <= last:
            start, end = self.gaps[index]
            stop = min(end, last)
            self.dropped += stop - start + 1
            if stop < end:
                self.gaps[index : index + 1] = [(start, stop), (stop + 1, end)]
            index += 1
        if last > self.highest:
            self.dropped += last - self.highest
            self.gaps.append((self.highest + 1, last))
            self.highest = last
        self.contiguous = max(self.contiguous, last)
        self._climb()

    def _climb(self) -> None:
        """Move ``contiguous`` to where the next gap begins."""
        index = bisect_left(self.gaps, (self.contiguous + 1, 0))
        self.contiguous = self.gaps[index][0] - 1 if index < len(self.gaps) else self.highest

    def _fill(self, first: int, last: int, taken: list[Gap]) -> None:
        """Store ``first`` to ``last``; what was not stored before is added to ``taken``."""
        index = bisect_left(self.gaps, (first, 0))
        if index and self.gaps[index - 1][1] >= first:
            index -= 1
        while index < len(self.gaps) and self.gaps[index][0] <= last:
            start, end = self.gaps[index]
            low, high = max(start, first), min(end, last)
            if end <= self.contiguous:
                self.dropped -= high - low + 1
            taken.append((low, high))
            left = [(start, low - 1)] if start < low else []
            right = [(high + 1, end)] if high < end else []
            self.gaps[index : index + 1] = [*left, *right]
            index += len(left) + len(right)
        if last > self.highest:
            low = max(first, self.highest + 1)
            if low > self.highest + 1:
                self.gaps.append((self.highest + 1, low - 1))
            taken.append((low, last))
            self.highest = last


def rising(numbers: list[int]) -> list[int]:
    """``numbers`` in rising order, each once; a message of an honest device has them so already."""
    if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return numbers
    if all(before < after for before, after in itertools.pairwise(numbers)):
        return numbers
    return sorted(set(numbers))


def runs(numbers: Sequence[int]) -> list[Gap]:
    """The unbroken runs of ``numbers``, which rise: first and last number of each."""
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return [(numbers[0], numbers[-1])]
    found = []
    first = last = numbers[0]
    for number in numbers[1:]:
        if number != last + 1:
            found.append((first, last))
            first = number
        last = number
    found.append((first, last))
    return found

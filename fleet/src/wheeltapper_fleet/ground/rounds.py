"""Splits what came in a batch so that many can be handled at once, and each subject still in order. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

__all__ = ["in_rounds"]

T = TypeVar("T")


def in_rounds(items: Iterable[T], subject: Callable[[T], Hashable]) -> list[list[T]]:
    """Rounds of ``items``: within one, no two have the same subject; of one subject, the earlier comes in an earlier
    round.

    Example:
        >>> in_rounds(["a1", "b1", "a2"], lambda each: each[0])
        [['a1', 'b1'], ['a2']]
    """
    rounds: list[list[T]] = []
    before: Counter[Hashable] = Counter()
    for each in items:
        key = subject(each)
        if before[key] == len(rounds):
            rounds.append([])
        rounds[before[key]].append(each)
        before[key] += 1
    return rounds

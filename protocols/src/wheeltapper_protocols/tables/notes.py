"""What a reader left out or could not read, counted by kind. Pure.

Invariants:
    * Nothing that is left out goes uncounted: :attr:`Notes.lost` is the sum.
    * The first of each kind is told at once, with its place; :meth:`Notes.summary` tells the counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["Notes"]

_SUMMARIES: Final = {
    "times": "{} rows without a time were left out",
    "cells": "{} cells that are no numbers count as missing",
    "beyond": "{} values that are infinite, or too large to be measured, count as missing",
    "late": "{} rows whose time came twice or too late were left out",
    "windows": "{} windows with missing values were left out",
    "gaps": "{} rows between gaps that make no whole window were left out",
    "rows": "{} rows were cut off or damaged, and left out",
    "unread": "{} samples after those that the header counts were not read",
    "truncated": "{} samples that the header promises are missing",
}


class Notes:
    """Takes notes while one file is read.

    Args:
        say: called with a sentence for the first of each kind, e.g. a log.
    """

    def __init__(self, say: Callable[[str], None] = lambda text: None) -> None:
        self.counts: dict[str, int] = {}
        """How often each kind was noted."""
        self.first: dict[str, str] = {}
        """What the first of each kind was."""
        self._say = say

    def add(self, kind: str, text: str, count: int = 1) -> None:
        """Note ``count`` of a kind; ``text`` says what the first of them is and where."""
        known = kind in self.counts
        self.counts[kind] = self.counts.get(kind, 0) + count
        if not known:
            self.first[kind] = text
            self._say(text)

    @property
    def lost(self) -> int:
        """Rows and cells that were left out. Samples that a truncated file never had are no more than one."""
        return sum(
            1 if kind in ("truncated", "unread") else self.counts[kind] for kind in _SUMMARIES if kind in self.counts
        )

    def summary(self) -> list[str]:
        """A sentence for each kind of loss, with its count."""
        return [text.format(self.counts[kind]) for kind, text in _SUMMARIES.items() if kind in self.counts]

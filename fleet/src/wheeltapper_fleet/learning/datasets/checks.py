"""Checks of a version: what makes a model look better than it is, or train on what is not there. Pure.

Each check has a name, a verdict, a number and what it was compared with:

===============================  =======================================================================================
``machine_on_two_sides``         fail: machines that are on more than one side
``duplicates_across_splits``     fail: windows that are equal, bit by bit, on two sides (a sample of each item's
windows)
``near_duplicates_across_splits``  warn: windows on two sides of nearly one shape (at most 3 of 64 signs differ)
``duplicates``                   warn: items with the same content
``forms_differ``                 warn: items that differ in kind, rate, window, channels or units from the most
``rate_gives_label_away``        fail: each value of a label has sample rates of its own
``step_gives_label_away``        warn: each value of a label has recorder's steps of its own
``constant_channels``            warn: items with a channel that never changes
``missing_values``               warn: share of values that are missing; fail above a tenth
``clipped_channels``             warn: share of values at the recorder's end in the worst item; fail above a twentieth
``labels_present``               warn: items without a label, where others have some
``label_balance``                warn: share of the rarest value of the label that is most out of balance
``sides_present``                warn: sides that were asked for and have no machine, or one where there are many
``drift_between_splits``         warn: how far the spread of a channel differs between sides (Kolmogorov-Smirnov, items)
===============================  =======================================================================================

Memory: of each item some numbers, not the item; 100,000 items take some 60 MB.

What this module does not do: find windows that overlap by a part, or read content.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.learning.datasets.manifest import Check, Item, form_of

__all__ = ["Checker"]

_NEAR_BITS: Final = 3
_BANDS: Final = 4
_BAND_MASK: Final = np.uint64(0xFFFF)
_MOST_IN_A_BAND: Final = 64
"""Shapes of the other side with the same band that one is compared with; more are too alike to tell apart."""
_BLOCK: Final = 16_384
"""Shapes that are compared at once."""
_MISSING_WARN, _MISSING_FAIL = 0.0, 0.1
_CLIPPED_WARN, _CLIPPED_FAIL = 0.001, 0.05
_BALANCE: Final = 0.05
_DRIFT: Final = 0.6
_DRIFT_ITEMS: Final = 8
"""Least number of items a side for a distance between sides."""
_MOST_VALUES: Final = 50
_NAMED: Final = 5

Verdict = Literal["pass", "warn", "fail"]
Words = npt.NDArray[np.uint64]


class Checker:
    """Takes the items of a version one after the other, and then gives its checks."""

    def __init__(self) -> None:
        self._items = 0
        self._sides: dict[str, set[str]] = defaultdict(set)
        """Of each machine."""
        self._contents: Counter[str] = Counter()
        self._windows = _Sided()
        self._shapes = _Sided()
        self._forms: Counter[tuple[object, ...]] = Counter()
        self._labels: dict[str, Counter[str]] = defaultdict(Counter)
        self._rates: dict[str, dict[str, set[float]]] = defaultdict(lambda: defaultdict(set))
        self._steps: dict[str, dict[str, set[float]]] = defaultdict(lambda: defaultdict(set))
        self._unlabelled = 0
        self._constant: list[str] = []
        self._constants = 0
        self._missing = self._values = 0.0
        self._clipped = (0.0, "")
        self._spreads: dict[tuple[object, ...], dict[str, dict[int, array[float]]]] = {}

    def add(self, item: Item) -> None:
        """Take an item."""
        self._items += 1
        if item.split:
            self._sides[item.machine].add(item.split)
            self._windows.add(item.split, item.windows)
            self._shapes.add(item.split, item.shapes)
        self._contents[f"{item.sha256}/{item.first}"] += 1
        form = form_of(item)
        self._forms[form] += 1
        self._add_labels(item)
        spreads = self._spreads.setdefault(form, {}).setdefault(item.split, {}) if item.split else {}
        for number, (name, channel) in enumerate(zip(item.channels, item.statistics, strict=False)):
            size = item.count * max(1, item.window_samples)
            self._missing, self._values = self._missing + channel.missing * size, self._values + size
            if item.split:
                spreads.setdefault(number, array("d")).append(channel.std)
            if channel.low == channel.high and channel.missing < 1 and item.kind == "recording":
                self._constants += 1
                if len(self._constant) < _NAMED:
                    self._constant.append(f"{name} of {item.source or item.machine}")
            if channel.clipped > self._clipped[0]:
                self._clipped = (channel.clipped, f"{name} of {item.source or item.machine}")

    def _add_labels(self, item: Item) -> None:
        self._unlabelled += not item.labels
        steps = sorted({round(each.step, 12) for each in item.statistics if each.step})
        for label in item.labels:
            value = "a number" if type(label.value) is float else str(label.value)
            values = self._labels[label.name]
            if value in values or len(values) <= _MOST_VALUES:
                values[value] += 1
                self._rates[label.name][value].add(item.sample_rate_hz)
                self._steps[label.name][value].update(steps)

    @property
    def labels(self) -> dict[str, dict[str, int]]:
        """For each name of a label how often each value is there: the most frequent ones; numbers are one value."""
        return {name: dict(sorted(values.most_common(_MOST_VALUES))) for name, values in sorted(self._labels.items())}

    @property
    def leaks(self) -> list[str]:
        """Machines that are on two sides."""
        return sorted(machine for machine, sides in self._sides.items() if len(sides) > 1)

    def checks(self, shares: dict[str, float]) -> list[Check]:
        """All checks of what was added; ``shares`` are the sides that were asked for."""
        return [
            _check("machine_on_two_sides", len(self.leaks), 0, "fail", _named(self.leaks)),
            *self._duplicates(),
            *self._forms_differ(),
            _check("constant_channels", self._constants, 0, "warn", _named(self._constant, self._constants)),
            _graded("missing_values", self._missing / max(1.0, self._values), _MISSING_WARN, _MISSING_FAIL, ""),
            _graded("clipped_channels", self._clipped[0], _CLIPPED_WARN, _CLIPPED_FAIL, self._clipped[1]),
            *self._label_checks(),
            self._sides_present(shares),
            self._drift(),
        ]

    def _duplicates(self) -> Iterator[Check]:
        equal = self._windows.shared()
        yield _check("duplicates_across_splits", equal, 0, "fail", "equal windows" if equal else "")
        near = max(0, self._shapes.near() - equal)
        yield _check("near_duplicates_across_splits", near, 0, "warn", "nearly equal windows" if near else "")
        yield _check("duplicates", sum(count - 1 for count in self._contents.values()), 0, "warn", "")

    def _forms_differ(self) -> Iterator[Check]:
        others = self._items - max(self._forms.values(), default=0)
        rates = sorted({str(form[1]) for form in self._forms})
        detail = f"{len(self._forms)} forms; rates {', '.join(rates[:8])} Hz" if len(self._forms) > 1 else ""
        yield _check("forms_differ", others, 0, "warn", detail)

    def _label_checks(self) -> Iterator[Check]:
        told = [name for name in self._rates if _gives_away(self._rates[name])]
        yield _check("rate_gives_label_away", len(told), 0, "fail", _named(sorted(told)))
        told = [name for name in self._steps if _gives_away(self._steps[name])]
        yield _check("step_gives_label_away", len(told), 0, "warn", _named(sorted(told)))
        some = 0 < self._unlabelled < self._items
        yield _check("labels_present", self._unlabelled if some else 0, 0, "warn", "" if self._labels else "no labels")
        share, which = 1.0, ""
        for name, values in self._labels.items():
            whole = sum(values.values())
            if 1 < len(values) <= _MOST_VALUES:
                value, count = min(values.items(), key=lambda each: (each[1], each[0]))
                if count / whole < share:
                    share, which = count / whole, f"{name} = {value}: {count} of {whole}"
        yield Check(
            name="label_balance",
            verdict="warn" if share < _BALANCE else "pass",
            value=share,
            limit=_BALANCE,
            detail=which[:200],
        )

    def _sides_present(self, shares: dict[str, float]) -> Check:
        machines = Counter(side for sides in self._sides.values() for side in sides)
        lacking = sorted(side for side in shares if not machines[side])
        lonely = sorted(side for side in shares if machines[side] == 1 and len(self._sides) >= 10)
        detail = ", ".join([f"{side} is empty" for side in lacking] + [f"{side} has one machine" for side in lonely])
        return _check("sides_present", len(lacking) + len(lonely), 0, "warn", detail)

    def _drift(self) -> Check:
        worst, detail = 0.0, "too few items a side"
        for form, sides in self._spreads.items():
            enough = {
                side: found for side, found in sides.items() if all(len(v) >= _DRIFT_ITEMS for v in found.values())
            }
            names = sorted(enough)
            for number, one in enumerate(names):
                for other in names[number + 1 :]:
                    detail = detail if worst else ""
                    for channel in enough[one].keys() & enough[other].keys():
                        far = _ks(enough[one][channel], enough[other][channel])
                        if far > worst:
                            channels = form[3]
                            assert isinstance(channels, tuple)
                            worst, detail = far, f"{channels[channel]} between {one} and {other}"
        verdict: Verdict = "warn" if worst > _DRIFT else "pass"
        return Check(name="drift_between_splits", verdict=verdict, value=worst, limit=_DRIFT, detail=detail[:200])


class _Sided:
    """Words of 64 bits, each on a side."""

    def __init__(self) -> None:
        self._words: dict[str, array[int]] = {}

    def add(self, side: str, words: list[str]) -> None:
        """Take words, 16 hex digits each."""
        self._words.setdefault(side, array("Q")).extend(int(word, 16) for word in words if len(word) == 16)

    def _by_side(self) -> list[Words]:
        return [np.unique(np.array(words, dtype=np.uint64)) for _, words in sorted(self._words.items())]

    def shared(self) -> int:
        """How many words are on more than one side."""
        sides = self._by_side()
        return sum(
            len(np.intersect1d(one, other, assume_unique=True))
            for number, one in enumerate(sides)
            for other in sides[number + 1 :]
        )

    def near(self) -> int:
        """How many pairs on different sides differ in at most :data:`_NEAR_BITS` bits.

        Of two such words one of :data:`_BANDS` bands is equal (pigeonholes), so only those with an equal band are
        compared.
        """
        sides, pairs = self._by_side(), set[tuple[int, int]]()
        for number, one in enumerate(sides):
            for other in sides[number + 1 :]:
                for band in range(_BANDS):
                    pairs.update(_near_pairs(one, other, np.uint64(16 * band)))
        return len(pairs)


def _near_pairs(one: Words, other: Words, shift: np.uint64) -> Iterator[tuple[int, int]]:
    """Pairs of words with an equal band that differ in few bits."""
    band = (other >> shift) & _BAND_MASK
    order = np.argsort(band, kind="stable")
    band, other = band[order], other[order]
    for begin in range(0, len(one), _BLOCK):
        words = one[begin : begin + _BLOCK]
        keys = (words >> shift) & _BAND_MASK
        first = np.searchsorted(band, keys)
        counts = np.minimum(np.searchsorted(band, keys, side="right") - first, _MOST_IN_A_BAND)
        left = np.repeat(words, counts)
        right = other[np.arange(len(left)) + np.repeat(first - (np.cumsum(counts) - counts), counts)]
        for index in np.flatnonzero(_bits(left ^ right) <= _NEAR_BITS).tolist():
            yield int(left[index]), int(right[index])


def _bits(words: Words) -> Words:
    """How many bits of each word are set (Warren, Hacker's Delight, 5-1)."""
    pairs = words - ((words >> np.uint64(1)) & np.uint64(0x5555555555555555))
    fours = (pairs & np.uint64(0x3333333333333333)) + ((pairs >> np.uint64(2)) & np.uint64(0x3333333333333333))
    eights = (fours + (fours >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.asarray((eights * np.uint64(0x0101010101010101)) >> np.uint64(56), dtype=np.uint64)


def _gives_away(values: dict[str, set[float]]) -> bool:
    """Whether something that is no part of the signal (a rate, a step) tells values of a label apart."""
    known = {value: found for value, found in values.items() if found}
    if len(known) < 2 or len(set().union(*known.values())) < 2:
        return False
    seen: set[float] = set()
    for found in known.values():
        if seen & found:
            return False
        seen |= found
    return True


def _ks(one: array[float], other: array[float]) -> float:
    """The greatest distance of two distributions (Kolmogorov-Smirnov)."""
    left, right = np.sort(np.array(one)), np.sort(np.array(other))
    both = np.concatenate([left, right])
    shares = [np.searchsorted(values, both, side="right") / len(values) for values in (left, right)]
    return float(np.abs(shares[0] - shares[1]).max())


def _check(name: str, value: float, limit: float, verdict: Verdict, detail: str) -> Check:
    """A check that passes up to its limit."""
    found = verdict if value > limit else "pass"
    return Check(name=name, verdict=found, value=float(value), limit=float(limit), detail=detail[:200])


def _graded(name: str, value: float, warn: float, fail: float, detail: str) -> Check:
    """A check with two limits; the one that was passed, or else the first, is told."""
    verdict: Verdict = "fail" if value > fail else "warn" if value > warn else "pass"
    value = value if math.isfinite(value) else 1.0
    return Check(
        name=name, verdict=verdict, value=value, limit=fail if verdict == "fail" else warn, detail=detail[:200]
    )


def _named(names: list[str], count: int | None = None) -> str:
    """The first of some names, and how many there are."""
    whole = len(names) if count is None else count
    return ", ".join(names[:_NAMED]) + (f" and {whole - _NAMED} more" if whole > _NAMED else "")

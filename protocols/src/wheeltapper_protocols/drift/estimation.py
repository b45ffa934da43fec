"""How good a release is where nobody says what is true: estimated from the scores that devices sketch.

Training writes into the manifest what windows of each bin of the score were in truth, on machines that the model had
not seen (:class:`EstimationSpec`). The fleet weighs this by how often each bin comes now (the sketches of :mod:`sketch`
over the bins of the section ``drift``), so that a fleet in another state than that of training gets another estimate:

* **Classifiers**: confidence-based performance estimation, as NannyML documents CBPE ("Estimating Performance",
  nannyml.readthedocs.io): with calibrated probabilities the expected confusion matrix needs no labels. The calibration
  map is the histogram of the held-out windows over the score (Zadrozny and Elkan, ICML 2001: histogram binning).
* **Regressors**: direct loss estimation (DLE, the same documentation): a small model of the loss. Here it is the mean
  absolute and squared error of each bin of the score, which is a function of the predicted life.

Bounds are one-sided, 95 % each: the machines of the reference and those of now are draws from the same kind of machine,
so where machines differ by s under the present weights the mean of d new ones is off by ``t s sqrt(1/g + 1/d)`` for g
machines of the reference that have such scores (Student's t, g - 1 degrees of freedom), beside the windows' own
sampling.

What is assumed, and cannot be seen without labels: a window of a given score is as often right now as it was in
training. Where the relation itself changes (a new kind of fault), the estimate is wrong; drift of features is the hint.
Held-out windows are scored by nets that saw fewer machines than the one that is released: estimates err to the worse
side, and the bounds do not cover this.

Invariants:
    * Pure. The same sketches always give the same estimate.
    * No estimate is given from fewer than :data:`MIN_WINDOWS` windows or :data:`MIN_GROUPS` machines of the reference.

Example:
    >>> spec = EstimationSpec(kind="classification", groups=[GroupCounts(windows=[0, 90, 10, 0], right=[0, 90, 5, 0],
    ...     faults=[0, 0, 6, 0])] * 3)
    >>> round(estimate(spec, [0.0, 1.0, 2.0], [0, 0, 500, 0], devices=4)[0].value, 2)
    0.5
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from wheeltapper_protocols.drift.sketch import MAX_BINS

__all__ = ["MIN_GROUPS", "MIN_WINDOWS", "Estimate", "EstimationSpec", "GroupCounts", "estimate", "fit_estimation"]

MIN_WINDOWS: Final = 100
MIN_GROUPS: Final = 3
MAX_GROUPS: Final = 32
"""Machines of the reference that are kept apart; more are put together."""
_SLACK: Final = 1e-6
"""Rounding of a number of machines."""
_T95: Final = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812)
"""The 95 % quantile of Student's t for 1 to 10 degrees of freedom (tables of Abramowitz and Stegun, 26.10)."""
_Z95: Final = 1.645

Counts = Annotated[list[Annotated[int, Meta(ge=0, le=2**32 - 1)]], Meta(min_length=3, max_length=MAX_BINS)]
Sums = Annotated[list[Annotated[float, Meta(ge=0, le=1e18)]], Meta(max_length=MAX_BINS)]


class GroupCounts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Held-out windows of one machine, or of some, by the bin of their score: [bin] each.

    Args:
        windows: how many.
        right, faults: of a classifier: whose class was named rightly, and whose true class is none of ``normal``.
        absolute, squared: of remaining life: sums of the absolute and the squared error, in the manifest's unit.
    """

    windows: Counts
    right: Counts | None = None
    faults: Counts | None = None
    absolute: Sums | None = None
    squared: Sums | None = None


class EstimationSpec(Struct, frozen=True, kw_only=True):
    """The manifest's section ``estimation``; its bins are those of the score in the section ``drift``."""

    kind: Literal["classification", "remaining_life"]
    groups: Annotated[list[GroupCounts], Meta(min_length=1, max_length=MAX_GROUPS)]

    def __post_init__(self) -> None:
        names = ("right", "faults") if self.kind == "classification" else ("absolute", "squared")
        bins = len(self.groups[0].windows)
        for group in self.groups:
            of_kind = [getattr(group, name) for name in names]
            if len(group.windows) != bins or any(each is None or len(each) != bins for each in of_kind):
                raise ValueError(f"each group of the section estimation needs {' and '.join(names)} for each bin")
        if not sum(sum(group.windows) for group in self.groups):
            raise ValueError("the section estimation needs windows")


@dataclass(frozen=True)
class Estimate:
    """One figure of quality: what it is estimated to be now, between which bounds, and what it was in the reference.

    ``value`` is None where there is not enough to estimate it from; ``why`` then says what lacks.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    reference: float | None
    why: str = ""


def fit_estimation(
    edges: Sequence[float],
    scores: NDArray[Any],
    machines: NDArray[Any],
    *,
    right: NDArray[Any] | None = None,
    faults: NDArray[Any] | None = None,
    error: NDArray[Any] | None = None,
) -> EstimationSpec:
    """The section ``estimation`` from held-out windows.

    Args:
        edges: of the score's reference in the section ``drift``.
        scores: [window], each by a model that had not seen its machine.
        machines: [window], which machine each is of.
        right, faults: [window] bool, for a classifier.
        error: [window], for remaining life, in the manifest's unit.

    Raises:
        ValueError: neither ``right`` and ``faults`` nor ``error`` are given.
    """
    bins = len(edges) + 1
    at = np.searchsorted(np.asarray(edges, dtype=np.float32), np.asarray(scores, dtype=np.float32), side="right")
    _, group = np.unique(machines, return_inverse=True)
    group = group.reshape(-1) % MAX_GROUPS

    def sums(values: NDArray[Any], number: int) -> NDArray[np.float64]:
        weights = values[group == number].astype(np.float64)
        return np.asarray(np.bincount(at[group == number], weights=weights, minlength=bins), dtype=np.float64)

    def counts(values: NDArray[Any], number: int) -> list[int]:
        return [int(each) for each in sums(values, number)]

    found = []
    for number in range(int(group.max()) + 1):
        windows = counts(np.ones(len(at)), number)
        if right is not None and faults is not None:
            found.append(GroupCounts(windows=windows, right=counts(right, number), faults=counts(faults, number)))
        elif error is not None:
            losses = {"absolute": np.abs(error), "squared": np.square(error, dtype=np.float64)}
            rounded = {name: [float(f"{v:.6g}") for v in sums(each, number)] for name, each in losses.items()}
            found.append(GroupCounts(windows=windows, absolute=rounded["absolute"], squared=rounded["squared"]))
        else:
            raise ValueError("an estimation needs what was right and what was a fault, or the error")
    return EstimationSpec(kind="remaining_life" if error is not None else "classification", groups=found)


def estimate(spec: EstimationSpec, edges: Sequence[float], counts: Sequence[int], devices: int) -> list[Estimate]:
    """The quality of a release where its scores are spread as ``counts``.

    Args:
        spec: of its manifest.
        edges: of the score's reference in its manifest; a score of 1.0 is the warning threshold.
        counts: [bin], the windows of now.
        devices: how many devices they are of; they vary as machines do.

    Returns:
        ``accuracy``, ``precision`` and ``recall`` of a classifier's windows, or ``mae`` and ``rmse`` of remaining life.

    Raises:
        ValueError: ``counts`` has not one entry for each bin.
    """
    reference = _Reference(spec, np.asarray(counts, dtype=np.float64))
    if len(edges) + 1 != reference.bins:
        raise ValueError("the counts are over other bins than the section estimation")
    alarm = (np.concatenate([[-math.inf], np.asarray(edges)]) >= 1.0 - 1e-9).astype(np.float64)
    every = np.ones(reference.bins)
    if spec.kind == "classification":
        return [
            reference.mean("accuracy", "right", every, devices),
            reference.mean("precision", "faults", alarm, devices),
            reference.share("recall", "faults", alarm, devices),
        ]
    mae, mse = (
        reference.mean(*each, every, devices, most=math.inf) for each in (("mae", "absolute"), ("rmse", "squared"))
    )
    roots = [None if each is None else math.sqrt(each) for each in (mse.value, mse.low, mse.high, mse.reference)]
    return [mae, Estimate("rmse", roots[0], roots[1], roots[2], roots[3], mse.why)]


class _Reference:
    """The held-out windows of a section ``estimation``, beside those of now.

    Args:
        spec: the section.
        now: [bin], the windows of now; those in a bin that no held-out window has count in the nearest one.
    """

    def __init__(self, spec: EstimationSpec, now: NDArray[np.float64]) -> None:
        self._groups = spec.groups
        self._windows = np.array([group.windows for group in spec.groups], dtype=np.float64)
        self.bins = self._windows.shape[1]
        if len(now) != self.bins:
            raise ValueError("the counts are over other bins than the section estimation")
        self._pooled = self._windows.sum(axis=0)
        known = np.flatnonzero(self._pooled)
        nearest = known[np.abs(np.arange(self.bins)[:, None] - known[None, :]).argmin(axis=1)]
        self._now = np.bincount(nearest, weights=now, minlength=self.bins)
        self._ratio = self._now / np.maximum(self._pooled, 1.0)
        """[bin]: how many windows of now one held-out window stands for."""

    def mean(self, name: str, field: str, where: NDArray[np.float64], devices: int, most: float = 1.0) -> Estimate:
        """The mean of a sum over the windows of now in the bins ``where`` (1 or 0 each)."""
        sums, means = self._sums(field)
        theirs, now = self._pooled * where, self._now * where
        reference = float(theirs @ means / theirs.sum()) if theirs.sum() else None
        if lacks := self._lacks(float(now.sum())):
            return Estimate(name, None, None, None, reference, lacks)
        off = (sums - self._windows * means) @ (self._ratio * where)
        value, weight = float(now @ means / now.sum()), self._windows @ (self._ratio * where)
        return self._bounded(name, value, off, weight, now.sum(), devices, reference, most)

    def share(self, name: str, field: str, where: NDArray[np.float64], devices: int) -> Estimate:
        """The share of a sum over the windows of now that lies in the bins ``where``."""
        sums, means = self._sums(field)
        theirs, now = self._pooled * means, self._now * means
        reference = float(theirs @ where / theirs.sum()) if theirs.sum() else None
        if lacks := self._lacks(float(self._now.sum())):
            return Estimate(name, None, None, None, reference, lacks)
        if now.sum() < 1.0:
            return Estimate(name, None, None, None, reference, "none is to be expected")
        value = float(now @ where / now.sum())
        off = (sums - self._windows * means) @ (self._ratio * (where - value))
        weight = (self._windows * means) @ self._ratio
        return self._bounded(name, value, off, weight, now.sum(), devices, reference, 1.0)

    def _sums(self, field: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The sums of each machine [machine, bin], and the mean of a held-out window of any [bin]."""
        sums = np.array([getattr(group, field) for group in self._groups], dtype=np.float64)
        return sums, sums.sum(axis=0) / np.maximum(self._pooled, 1.0)

    def _lacks(self, windows: float) -> str:
        return f"{windows:.0f} windows; at least {MIN_WINDOWS} are needed" if windows < MIN_WINDOWS else ""

    def _bounded(
        self,
        name: str,
        value: float,
        off: NDArray[np.float64],
        weight: NDArray[np.float64],
        windows: float,
        devices: int,
        reference: float | None,
        most: float,
    ) -> Estimate:
        """An estimate with its bounds, from how far each machine of the reference is off.

        Args:
            name, value, reference, most: of the figure.
            off: [machine], the sum by which it differs from all machines, over windows that are weighted as now.
            weight: [machine], these weights added up: a machine without windows of such scores says nothing.
            windows: of now that count for it.
            devices: that they are of.
        """
        machines = float(weight.sum() ** 2 / np.sum(weight**2)) if weight.sum() else 0.0
        if machines < MIN_GROUPS - _SLACK:
            lacks = f"only {machines:.1f} machines of the reference have such scores; at least {MIN_GROUPS} are needed"
            return Estimate(name, None, None, None, reference, lacks)
        own = np.divide(off, weight, out=np.zeros_like(off), where=weight > 0)
        variance = float(weight @ (own * own) / weight.sum()) * machines / (machines - 1.0)
        freedom = int(machines + _SLACK) - 1
        quantile = _T95[freedom - 1] if freedom <= len(_T95) else _Z95
        sampling = value * max(0.0, 1.0 - value) / windows if most == 1.0 else 0.0
        width = quantile * math.sqrt(variance * (1.0 / machines + 1.0 / max(1, devices)) + sampling)
        return Estimate(name, value, max(0.0, value - width), min(most, value + width), reference)

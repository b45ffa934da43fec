"""Figures of quality with their confidence, by resampling blocks of windows. Pure.

Windows that follow one another are no independent observations. What is resampled are therefore blocks: whole
recordings where there are at least :data:`MIN_BLOCKS`, else stretches of recordings.

Source of the intervals: Efron, "Bootstrap methods: another look at the jackknife", Ann. Statist. 7 (1979), percentile
method; of blocks: Künsch, "The jackknife and the bootstrap for general stationary observations", Ann. Statist. 17
(1989). Expected calibration error: Naeini, Cooper and Hauskrecht, AAAI 2015, ten bins of equal width.

Invariants:
    * Every metric takes a weight for each window, so that a resample is a vector of weights.
    * Random numbers come from the generator that the caller passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = [
    "CONFIDENCE",
    "MIN_BLOCKS",
    "Estimate",
    "auroc",
    "balanced_accuracy",
    "blocks_of",
    "calibration_error",
    "estimate",
    "mean",
    "rmse",
]

CONFIDENCE: Final = 0.95
MIN_BLOCKS: Final = 10
"""Blocks of each label that are wanted at least."""
_RESAMPLES: Final = 400
_BINS: Final = 10

Floats = npt.NDArray[np.float64]
Metric = Callable[[Floats], float]
"""From weights [window] to the figure; NaN where they leave nothing to compute it from."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval."""

    value: float
    low: float
    high: float
    blocks: int
    """How many blocks were resampled: the fewer, the less the interval says."""
    confidence: float = CONFIDENCE

    def text(self) -> str:
        """For people: the interval and what it rests on."""
        return f"{self.low:.3g} to {self.high:.3g} with {100 * self.confidence:.4g}% confidence, {self.blocks} blocks"


def blocks_of(recording: npt.NDArray[np.int64], labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """[window]: the block of each window. No block spans two recordings or two labels.

    Args:
        recording: [window], the recording of each.
        labels: [window], anything that can be compared.
    """
    blocks = np.zeros(len(recording), dtype=np.int64)
    pairs = np.unique(np.stack([_codes(labels), recording]), axis=1).T
    count = 0
    for label in np.unique(pairs[:, 0]):
        members = pairs[pairs[:, 0] == label, 1]
        each = max(1, -(-MIN_BLOCKS // len(members)))
        for index in members:
            rows = np.flatnonzero((recording == index) & (_codes(labels) == label))
            parts = min(each, len(rows))
            blocks[rows] = count + np.arange(len(rows)) * parts // len(rows)
            count += parts
    return blocks


def estimate(
    metric: Metric,
    blocks: npt.NDArray[np.int64],
    labels: npt.NDArray[Any],
    random: np.random.Generator,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """A figure with its interval.

    Args:
        metric: what is computed.
        blocks: [window], of :func:`blocks_of`.
        labels: [window]; as many blocks of each are drawn as there are.
        random: draws the blocks.
        confidence: of the interval.
    """
    count = int(blocks.max()) + 1
    first = np.zeros(count, dtype=np.int64)
    first[blocks] = _codes(labels)
    found = []
    for _ in range(_RESAMPLES):
        weights = np.zeros(count)
        for label in np.unique(first):
            members = np.flatnonzero(first == label)
            np.add.at(weights, random.choice(members, len(members)), 1.0)
        value = metric(weights[blocks])
        if np.isfinite(value):
            found.append(value)
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail]) if found else (np.nan, np.nan)
    return Estimate(metric(np.ones(len(blocks))), float(low), float(high), count, confidence)


def balanced_accuracy(labels: npt.NDArray[Any], predicted: npt.NDArray[Any]) -> Metric:
    """The mean over the labels of the share of their windows that are predicted as such; chance is 1 / labels."""
    masks = [(labels == label, (labels == label) & (predicted == label)) for label in np.unique(labels)]

    def metric(weights: Floats) -> float:
        shares = [weights[right].sum() / weights[all_].sum() for all_, right in masks if weights[all_].sum()]
        return float(np.mean(shares)) if shares else float("nan")

    return metric


def auroc(score: Floats, positive: npt.NDArray[np.bool_]) -> Metric:
    """The probability that a positive window has a higher score than a negative one; ties count half."""
    order = np.argsort(score, kind="stable")
    groups = np.concatenate([[0], np.cumsum(np.diff(score[order]) > 0)])
    count = int(groups[-1]) + 1

    def metric(weights: Floats) -> float:
        sorted_weights, is_positive = weights[order], positive[order]
        above = np.bincount(groups, sorted_weights * is_positive, count)
        below = np.bincount(groups, sorted_weights * ~is_positive, count)
        total = above.sum() * below.sum()
        if not total:
            return float("nan")
        return float((above * (np.cumsum(below) - below / 2)).sum() / total)

    return metric


def mean(values: Floats) -> Metric:
    """The mean of the values."""

    def metric(weights: Floats) -> float:
        total = weights.sum()
        return float((weights * values).sum() / total) if total else float("nan")

    return metric


def rmse(predicted: Floats, true: Floats) -> Metric:
    """The root mean square of the differences."""
    squares = (predicted - true) ** 2

    def metric(weights: Floats) -> float:
        total = weights.sum()
        return float(np.sqrt((weights * squares).sum() / total)) if total else float("nan")

    return metric


def calibration_error(confidence: Floats, correct: npt.NDArray[np.bool_]) -> Metric:
    """The expected calibration error: how far stated probabilities are from shares of right answers, on average."""
    bins = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)

    def metric(weights: Floats) -> float:
        total = weights.sum()
        stated = np.bincount(bins, weights * confidence, _BINS)
        right = np.bincount(bins, weights * correct, _BINS)
        return float(np.abs(stated - right).sum() / total) if total else float("nan")

    return metric


def _codes(labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """[window]: a number for each label."""
    return np.asarray(np.unique(labels, return_inverse=True)[1], dtype=np.int64)

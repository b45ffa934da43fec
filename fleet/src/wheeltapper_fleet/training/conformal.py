"""Calibrates intervals around predictions on machines that the model had not seen, and probabilities of classes.

* Intervals: split conformal prediction, apart for each range of predicted values (Mondrian). Both ends miss the truth
  equally often. Windows of one machine err alike, so the correction for a finite sample is that of the number of
  machines, not of windows; the share of the new machine counts half, as smoothed conformal prediction does on average
  (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005).
* Probabilities: one temperature for all logits (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).

Invariant: pure functions of arrays.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_protocols.decision.interval import Interval

__all__ = ["covered", "fit_interval", "fit_temperature", "softmax"]

Floats = npt.NDArray[Any]
_RANGES: Final = 6
"""Ranges of predicted values, at most."""
_LEAST_ROWS: Final = 50
"""Predictions of a range, at least."""


def fit_interval(
    predicted: Floats, truth: Floats, coverage: float, machine: npt.NDArray[Any] | None = None
) -> Interval:
    """The interval that holds ``coverage`` of the true values of a machine that nobody has seen.

    Args:
        predicted: [window], of models that had not seen the window's machine.
        truth: [window].
        coverage: 0.5 to below 1.
        machine: [window], the number of its machine; None: each window is of another one.
    """
    whose = np.arange(len(predicted)) if machine is None else machine
    ranges = max(1, min(_RANGES, len(predicted) // _LEAST_ROWS))
    cuts = np.quantile(predicted, np.linspace(0, 1, ranges + 1)[1:-1])
    edges = np.unique(np.round(cuts, 6))
    edges = edges[edges > 0]
    part = np.searchsorted(edges, predicted, side="right")
    below, above = [], []
    for each in range(len(edges) + 1):
        mine = part == each
        miss, machines = (predicted - truth)[mine], len(np.unique(whose[mine]))
        below.append(_reach(miss, machines, coverage))
        above.append(_reach(-miss, machines, coverage))
    return Interval(coverage=coverage, edges=edges.tolist(), below=below, above=above)


def _reach(miss: Floats, machines: int, coverage: float) -> float:
    """How far one end must be: the quantile that leaves half of what is not covered on this side; the farthest miss
    where there are too few machines for it."""
    if not len(miss):
        return 0.0
    level = ((0.5 + coverage / 2) * (machines + 1) - 0.5) / machines
    rank = math.ceil(level * len(miss) - 1e-9)
    return float(max(0.0, np.sort(miss)[min(rank, len(miss)) - 1]))


def covered(interval: Interval, predicted: Floats, truth: Floats, cap: float = math.inf) -> float:
    """The share of true values that lie within the interval."""
    low, high = interval.around(predicted, cap)
    return float(np.mean((low - 1e-6 <= truth) & (truth <= high + 1e-6)))


def softmax(logits: Floats) -> npt.NDArray[np.float64]:
    """Probabilities, [window, class]."""
    power = np.exp(np.asarray(logits, dtype=np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(power / power.sum(axis=1, keepdims=True))


def fit_temperature(logits: Floats, classes: npt.NDArray[Any]) -> float:
    """The temperature by which logits are divided so that their probabilities are the likeliest, 0.05 to 20.

    Args:
        logits: [window, class], of models that had not seen the window's machine.
        classes: [window], the true ones.
    """
    rows = np.arange(len(classes))

    def loss(temperature: float) -> float:
        return float(-np.log(np.maximum(softmax(logits / temperature)[rows, classes], 1e-12)).mean())

    low, high = math.log(0.05), math.log(20.0)
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(40):  # the loss has one minimum: it is convex in 1 / temperature
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(math.exp(left)) < loss(math.exp(right)) else (left, high)
    return math.exp((low + high) / 2)

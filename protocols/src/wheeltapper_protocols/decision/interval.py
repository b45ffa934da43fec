"""Around a predicted number: the interval that holds the true one with a stated probability.

Its ends were calibrated on machines that the model had not seen (conformal prediction: Vovk, Gammerman and Shafer,
"Algorithmic Learning in a Random World", 2005), apart for each range of predicted values.

Invariants:
    * Pure. The interval follows from the predicted value alone, so whoever has a value and the manifest has it.
    * ``0 <= low <= value <= high``.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

__all__ = ["Interval"]

Floats = npt.NDArray[np.float64]
Widths = Annotated[list[Annotated[float, Meta(ge=0, le=1e9)]], Meta(min_length=1, max_length=64)]


class Interval(Struct, frozen=True, kw_only=True):
    """How far the truth may be from a prediction, in the prediction's unit.

    Example:
        >>> Interval(coverage=0.9, edges=[50.0], below=[5.0, 20.0], above=[8.0, 30.0]).around(np.array([40.0, 60.0]))
        (array([35., 40.]), array([48., 90.]))
    """

    coverage: Annotated[float, Meta(ge=0.5, lt=1)]
    """The share of true values that the interval holds."""
    edges: Annotated[list[Annotated[float, Meta(gt=0, le=1e9)]], Meta(max_length=63)]
    """Rising; each begins a new range of predicted values."""
    below: Widths
    above: Widths
    """For each range, one more than edges: how far the truth may be below and above."""

    def __post_init__(self) -> None:
        if not len(self.below) == len(self.above) == len(self.edges) + 1:
            raise ValueError("below and above must have one entry more than edges")
        numbers = (*self.edges, *self.below, *self.above)
        if not all(math.isfinite(each) for each in numbers) or sorted(set(self.edges)) != self.edges:
            raise ValueError("every number of an interval must be finite, and edges must rise")

    def around(self, values: npt.NDArray[Any], cap: float = math.inf) -> tuple[Floats, Floats]:
        """The lower and the upper end for each value; NaN where the value is NaN.

        Args:
            values: [window], the predictions.
            cap: the greatest value that is predicted: the truth counts at most as this.
        """
        given = np.asarray(values, dtype=np.float64)
        part = np.searchsorted(np.array(self.edges), given, side="right")
        low = np.maximum(0.0, given - np.array(self.below)[np.minimum(part, len(self.edges))])
        high = np.minimum(cap, given + np.array(self.above)[np.minimum(part, len(self.edges))])
        return low, np.where(np.isnan(given), np.nan, np.maximum(high, np.minimum(given, cap)))

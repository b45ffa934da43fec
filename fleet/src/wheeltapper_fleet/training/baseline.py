"""How far a device may take its own machine for normal: the section ``baseline``, from the machines of training.

The limits are what these machines differ by, and half as much again: a machine that is farther away than any of them is
looked at by a person before it is believed. The scale never becomes smaller than the fleet's, so that a very steady
machine does not alert at every small change.

What this module does not do: learn a baseline (:mod:`wheeltapper_protocols.decision.baseline`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_protocols.decision.baseline import BaselineSpec

__all__ = ["fit_baseline"]

_MARGIN: Final = 1.5
_LEAST_SHIFT: Final = 2.0
"""In spreads: what a single machine in training cannot show."""
_GREATEST_RATIO: Final = 4.0
_LEAST_SPREAD: Final = 1e-3


def fit_baseline(groups: Sequence[npt.NDArray[Any]], windows: int) -> BaselineSpec:
    """The limits within which a device learns its own level and spread.

    Args:
        groups: for each machine the model's input in its healthy windows, [window, feature].
        windows: how many windows a device learns.
    """
    rows = [np.asarray(group, dtype=np.float64) for group in groups]
    deviations = np.array([each.std(axis=0) for each in rows])
    spread = np.maximum(np.sqrt(np.mean(deviations**2, axis=0)), _LEAST_SPREAD)
    level = np.abs([np.median(each, axis=0) for each in rows]).max(axis=0)
    shift = np.maximum(_MARGIN * level, _LEAST_SHIFT * spread)
    widest = np.clip(_MARGIN * deviations.max(axis=0) / spread, 1.0, _GREATEST_RATIO)
    return BaselineSpec(
        windows=windows,
        outside_windows=windows,
        shift=shift.tolist(),
        spread=spread.tolist(),
        narrowest=[1.0] * len(shift),
        widest=widest.tolist(),
    )

"""Finds the operating conditions in healthy windows, and what is usual in each.

A channel says the condition: the speed, the load, the number of a recipe step. Where it takes few values, each is a
condition; otherwise its range is divided so that each condition has as many windows. A condition reaches half of the
way to its neighbours, so that what is between two known speeds counts to the nearer one, and beyond the least and the
greatest there is an end.

Invariant: pure functions of values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training.recipe import fit_scoring
from wheeltapper_protocols.decision.condition import ConditionSpec
from wheeltapper_protocols.signal.features import FeatureSpec

__all__ = ["AUTO", "LEAST_WINDOWS", "find_centres", "find_setting", "fit_conditions"]

AUTO: Final = "auto"
"""In place of a channel's name: the channel is found."""

LEAST_WINDOWS: Final = 6
"""A condition with fewer healthy windows is not learnt."""
_MOST: Final = 64
"""With more values than this the channel is divided into :data:`_PARTS` conditions."""
_PARTS: Final = 12
_SAME: Final = 1e-3
"""Values that differ by less than this share of the range are the same."""

Values = npt.NDArray[Any]


def find_centres(said: Values) -> tuple[npt.NDArray[np.float64], float]:
    """The values by which conditions are known, in order, and how far each reaches.

    Args:
        said: [window], what the channel says in each healthy window.

    Returns:
        [condition]; none where no condition has :data:`LEAST_WINDOWS` windows.
    """
    ordered = np.sort(np.asarray(said, dtype=np.float64))
    span = float(ordered[-1] - ordered[0])
    if span <= _SAME * max(1.0, abs(float(ordered[-1]))):
        centres = ordered[:1]
    else:
        starts = np.flatnonzero(np.diff(ordered, prepend=-np.inf) > _SAME * span)
        parts = np.split(ordered, starts[1:])
        if len(parts) > _MOST:
            parts = np.array_split(ordered, _PARTS)
        centres = np.array([float(np.median(part)) for part in parts if len(part) >= LEAST_WINDOWS])
    if len(centres) > 1:
        return centres, float(np.median(np.diff(centres))) / 2 * (1 + 1e-6)
    return centres, 0.1 * max(abs(float(ordered[-1])), 1e-6)


def find_setting(means: Values, spans: Values) -> int | None:
    """The channel that says the condition by itself: a setting, which stands at one of a few values.

    A measured value never counts, however many modes it has: a fault moves it, and would be an unknown condition then,
    of which nothing is said. A channel counts where all of its windows stand at 2 to 64 values, each of them in
    :data:`LEAST_WINDOWS` windows at least, and it does not move within a window. The one with the most values is taken:
    what says more conditions says those of the others.

    Args:
        means: [window, channel].
        spans: [window, channel], the greatest less the least sample.
    """
    best, most = None, 1
    for channel in range(means.shape[1]):
        said = np.sort(np.asarray(means[:, channel], dtype=np.float64))
        span = float(said[-1] - said[0])
        if span <= 0 or float(spans[:, channel].max()) > _SAME * span:
            continue
        starts = np.flatnonzero(np.diff(said, prepend=-np.inf) > _SAME * span)
        sizes = np.diff(np.append(starts, len(said)))
        if most < len(sizes) <= _MOST and sizes.min() >= LEAST_WINDOWS:
            best, most = channel, len(sizes)
    return best


def fit_conditions(
    specs: Sequence[FeatureSpec], groups: Sequence[Values], index: int, centres: Values, reach: float
) -> ConditionSpec:
    """What is usual in each condition.

    Args:
        specs: the features.
        groups: for each recording its healthy features, [window, feature].
        index: of the feature that says the condition; it is standardised by the reach, so that it is no sign of
            anything.
        centres: [condition], from :func:`find_centres`.
        reach: from :func:`find_centres`.
    """
    whole = fit_scoring(specs, groups)
    center, scale = [], []
    for centre in centres:
        own = [group[np.abs(group[:, index] - centre) <= reach] for group in groups]
        own = [group for group in own if len(group)]
        enough = sum(map(len, own)) >= LEAST_WINDOWS // 2
        found = fit_scoring(specs, own, transform=whole.transform) if enough else whole
        center.append([float(centre) if i == index else value for i, value in enumerate(found.center)])
        scale.append([reach if i == index else value for i, value in enumerate(found.scale)])
    return ConditionSpec(
        features=[index], centres=[[float(centre)] for centre in centres], reach=[reach], center=center, scale=scale
    )

"""The operating condition of a machine: what is usual depends on its speed, its load, its recipe step.

With the section ``condition`` of a manifest a window is standardised by the usual values of the condition that it was
taken in. Some features say which that is, such as the mean of a channel with the speed; the nearest of the known
conditions counts, if it is within ``reach``. A window beyond the reach of all of them is in an *unknown* condition:
nobody knows what is usual there, so it gets no score, and says so.

Invariants:
    * Pure. The condition of a window does not depend on the windows beside it.
    * An unknown condition raises no alert and is no missing score: it is named (:data:`UNKNOWN`).

What this module does not do: choose the conditions (training does).
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from wheeltapper_protocols.decision.scoring import Scorer, standardised

__all__ = ["UNKNOWN", "ConditionSpec", "Conditions"]

UNKNOWN: Final = "condition.unknown"
"""The label of a window in a condition that the release does not know."""
Row = Annotated[list[float], Meta(min_length=1, max_length=512)]


class ConditionSpec(Struct, frozen=True, kw_only=True):
    """The manifest's section ``condition``."""

    features: Annotated[list[Annotated[int, Meta(ge=0, le=511)]], Meta(min_length=1, max_length=16)]
    """Indices of the features that say the condition."""
    centres: Annotated[list[Row], Meta(min_length=1, max_length=256)]
    """[condition, of ``features``], the values by which each is known."""
    reach: Row
    """[of ``features``]: a window is in a condition where each of its values is at most so far from the centre."""
    center: Annotated[list[Row], Meta(min_length=1, max_length=256)]
    """[condition, feature]: the usual values after the transform, instead of ``scoring.center``."""
    scale: Annotated[list[Row], Meta(min_length=1, max_length=256)]
    """[condition, feature]: instead of ``scoring.scale``."""

    def __post_init__(self) -> None:
        said, count = len(self.features), len(self.center[0])
        if not len(self.centres) == len(self.center) == len(self.scale):
            raise ValueError("centres, center and scale of the section condition must have one row a condition")
        if len(self.reach) != said or any(len(row) != said for row in self.centres):
            raise ValueError("reach and centres of the section condition need one number for each of its features")
        if any(len(row) != count for row in (*self.center, *self.scale)):
            raise ValueError("center and scale of the section condition need one number for each feature")
        rows = (*self.centres, self.reach, *self.center, *self.scale)
        if not all(math.isfinite(value) for row in rows for value in row):
            raise ValueError("every number of the section condition must be finite")
        if min(self.reach) <= 0 or min(map(min, self.scale)) <= 0:
            raise ValueError("reach and scale of the section condition must be above 0")


class Conditions:
    """The section ``condition`` of a manifest, ready to be computed.

    Args:
        spec: the section.
        scorer: of the section ``scoring``, which says the transforms.

    Raises:
        ValueError: the section has another number of features than the scoring.
    """

    def __init__(self, spec: ConditionSpec, scorer: Scorer) -> None:
        if len(spec.center[0]) != len(scorer.names) or max(spec.features) >= len(scorer.names):
            raise ValueError(f"the section condition has not the {len(scorer.names)} features of the scoring")
        self.spec = spec
        self._scorer = scorer
        self._centres = np.array(spec.centres, dtype=np.float64)
        self._reach = np.array(spec.reach, dtype=np.float64)
        self._center = np.array(spec.center, dtype=np.float64)
        self._scale = np.array(spec.scale, dtype=np.float64)

    def find(self, features: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
        """[window]: the condition of each window of ``features`` [window, feature], -1 where it is unknown."""
        nearest, apart = self._nearest(features)
        return np.where(apart <= 1.0, nearest, -1)

    def _nearest(self, features: npt.NDArray[Any]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        """[window] each: the nearest condition, and how far it is in units of the reach."""
        said = np.asarray(features[:, self.spec.features], dtype=np.float64)
        apart = (np.abs(said[:, None] - self._centres) / self._reach).max(axis=2)
        nearest = np.argmin(np.where(np.isnan(apart), np.inf, apart), axis=1)
        return nearest, apart[np.arange(len(apart)), nearest]

    def model_input(self, features: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """[window, feature] float32: ``features`` standardised by their condition, or by the nearest one."""
        nearest, _ = self._nearest(features)
        return standardised(features, self._scorer.log, self._center[nearest], self._scale[nearest])

    def usual(self, features: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """[feature]: the usual values in the condition of one window of ``features`` [feature]."""
        center = self._center[self._nearest(features[None])[0][0]]
        return np.asarray(np.where(self._scorer.log, np.exp(np.clip(center, -700, 700)), center), dtype=np.float64)

"""From features and the output of an autoencoder to a score.

The model's input is ``z = (transform(feature) - center) / scale``. The model reconstructs it; the residual is the input
minus the output. The score is the weighted root mean square of the residuals over ``threshold``, so that 1.0 is the
warning threshold.

Invariants:
    * The input is not clipped to the range of an int8 model: the model clips, the residual does not, so a worse machine
      has a higher score. The input is bounded at :data:`Z_LIMIT`, so that it stays finite.
    * Scores are finite unless a feature or an output is not. Then the window's score is not, and its shares are equal.
    * The shares of a window are at least 0 and sum to 1.

What this module does not do: run the model, smooth scores, decide (:mod:`decision`).
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

__all__ = ["Z_LIMIT", "Scorer", "Scores", "ScoringSpec", "standardised"]

Z_LIMIT: Final = 1000.0
"""Greatest absolute value of a standardised feature."""
LOG_FLOOR: Final = 1e-9
"""Least value of a feature whose logarithm is taken, so that a silent sensor has a finite one."""

Values = Annotated[list[float], Meta(min_length=1, max_length=512)]


class ScoringSpec(Struct, frozen=True, kw_only=True):
    """The manifest's section ``scoring``. Every list has one entry for each feature, in the manifest's order."""

    transform: Annotated[list[Literal["log", "affine"]], Meta(min_length=1, max_length=512)]
    """``log``: the natural logarithm is taken; ``affine``: the feature is used as it is."""
    center: Values
    """The usual value, after the transform."""
    scale: Values
    """The change that is 1 in the model's input, after the transform."""
    weight: Values
    """Weight of the squared residual."""
    down: Values
    """Factor on residuals below zero: a machine that becomes quieter matters less than one that becomes louder."""
    threshold: Annotated[float, Meta(gt=0)]
    """The weighted root mean square of the residuals at which the score is 1."""

    def __post_init__(self) -> None:
        lists = (self.center, self.scale, self.weight, self.down)
        if any(len(values) != len(self.transform) for values in lists):
            raise ValueError("transform, center, scale, weight and down must have one entry a feature")
        if not all(math.isfinite(value) for values in (*lists, [self.threshold]) for value in values):
            raise ValueError("every number of the section scoring must be finite")
        if min(self.scale) <= 0 or min(self.weight) < 0 or min(self.down) < 0 or sum(self.weight) <= 0:
            raise ValueError("scale must be > 0; weight and down must be >= 0, and some weight > 0")


class Scores:
    """Scores of some windows, with each feature's share.

    Args:
        score: [window] float64; 1.0 is the warning threshold.
        parts: [window, feature] float64, the part of each feature in the square of the score.
    """

    __slots__ = ("_parts", "score")

    def __init__(self, score: npt.NDArray[np.float64], parts: npt.NDArray[np.float64]) -> None:
        self.score = score
        self._parts = parts

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """[window, feature] float64: the share of each feature in the score; those of a window sum to 1."""
        total = self._parts.sum(axis=1)
        usable = np.isfinite(total) & (total > 0)
        shares = np.full(self._parts.shape, 1.0 / self._parts.shape[1])
        shares[usable] = self._parts[usable] / total[usable, None]
        return shares


class Scorer:
    """The section ``scoring`` of a manifest, ready to be computed.

    Args:
        spec: the section.
        names: [feature], the names in the section's order.

    Raises:
        ValueError: the section has another number of features.
    """

    def __init__(self, spec: ScoringSpec, names: tuple[str, ...]) -> None:
        if len(names) != len(spec.center):
            raise ValueError(f"the scoring has {len(spec.center)} features, the manifest names {len(names)}")
        self.spec = spec
        self.names = tuple(names)
        self.log: npt.NDArray[np.bool_] = np.array([kind == "log" for kind in spec.transform])
        self._center = np.array(spec.center, dtype=np.float64)
        self._scale = np.array(spec.scale, dtype=np.float64)
        weight = np.array(spec.weight, dtype=np.float64)
        self._weight = weight / weight.sum()
        self._weight_down = self._weight * np.array(spec.down, dtype=np.float64) ** 2
        self.usual: npt.NDArray[np.float64] = np.where(
            self.log, np.exp(np.where(self.log, np.clip(self._center, -700, 700), 0.0)), self._center
        )

    def model_input(self, features: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """[window, feature] float32: the standardised features of ``features`` [window, feature]."""
        return standardised(features, self.log, self._center, self._scale)

    def score(self, model_input: npt.NDArray[Any], model_output: npt.NDArray[Any]) -> Scores:
        """The scores of some windows.

        Args:
            model_input: [window, feature], from :meth:`model_input`.
            model_output: [window, feature], the model's reconstruction of it.
        """
        residual = model_input.astype(np.float64)
        residual -= model_output
        parts = np.where(residual < 0, self._weight_down, self._weight)
        with np.errstate(invalid="ignore"):  # an infinite residual of weight 0
            parts *= residual
            parts *= residual
        return Scores(np.sqrt(np.add.reduce(parts, axis=1)) / self.spec.threshold, parts)


def standardised(
    features: npt.NDArray[Any],
    log: npt.NDArray[np.bool_],
    center: npt.NDArray[np.float64],
    scale: npt.NDArray[np.float64],
) -> npt.NDArray[np.float32]:
    """[window, feature] float32: ``(transform(features) - center) / scale``, bounded at :data:`Z_LIMIT`.

    Args:
        features: [window, feature].
        log: [feature], where the logarithm is taken.
        center, scale: [feature] or [window, feature].
    """
    z = (transformed(features, log) if log.any() else features) - center
    z /= scale
    np.maximum(z, -Z_LIMIT, out=z)
    np.minimum(z, Z_LIMIT, out=z)
    return z.astype(np.float32)


def transformed(features: npt.NDArray[Any], log: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """[window, feature] float64: ``features`` after the transform, the natural logarithm where ``log`` [feature]."""
    values = np.array(features, dtype=np.float64)
    np.maximum(values, LOG_FLOOR, out=values, where=log)
    np.log(values, out=values, where=log)
    return values

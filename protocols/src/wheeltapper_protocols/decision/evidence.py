"""Evidence from several small detectors, combined so that a rise of one kind is not drowned by the others.

Each detector looks at some features and gives a value; its ``limit`` makes values comparable. The value of a kind is
the greatest of its detectors over their limits. The score of a window is the greater of two numbers, so that 1.0 is the
warning threshold, as with the section ``scoring``:

* the second greatest of the kinds ``level``, ``impulsiveness`` and ``modulation``, over ``together``: two kinds that
  agree need less each, because what wanders in a healthy machine seldom moves two of them;
* the greatest of all kinds, over ``alone``: one kind must say it louder. ``shape`` and ``density`` look at every
  feature, so they agree with any other and count here only.

The kinds, with ``z`` the standardised features of the section ``scoring``. Where ``z`` is negative it is multiplied by
``down`` of that section: a machine that becomes quieter matters less than one that becomes louder.

* ``level``, ``impulsiveness``, ``modulation``: the root mean square of ``z`` over the detector's features. They differ
  in what the features say of the machine, and so in what an alert says.
* ``shape``: the root mean square of the residual, which is ``z`` without the model's reconstruction of it.
* ``density``: the root mean square of ``axes @ z``, the Mahalanobis distance (Mahalanobis, "On the generalised distance
  in statistics", 1936) over the square root of the number of axes.

Invariants:
    * Pure. The score of a window does not depend on the windows beside it.
    * A feature or an output of a detector that is not finite gives a score that is not.

What this module does not do: choose the detectors and their limits (training does), decide (:mod:`decision`).
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from wheeltapper_protocols.decision.scoring import ScoringSpec

__all__ = ["Detector", "DetectorKind", "Evidence", "EvidenceSpec"]

DetectorKind = Literal["level", "impulsiveness", "modulation", "shape", "density"]
Index = Annotated[int, Meta(ge=0, le=511)]
_MAX_DETECTORS: Final = 1024
_KINDS: Final = ("level", "impulsiveness", "modulation", "shape", "density")
_AGREEING: Final = ("level", "impulsiveness", "modulation")
"""The kinds that may agree: each looks at features of its own."""
_ORDER: Final = 4
_GREATEST: Final = 1e280
"""Greatest square of a value: a sum of them is finite."""


class Detector(Struct, frozen=True, kw_only=True):
    """One of the detectors of the manifest's section ``evidence``."""

    kind: DetectorKind
    features: Annotated[list[Index], Meta(min_length=1, max_length=512)]
    """Indices into the manifest's features."""
    limit: Annotated[float, Meta(gt=0, le=1e6)]
    """The value that counts as 1."""
    axes: Annotated[list[list[float]], Meta(min_length=1, max_length=512)] | None = None
    """[axis, feature] of ``density``: the directions in which ``z`` is uncorrelated and of unit variance."""

    def __post_init__(self) -> None:
        if len(set(self.features)) != len(self.features):
            raise ValueError("a detector names a feature twice")
        if not math.isfinite(self.limit):
            raise ValueError("the limit of a detector must be finite")
        if (self.kind == "density") != (self.axes is not None):
            raise ValueError("a detector of the kind density needs axes, and no other may have them")
        if self.axes is not None and not all(
            len(axis) == len(self.features) and all(math.isfinite(value) for value in axis) for axis in self.axes
        ):
            raise ValueError("each axis of a detector must have one finite number for each of its features")


class EvidenceSpec(Struct, frozen=True, kw_only=True):
    """The manifest's section ``evidence``."""

    detectors: Annotated[list[Detector], Meta(min_length=1, max_length=_MAX_DETECTORS)]
    together: Annotated[float, Meta(gt=0, le=100)] = 1.0
    """What the second greatest kind must reach."""
    alone: Annotated[float, Meta(gt=0, le=100)] = 1.0
    """What the greatest kind must reach."""


class Evidence:
    """The section ``evidence`` of a manifest, ready to be computed.

    Args:
        spec: the section.
        scoring: the section ``scoring``, which standardises the features.

    Raises:
        ValueError: a detector names a feature that is not there.
    """

    def __init__(self, spec: EvidenceSpec, scoring: ScoringSpec) -> None:
        count, detectors = len(scoring.center), spec.detectors
        if any(index >= count for each in detectors for index in each.features):
            raise ValueError(f"a detector names a feature that is not there: there are {count}")
        self.spec = spec
        self.detectors = tuple(detectors)
        # Columns are kept by kind, those that may agree first: the greatest of each kind is one call then.
        self._order = np.array(
            sorted(range(len(detectors)), key=lambda i: _KINDS.index(detectors[i].kind)), dtype=np.intp
        )
        ordered = [detectors[i] for i in self._order]
        self._starts = np.array([i for i in range(len(ordered)) if not i or ordered[i].kind != ordered[i - 1].kind])
        self._agreeing = len({each.kind for each in detectors} & set(_AGREEING))
        self._shaped = any(each.kind == "shape" for each in detectors)
        down = np.array(scoring.down, dtype=np.float64)
        self._down = down
        self._down_both = np.concatenate([down, down]) if self._shaped else down
        # The squares of z and of the residual, side by side, times these weights are the squares of the values.
        self._weight = np.zeros((len(self._down_both), len(detectors)))
        self._dense: list[tuple[int, slice | list[int], npt.NDArray[np.float64]]] = []
        for column, each in enumerate(ordered):
            if each.axes is not None:
                axes = np.array(each.axes, dtype=np.float64).T / (each.limit * math.sqrt(len(each.axes)))
                every = each.features == list(range(count))
                self._dense.append((column, slice(0, count) if every else each.features, axes))
                continue
            rows = np.array(each.features) + (count if each.kind == "shape" else 0)
            self._weight[rows, column] = 1.0 / (len(each.features) * each.limit**2)

    def _squares(self, model_input: npt.NDArray[Any], model_output: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """[window, column] float64: the squares of the values over their limits."""
        count = len(self._down)
        parts = np.empty((len(model_input), len(self._down_both)))
        parts[:, :count] = model_input
        with np.errstate(over="ignore", invalid="ignore"):
            if self._shaped:
                np.subtract(parts[:, :count], model_output, out=parts[:, count:])
            parts *= np.where(parts < 0, self._down_both, 1.0)
            squares = parts * parts
            np.minimum(squares, _GREATEST, out=squares)  # an infinite one of weight 0 must stay 0; NaN stays NaN
            found = np.asarray(squares @ self._weight, dtype=np.float64)
            for column, features, axes in self._dense:
                away = parts[:, features] @ axes
                found[:, column] = np.einsum("ij,ij->i", away, away)
        return found

    def _combined(self, squares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """[window] float64: the scores of ``squares`` [window, column]."""
        kinds = np.maximum.reduceat(squares, self._starts, axis=1)
        score = np.sqrt(kinds.max(axis=1)) / self.spec.alone
        if self._agreeing > 1:
            second = np.sort(kinds[:, : self._agreeing], axis=1)[:, -2]
            score = np.maximum(score, np.sqrt(second) / self.spec.together)
        return np.asarray(score, dtype=np.float64)

    def values(self, model_input: npt.NDArray[Any], model_output: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """[window, detector] float64: the value of each detector over its limit.

        Args:
            model_input: [window, feature], the standardised features.
            model_output: [window, feature], the model's reconstruction of them.
        """
        found = np.empty((len(model_input), len(self.detectors)))
        found[:, self._order] = np.sqrt(self._squares(model_input, model_output))
        return found

    def strength(self, model_input: npt.NDArray[Any], model_output: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """[window] float64: all evidence together, the norm of order :data:`_ORDER` of the values over their limits.

        Reasons are found by what lowers it: of the score alone, only the features of one detector would be reasons.
        """
        values = np.minimum(self.values(model_input, model_output), _GREATEST ** (1 / _ORDER**2))
        return np.asarray(np.power(np.sum(values**_ORDER, axis=1), 1 / _ORDER), dtype=np.float64)

    def strongest(self, model_input: npt.NDArray[Any], model_output: npt.NDArray[Any]) -> tuple[Detector, float]:
        """The detector with the greatest value in one window, [feature] each, and that value over its limit."""
        values = self.values(model_input[None], model_output[None])[0]
        column = int(np.argmax(np.nan_to_num(values, nan=-1.0)))
        return self.detectors[column], float(values[column])

    def shares(self, model_input: npt.NDArray[Any], model_output: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """[window, feature] float64: each feature's share in the greatest value; those of a window sum to 1.

        Of a density it is what the feature adds to the squared distance, where that is above 0.
        """
        found = np.full(model_input.shape, 1.0 / model_input.shape[1])
        for row, (given, output) in enumerate(zip(model_input.astype(np.float64), model_output, strict=True)):
            detector, _ = self.strongest(given, output)
            z = given - output if detector.kind == "shape" else given
            z = np.where(z < 0, z * self._down, z)[detector.features]
            parts = z * z
            if detector.axes is not None:
                axes = np.array(detector.axes)
                parts = np.maximum(z * (axes.T @ (axes @ z)), 0.0)
            total = float(parts.sum())
            if np.isfinite(total) and total > 0:
                found[row] = 0.0
                found[row, detector.features] = parts / total
        return found

    def score(self, model_input: npt.NDArray[Any], model_output: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """[window] float64; 1.0 is the warning threshold. NaN where a value is."""
        return self._combined(self._squares(model_input, model_output))

    def combined(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """[window] float64: the scores of ``values`` [window, detector]."""
        return self._combined(np.square(values[:, self._order]))

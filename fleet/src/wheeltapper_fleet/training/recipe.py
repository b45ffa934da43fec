"""The default recipe's arithmetic: how healthy features become a scoring, and how the warning threshold is found.

The threshold is meant to hold for machines that nobody has seen wear out, from as little as a quarter of an hour of
healthy data. It is therefore the greater of a fixed level (in units of healthy standard deviations, raised when there
are few windows) and a margin above the smoothed scores of healthy windows that the net was *not* fitted to
(cross-validation over blocks of time).

Invariants: pure; no window is scored by a net that saw its block of time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from wheeltapper_protocols.decision import DecisionSpec
from wheeltapper_protocols.features import FeatureSpec
from wheeltapper_protocols.scoring import Scorer, ScoringSpec, transformed

from wheeltapper_fleet.training import network

__all__ = ["DECISION", "Calibration", "calibrate", "fit_scoring"]

DECISION: Final = DecisionSpec(smooth_windows=5, raise_windows=6, clear_windows=10, critical_level=2.0, clear_level=0.8)
FOLDS: Final = 3
_SCALE_FLOOR: Final = 0.1
"""Least healthy standard deviation: 10 % of the value on a log scale. A quiet machine is not a sensitive one."""
_SCALE_CAP: Final = 0.2
"""Greatest: with more, and with machines of very different levels, not even ten times the vibration would count."""
_ENERGY_KINDS: Final = frozenset({"rms", "peak", "band_rms"})
_SHAPE_WEIGHT: Final = 0.1
"""Features of shape vary more by themselves than they tell; the energies carry the wear."""
_DOWN: Final = 0.2
_LEVEL: Final = 4.35
_LEVEL_RECORDINGS: Final = 0.15
"""Raised by this over the number of recordings: one machine's start says little of how machines drift."""
_LEVEL_WINDOWS: Final = 3.0
_MARGIN: Final = 1.25
_LEVEL_MOST: Final = 1.08
"""Running-in makes the first block strange to a net that did not see it: the rest of life must not go deaf for that."""
_LINEAR_KINDS: Final = frozenset({"skewness"})

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Calibration:
    """The threshold, and what the nets of the cross-validation said of the windows that they had not seen."""

    threshold: float
    held_out: tuple[npt.NDArray[np.float64], ...]
    """For each recording the root mean square residuals of its healthy windows, in order."""


def fit_scoring(specs: Sequence[FeatureSpec], groups: Sequence[Values], threshold: float = 1.0) -> ScoringSpec:
    """Center and scale of healthy features; ``groups`` are the recordings' [window, feature]."""
    log = np.array([spec.kind not in _LINEAR_KINDS for spec in specs])
    values = [transformed(group, log) for group in groups]
    # Recordings count alike, however long they are.
    center = np.median([np.median(group, axis=0) for group in values], axis=0)
    # Within recordings: what tells machines apart is for the net to learn, and must not hide wear.
    variance = np.mean([np.mean((group - np.median(group, axis=0)) ** 2, axis=0) for group in values], axis=0)
    windows = sum(len(group) for group in groups)
    deviation = np.sqrt(variance * windows / max(1, windows - 1))
    scale = np.clip(deviation, _SCALE_FLOOR, np.where(log, _SCALE_CAP, np.inf))
    return ScoringSpec(
        transform=["log" if is_log else "affine" for is_log in log],
        center=center.tolist(),
        scale=scale.tolist(),
        weight=[1.0 if spec.kind in _ENERGY_KINDS else _SHAPE_WEIGHT for spec in specs],
        down=[1.0 if spec.kind in _LINEAR_KINDS else _DOWN for spec in specs],
        threshold=threshold,
    )


def calibrate(specs: Sequence[FeatureSpec], groups: Sequence[Values], seed: int) -> Calibration:
    """Find the threshold by cross-validation over blocks of time."""
    names = tuple(spec.name for spec in specs)
    cuts = [np.linspace(0, len(group), FOLDS + 1).astype(int) for group in groups]
    held_out = [np.zeros(len(group)) for group in groups]
    for fold in range(FOLDS):
        spans = [slice(cut[fold], cut[fold + 1]) for cut in cuts]
        rest = [np.delete(group, np.r_[span], axis=0) for group, span in zip(groups, spans, strict=True)]
        scorer = Scorer(fit_scoring(specs, rest), names)
        layers = network.fit(np.concatenate([scorer.model_input(group) for group in rest]), seed)
        for residual, group, span in zip(held_out, groups, spans, strict=True):
            rows = scorer.model_input(group[span])
            residual[span] = scorer.score(rows, network.run(layers, rows)).score
    worst = max(float(_smoothed(residual).max()) for residual in held_out)
    windows = sum(len(group) for group in groups)
    level = _LEVEL * (1 + _LEVEL_WINDOWS / windows) * (1 + _LEVEL_RECORDINGS / len(groups))
    threshold = min(max(level, _MARGIN * worst), _LEVEL_MOST * level)
    return Calibration(threshold=threshold, held_out=tuple(held_out))


def _smoothed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    width = min(DECISION.smooth_windows, len(values))
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(values, width), axis=1))

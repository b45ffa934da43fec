"""The default recipe's arithmetic: how healthy features become a scoring, and how the warning threshold is found.

The threshold is meant to hold for machines that nobody has seen wear out, from as little as a quarter of an hour of
healthy data. It is therefore the greater of a fixed level (in units of healthy standard deviations, raised when there
are few windows) and a margin above the lasting scores of healthy windows that the net was *not* fitted to
(cross-validation over blocks of time).

Invariants: pure; no window is scored by a net that saw its block of time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training import network
from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.decision.scoring import Scorer, ScoringSpec, transformed
from wheeltapper_protocols.signal.features import FeatureSpec

__all__ = ["DECISION", "Calibration", "calibrate", "fit_scoring"]

DECISION: Final = DecisionSpec(
    smooth_windows=1, raise_windows=3, fast_level=1.4, fast_windows=2, clear_windows=10, critical_level=2.0,
    clear_level=0.8,
)  # fmt: skip
"""Three windows running above the threshold, or two far above it. With few windows over a life (a snapshot now and
then) a bearing's end is a few windows long: a median of five held for six missed 10 of 130 recordings, this none."""
FOLDS: Final = 3
_SCALE_FLOOR: Final = 0.1
"""Least healthy standard deviation: 10 % of the value on a log scale. A quiet machine is not a sensitive one."""
_SCALE_CAP: Final = 0.2
"""Greatest: with more, and with machines of very different levels, not even ten times the vibration would count."""
_WEIGHTS: Final = {
    "rms": 1.0, "peak": 1.0, "band_rms": 1.0,
    "crest": 0.1, "kurtosis": 0.1, "skewness": 0.1, "centroid": 0.1, "envelope_rms": 0.1,
}  # fmt: skip
"""Features of shape vary more by themselves than they tell; the energies carry the wear."""
_ENVELOPE_WEIGHT_ALONE: Final = 0.6
"""Of one machine the modulation depth tells of local damage early (simulated outer races: at 54 to 61 % of the way
from onset to failure, with 0.1 at 63 to 65 %); between machines it differs, and a weight like this
warned of a healthy one."""
_DOWN: Final = 0.2
_LEVEL: Final = 5.2
_LEVEL_ALONE: Final = 5.0
"""Fixed, because the healthy start does not tell: over six bearings in seven forms each, the greatest score of the
first quarter was 0.4 to 6 times the greatest cross-validated one of the first tenth. Of a run's own first quarter the
greatest score that lasted three windows was 4.4, of a run that was judged by several others 5.1."""
_LEVEL_WINDOWS: Final = 1.0
"""Raised by this over the number of windows."""
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
    weights = _WEIGHTS | ({"envelope_rms": _ENVELOPE_WEIGHT_ALONE} if len(groups) == 1 else {})
    return ScoringSpec(
        transform=["log" if is_log else "affine" for is_log in log],
        center=center.tolist(),
        scale=scale.tolist(),
        weight=[weights[spec.kind] for spec in specs],
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
    worst = max(_lasting(residual) for residual in held_out)
    windows = sum(len(group) for group in groups)
    level = (_LEVEL_ALONE if len(groups) == 1 else _LEVEL) * (1 + _LEVEL_WINDOWS / windows)
    threshold = min(max(level, _MARGIN * worst), _LEVEL_MOST * level)
    return Calibration(threshold=threshold, held_out=tuple(held_out))


def _lasting(values: npt.NDArray[np.float64]) -> float:
    """The greatest level that some windows running reached, as many as it takes to raise the alert."""
    width = min(DECISION.raise_windows, len(values))
    return float(np.lib.stride_tricks.sliding_window_view(values, width).min(axis=1).max())

"""The default recipe: how healthy features become a scoring, and how the warning threshold is found.

The threshold must hold for machines whose failure nobody has recorded, from as little as a quarter of an hour of
healthy data. It is the greater of two values, and at most :data:`_MAX_THRESHOLD_RATIO` times the first:

1. a fixed minimum in healthy standard deviations, raised when there are few windows;
2. a margin above the sustained scores of healthy windows, by models that were *not* fitted to them (cross-validation
   over blocks of time).

Invariants:
    * It reads no file, no clock and no global random state: the same features and seed give the same threshold.
    * No window is scored by a model that was fitted to its block of time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training import autoencoder
from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.decision.scoring import Scorer, ScoringSpec, transformed
from wheeltapper_protocols.signal.features import FeatureSpec

__all__ = ["DECISION", "Calibration", "calibrate", "fit_scoring"]

DECISION: Final = DecisionSpec(
    smooth_windows=1, raise_windows=3, fast_level=1.4, fast_windows=2, clear_windows=10, critical_level=2.0,
    clear_level=0.8,
)  # fmt: skip
"""An alert is raised by three consecutive windows above the threshold, or by two far above it.

Where snapshots are rare, the last phase of a bearing's life is only a few windows long: a median over five windows held
for six missed 10 of 130 recordings, this decision none."""
FOLDS: Final = 3
"""Blocks of time in the cross-validation."""
_MIN_SCALE: Final = 0.1
"""Smallest healthy standard deviation (10 % of the value on a log scale): a very steady machine must not alert at every
small change."""
_MAX_SCALE: Final = 0.2
"""Largest healthy standard deviation on a log scale: with more, ten times the vibration would not raise the score."""
_WEIGHTS: Final = {
    "rms": 1.0, "peak": 1.0, "band_rms": 1.0,
    "crest": 0.1, "kurtosis": 0.1, "skewness": 0.1, "centroid": 0.1, "envelope_rms": 0.1,
}  # fmt: skip
"""How much each kind of feature counts. Energies carry the wear; features of the waveform's shape vary more by
themselves than with damage."""
_ENVELOPE_WEIGHT_ONE_RECORDING: Final = 0.6
"""Weight of ``envelope_rms`` when there is one recording. Within one machine the modulation depth shows local damage
early (simulated outer races: at 54 to 61 % of the way from onset to failure; with weight 0.1 at 63 to 65 %). Between
machines it differs, and this weight then warned of a healthy machine."""
_DECREASE_WEIGHT: Final = 0.2
"""How much a decrease of an energy counts, compared with an increase."""
_MIN_THRESHOLD: Final = 5.2
_MIN_THRESHOLD_ONE_RECORDING: Final = 5.0
"""The minima are fixed because the healthy start alone does not determine them: over six bearings in seven forms each,
the greatest score of the first quarter was 0.4 to 6 times the greatest cross-validated score of the first tenth. The
greatest score sustained for three windows was 4.4 in a run's own first quarter, and 5.1 in a run that was scored by
models of several others."""
_FEW_WINDOWS: Final = 1.0
"""The minimum is raised by this fraction divided by the number of windows."""
_MARGIN: Final = 1.25
"""Factor between the sustained healthy scores and the threshold."""
_MAX_THRESHOLD_RATIO: Final = 1.08
"""Upper bound of the threshold, as a multiple of the minimum. Running-in makes the first block unlike the others; that
must not raise the threshold for the rest of the machine's life."""
_LINEAR_KINDS: Final = frozenset({"skewness"})
"""Kinds of features that can be negative and are therefore not scored on a log scale."""

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Calibration:
    """The result of the cross-validation.

    Args:
        threshold: the residual that becomes score 1.0.
        held_out: for each recording the root-mean-square residuals of its healthy windows in order, each by a model
            that was not fitted to it.
    """

    threshold: float
    held_out: tuple[npt.NDArray[np.float64], ...]


def fit_scoring(specs: Sequence[FeatureSpec], groups: Sequence[Values], threshold: float = 1.0) -> ScoringSpec:
    """Find center, scale and weight of every feature from healthy windows.

    Args:
        specs: the features.
        groups: for each recording its healthy features, [window, feature].
        threshold: the residual that becomes score 1.0.
    """
    log = np.array([spec.kind not in _LINEAR_KINDS for spec in specs])
    values = [transformed(group, log) for group in groups]
    # Every recording counts the same, however long it is.
    center = np.median([np.median(group, axis=0) for group in values], axis=0)
    # The variance within recordings only: the differences between machines are for the model to learn. In the scale
    # they would hide wear.
    variance = np.mean([np.mean((group - np.median(group, axis=0)) ** 2, axis=0) for group in values], axis=0)
    windows = sum(len(group) for group in groups)
    deviation = np.sqrt(variance * windows / max(1, windows - 1))
    scale = np.clip(deviation, _MIN_SCALE, np.where(log, _MAX_SCALE, np.inf))
    weights = _WEIGHTS | ({"envelope_rms": _ENVELOPE_WEIGHT_ONE_RECORDING} if len(groups) == 1 else {})
    return ScoringSpec(
        transform=["log" if is_log else "affine" for is_log in log],
        center=center.tolist(),
        scale=scale.tolist(),
        weight=[weights[spec.kind] for spec in specs],
        down=[1.0 if spec.kind in _LINEAR_KINDS else _DECREASE_WEIGHT for spec in specs],
        threshold=threshold,
    )


def calibrate(specs: Sequence[FeatureSpec], groups: Sequence[Values], seed: int) -> Calibration:
    """Find the threshold by cross-validation over blocks of time.

    Args:
        specs: the features.
        groups: for each recording its healthy features, [window, feature].
        seed: seeds every fit.
    """
    names = tuple(spec.name for spec in specs)
    cuts = [np.linspace(0, len(group), FOLDS + 1).astype(int) for group in groups]
    held_out = [np.zeros(len(group)) for group in groups]
    for fold in range(FOLDS):
        spans = [slice(cut[fold], cut[fold + 1]) for cut in cuts]
        rest = [np.delete(group, np.r_[span], axis=0) for group, span in zip(groups, spans, strict=True)]
        scorer = Scorer(fit_scoring(specs, rest), names)
        layers = autoencoder.fit(np.concatenate([scorer.model_input(group) for group in rest]), seed)
        for residual, group, span in zip(held_out, groups, spans, strict=True):
            rows = scorer.model_input(group[span])
            residual[span] = scorer.score(rows, autoencoder.reconstruct(layers, rows)).score
    sustained = max(_sustained_maximum(residual) for residual in held_out)
    windows = sum(len(group) for group in groups)
    minimum = (_MIN_THRESHOLD_ONE_RECORDING if len(groups) == 1 else _MIN_THRESHOLD) * (1 + _FEW_WINDOWS / windows)
    threshold = min(max(minimum, _MARGIN * sustained), _MAX_THRESHOLD_RATIO * minimum)
    return Calibration(threshold=threshold, held_out=tuple(held_out))


def _sustained_maximum(values: npt.NDArray[np.float64]) -> float:
    """The greatest level that is sustained for as many consecutive windows as it takes to raise an alert."""
    width = min(DECISION.raise_windows, len(values))
    return float(np.lib.stride_tricks.sliding_window_view(values, width).min(axis=1).max())

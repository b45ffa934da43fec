"""The default recipe: which features a stream has, how healthy ones become a scoring, and when an alert is raised.

Invariant: pure functions of values: the same features give the same scoring.

What this module does not do: choose detectors and limits (:mod:`evidence`, :mod:`budget`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.decision.scoring import ScoringSpec, transformed
from wheeltapper_protocols.signal.features import FeatureSpec

__all__ = ["DECISION", "decision_for", "fit_scoring", "is_process", "patient"]

DECISION: Final = DecisionSpec(
    smooth_windows=1, raise_windows=3, fast_level=1.4, fast_windows=2, clear_windows=10, critical_level=2.0,
    clear_level=0.8,
)  # fmt: skip
"""An alert is raised by three consecutive windows above the threshold, or by two far above it.

Where snapshots are rare, the last phase of a bearing's life is only a few windows long: a median over five windows held
for six missed 10 of 130 recordings, this decision none."""
_OFTEN: Final = replace(DECISION, raise_windows=6, fast_level=1.6, fast_windows=4)
_OFTEN_SECONDS: Final = 10.0
"""Where windows come at least so often, six of them are no more than a minute."""
_PATIENT: Final = {3: {"raise_windows": 5, "fast_windows": 3}, 6: {"raise_windows": 9, "fast_windows": 6}}
"""By ``raise_windows`` of a decision for vibration: what :func:`patient` makes of it."""
_PROCESS: Final = replace(DECISION, raise_windows=2, fast_windows=0, clear_windows=3)
_PROCESS_SECONDS: Final = 4.0
"""Windows of process data that come less often are means already: two say as much as six of vibration, and a fault
that is over is over."""
_SMOOTHED: Final = replace(DECISION, smooth_windows=7, fast_windows=0, clear_windows=5)
"""Single samples, and windows of a moment, say little each: a limit of the median of seven is far lower."""
_MIN_SCALE: Final = 0.05
"""Smallest healthy standard deviation on a log scale: 5 % of the value. A very steady machine must not alert at every
small change."""
_MIN_SHARE: Final = 1e-6
"""Smallest healthy standard deviation of a value that is not scored on a log scale, as a share of its size."""
_DECREASE_WEIGHT: Final = 0.2
"""How much a decrease of an energy counts, compared with an increase."""
_LINEAR_KINDS: Final = frozenset({"skewness", "value"})
"""Kinds of features that can be negative and are therefore not scored on a log scale."""
_NEARLY_ZERO: Final = 1e-3
"""An energy that is at times this small beside its usual size, as of a sensor with coarse steps, has no useful
logarithm."""

Values = npt.NDArray[Any]


def is_process(specs: Sequence[FeatureSpec]) -> bool:
    """Whether a stream is process data: the values of its channels count, not their vibration."""
    return not any(spec.kind == "peak" for spec in specs)


def decision_for(step_seconds: float, specs: Sequence[FeatureSpec]) -> DecisionSpec:
    """The decision of a stream with a window every ``step_seconds``: where windows come often, more of them."""
    if is_process(specs):
        means = any(spec.kind == "rms" for spec in specs)
        return _PROCESS if means and step_seconds >= _PROCESS_SECONDS else _SMOOTHED
    return _OFTEN if step_seconds <= _OFTEN_SECONDS else DECISION


def fit_scoring(
    specs: Sequence[FeatureSpec],
    groups: Sequence[Values],
    threshold: float = 1.0,
    transform: Sequence[str] | None = None,
) -> ScoringSpec:
    """Find center and scale of every feature from healthy windows.

    Args:
        specs: the features.
        groups: for each recording its healthy features, [window, feature].
        threshold: the residual that becomes score 1.0.
        transform: [feature], of a scoring that this one must agree with; by default it is found.
    """
    together = np.concatenate(groups)
    usual = np.median(np.abs(together), axis=0)
    signed = np.array([spec.kind in _LINEAR_KINDS for spec in specs])
    log = ~signed & (np.abs(together).min(axis=0) > _NEARLY_ZERO * usual)
    if transform is not None:
        log = np.array([kind == "log" for kind in transform])
    values = [transformed(group, log) for group in groups]
    # Every recording counts the same, however long it is.
    center = np.median([np.median(group, axis=0) for group in values], axis=0)
    # The variance within recordings only: the differences between machines are for the cross-validation to find. In the
    # scale they would hide wear.
    variance = np.mean([np.mean((group - np.median(group, axis=0)) ** 2, axis=0) for group in values], axis=0)
    windows = sum(len(group) for group in groups)
    deviation = np.sqrt(variance * windows / max(1, windows - 1))
    least = np.where(log, _MIN_SCALE, np.maximum(_MIN_SHARE * usual, 1e-9))
    return ScoringSpec(
        transform=["log" if is_log else "affine" for is_log in log],
        center=center.tolist(),
        scale=np.maximum(deviation, least).tolist(),
        weight=[1.0] * len(specs),
        down=[1.0 if is_signed else _DECREASE_WEIGHT for is_signed in signed],
        threshold=threshold,
    )


def patient(decision: DecisionSpec) -> DecisionSpec:
    """The decision of a device that has its own baseline: its limits are lower, so that what lasts is seen earlier, and
    a knock or a burst must last longer."""
    return replace(decision, **_PATIENT[decision.raise_windows])

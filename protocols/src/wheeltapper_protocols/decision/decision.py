"""From scores to a severity: smoothing, hysteresis, reasons.

The score is smoothed by the median of the last ``smooth_windows`` windows.

* An alert is raised by its level when the smoothed score is at or above ``raise_level`` for ``raise_windows`` windows
  in a row.
* With ``fast_windows`` above 0 it is also raised fast: when the score itself is at or above ``fast_level`` for
  ``fast_windows`` windows in a row. A score far above the threshold needs less proof, and a sudden failure leaves no
  time for more.
* With ``slow_limit`` above 0 it is also raised slowly: by wear that never comes near ``raise_level``, but lasts. A
  cumulative sum grows by ``score - slow_drift`` with each window, and is at least 0 (Page, Biometrika 41 (1954)
  100-115; ISO 7870-4: ``slow_drift`` is the reference value, ``slow_limit`` the decision interval). The alert is raised
  when the sum reaches ``slow_limit``. A window adds as if its score were at most ``raise_level``: what is above is for
  the other two rules.
* It becomes critical when the smoothed score is at or above ``critical_level`` for ``raise_windows`` windows in a row.
* It is cleared when the smoothed score is below ``clear_level`` for ``clear_windows`` windows in a row, and the sum is
  at most half of ``slow_limit``. The sum then starts from 0.

Invariants:
    * Pure: the same state and score always give the same verdict. States are frozen.
    * A single spike raises no alert where ``raise_windows`` is above 1; ``fast_windows`` is 0 or at least 2, and from 0
      the sum needs more than one window to ``slow_limit``.
    * No alert is raised by its level before ``smooth_windows`` scores that are numbers.
    * An alert that was raised fast is not cleared sooner than any other.
    * The sum is from 0 to ``slow_limit``; where ``slow_limit`` is 0, it is 0 and changes nothing.
    * A NaN score changes nothing: the state is returned as it was, and the verdict repeats the severity with ``valid``
      False. What several of them mean says :func:`count_window`. An infinite score counts as :data:`SCORE_LIMIT`.
      ``Verdict.score`` is always finite.
    * While an alert is on, its severity only rises. It lasts at least ``minimum_alert_windows``, then ends at normal.

Example:
    >>> spec, state = DecisionSpec(), DecisionState()
    >>> for score in (1.5,) * 7:
    ...     state, verdict = step(spec, state, score)
    >>> str(verdict.severity), verdict.changed
    ('warning', True)

What this module does not do: judge whether data is missing or stuck (``signal.quality``), send alerts.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct
from msgspec.structs import replace

from wheeltapper_protocols.signal.iso20816 import Zone
from wheeltapper_protocols.wire.messages import Reason, Severity

__all__ = ["SCORE_LIMIT", "DecisionSpec", "DecisionState", "Verdict", "count_window", "decide", "initial_state", "step"]

SCORE_LIMIT: Final = 1e9
"""Greatest score; a higher one counts as this."""

Windows = Annotated[int, Meta(ge=1, le=1000)]
Level = Annotated[float, Meta(gt=0, le=1e6)]


class DecisionSpec(Struct, frozen=True, kw_only=True):
    """The manifest's section ``decision``. Levels are scores: 1.0 is the warning threshold."""

    smooth_windows: Windows = 5
    raise_level: Level = 1.0
    critical_level: Level = 2.0
    clear_level: Level = 0.8
    raise_windows: Windows = 3
    clear_windows: Windows = 10
    fast_level: Level = 2.0
    fast_windows: Annotated[int, Meta(ge=0, le=1000)] = 0
    """0: no alert is raised fast."""
    reasons: Annotated[int, Meta(ge=1, le=16)] = 5
    """Greatest number of reasons in an alert."""
    minimum_alert_windows: Annotated[int, Meta(ge=0, le=100_000)] = 0
    """Least number of windows with a score that an alert lasts, with the one that raised it. 0: there is no minimum."""
    slow_drift: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    """The score at which the cumulative sum neither grows nor shrinks; below ``raise_level``."""
    slow_limit: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    """The cumulative sum at which an alert is raised slowly. 0: none is."""

    def __post_init__(self) -> None:
        if not self.clear_level <= self.raise_level <= self.critical_level:
            raise ValueError("the levels must rise: clear_level <= raise_level <= critical_level")
        if self.fast_windows == 1:
            raise ValueError("fast_windows must be 0 (off) or at least 2: a single spike must not raise an alert")
        if self.fast_windows and self.fast_level < self.raise_level:
            raise ValueError("fast_level must not be below raise_level")
        if self.slow_limit and not self.slow_drift < self.raise_level:
            raise ValueError("slow_drift must be below raise_level: otherwise the sum never grows")
        if self.slow_limit and not self.slow_limit > self.raise_level - self.slow_drift:
            raise ValueError(
                "slow_limit must be above raise_level - slow_drift, or 0 (off): a single spike must not raise an alert"
            )


class DecisionState(Struct, frozen=True, kw_only=True):
    """What the decision keeps from one window to the next. Start with ``DecisionState()``.

    Each counter is the number of windows in a row, up to the last one.
    """

    recent_scores: tuple[float, ...] = ()
    """The last ``smooth_windows`` scores."""
    above_windows: int = 0
    """With the smoothed score at or above ``raise_level``."""
    critical_windows: int = 0
    """With the smoothed score at or above ``critical_level``."""
    below_windows: int = 0
    """With the smoothed score below ``clear_level``."""
    fast_windows: int = 0
    """With the score at or above ``fast_level``."""
    severity: Severity = Severity.NORMAL
    smoothed: float = 0.0
    alert_windows: int = 0
    """Windows that the alert has lasted; 0 while there is none."""
    counted_windows: int = 0
    """Complete windows in a row that speak against ``no_score``: without a score while it is False, with one else."""
    no_score: bool = False
    """Whether the alert that complete windows get no score is on."""
    slow_sum: float = 0.0
    """The cumulative sum; above ``slow_limit`` it counts as that."""


def initial_state(severity: Severity, no_score: bool = False, slow_sum: float | None = None) -> DecisionState:
    """The first state of a decision where an alert of ``severity`` may be open: after a swap of releases or a restart.

    An open alert goes on until it is cleared. It is therefore not raised twice, and its end is reported. The same holds
    for the alert that windows get no score.

    Args:
        severity: of the open alert; normal where none is.
        no_score: whether the alert is open that windows get no score.
        slow_sum: the cumulative sum, where the same release ran before. None: it starts anew: from 0, or where an alert
            is open from ``slow_limit``, so that the alert is cleared only after windows that speak against it.
    """
    is_open = severity is not Severity.NORMAL
    if slow_sum is None:
        slow_sum = SCORE_LIMIT if is_open else 0.0
    return DecisionState(severity=severity, alert_windows=int(is_open), no_score=no_score, slow_sum=slow_sum)


def count_window(spec: DecisionSpec, state: DecisionState, scored: bool) -> DecisionState:
    """Count a complete window, whether or not the model gave it a score; a window with missing samples is not counted.

    A model that gives no score on complete windows watches nothing. After ``raise_windows`` of them in a row an alert
    of its own kind is on (``DecisionState.no_score``), until as many windows in a row have a score again.
    """
    if scored is not state.no_score:
        return replace(state, counted_windows=0) if state.counted_windows else state
    counted = state.counted_windows + 1
    if counted < spec.raise_windows:
        return replace(state, counted_windows=counted)
    return replace(state, counted_windows=0, no_score=not state.no_score)


class Verdict(Struct, frozen=True):
    """The decision at one window."""

    score: float
    """The smoothed score; 0 before the first finite one."""
    severity: Severity
    alert: bool
    """Whether the alert is on now."""
    changed: bool
    """Whether it was raised, cleared or changed its severity at this window."""
    reasons: tuple[Reason, ...] = ()
    """The features with the greatest shares of the score, in order; empty without an alert, and from :func:`step`."""
    valid: bool = True
    """Whether the score of this window is a number."""
    label: str | None = None
    """The likeliest class, for the task ``classification``."""
    value: float | None = None
    """The life that remains, in the manifest's unit, for the task ``remaining_life``."""
    zone: Zone | None = None
    """The vibration severity zone, where the manifest has the section ``iso20816``."""
    slowly: bool = False
    """Whether the alert was raised at this window, and slowly."""


def step(spec: DecisionSpec, state: DecisionState, score: float) -> tuple[DecisionState, Verdict]:
    """Decide on one window. The verdict has no reasons: they are expensive, and needed only where the alert changes.

    Args:
        spec: the manifest's section ``decision``.
        state: the state that the last call returned.
        score: the window's score; NaN changes nothing.

    Returns:
        The next state and the verdict.
    """
    before = state.severity
    if score != score:
        return state, Verdict(state.smoothed, before, before is not Severity.NORMAL, False, valid=False)
    score = min(max(score, 0.0), SCORE_LIMIT)
    scores = (*state.recent_scores, score)[-spec.smooth_windows :]
    smoothed = _median(scores)
    full = len(scores) == spec.smooth_windows
    above = state.above_windows + 1 if full and smoothed >= spec.raise_level else 0
    critical = state.critical_windows + 1 if full and smoothed >= spec.critical_level else 0
    below = state.below_windows + 1 if smoothed < spec.clear_level else 0
    fast = state.fast_windows + 1 if score >= spec.fast_level else 0
    slow = spec.slow_limit and min(
        max(state.slow_sum + min(score, spec.raise_level) - spec.slow_drift, 0.0), spec.slow_limit
    )
    severity, lasted, slowly = before, state.alert_windows + 1 if before is not Severity.NORMAL else 0, False
    if lasted and below >= spec.clear_windows and lasted >= spec.minimum_alert_windows and slow <= spec.slow_limit / 2:
        severity, lasted, slow = Severity.NORMAL, 0, 0.0
    elif critical >= spec.raise_windows:
        severity = Severity.CRITICAL
    elif before is Severity.NORMAL and (
        above >= spec.raise_windows or (spec.fast_windows > 0 and fast >= spec.fast_windows)
    ):
        # An alert that was raised fast may have a low smoothed score: windows below the clear level start over.
        severity, below = Severity.WARNING, 0
    elif before is Severity.NORMAL and 0 < spec.slow_limit <= slow:
        severity, below, slowly = Severity.WARNING, 0, True
    new = DecisionState(
        recent_scores=scores,
        above_windows=above,
        critical_windows=critical,
        below_windows=below,
        fast_windows=fast,
        severity=severity,
        smoothed=smoothed,
        alert_windows=lasted,
        counted_windows=state.counted_windows,
        no_score=state.no_score,
        slow_sum=slow,
    )
    alert = severity is not Severity.NORMAL
    return new, Verdict(smoothed, severity, alert, severity is not before, slowly=slowly)


def decide(
    spec: DecisionSpec,
    state: DecisionState,
    score: float,
    shares: npt.NDArray[Any],
    features: npt.NDArray[Any],
    names: tuple[str, ...],
    usual: npt.NDArray[Any],
) -> tuple[DecisionState, Verdict]:
    """Decide on one window as :func:`step` does; the reasons are the features with the greatest shares of the score.

    Args:
        spec: the manifest's section ``decision``.
        state: the state that the last call returned.
        score: the window's score.
        shares: [feature], each feature's share of the score.
        features: [feature], the window's features.
        names: [feature], their names.
        usual: [feature], their usual values.

    Returns:
        The next state and the verdict.
    """
    new, verdict = step(spec, state, score)
    if verdict.valid and (verdict.alert or verdict.changed):
        verdict = replace(verdict, reasons=_reasons(spec.reasons, shares, features, names, usual))
    return new, verdict


def _median(values: tuple[float, ...]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _reasons(
    count: int, shares: npt.NDArray[Any], features: npt.NDArray[Any], names: tuple[str, ...], usual: npt.NDArray[Any]
) -> tuple[Reason, ...]:
    order = np.argsort(-np.asarray(shares), kind="stable")[:count]
    return tuple(
        Reason(feature=names[i], value=float(features[i]), usual=float(usual[i]), share=float(shares[i]))
        for i in order
        if shares[i] > 0 and math.isfinite(features[i])
    )

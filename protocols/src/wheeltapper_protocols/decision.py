"""From scores to a severity: smoothing, hysteresis, reasons.

The score is smoothed by the median of the last ``smooth_windows`` windows. The alert is raised at two speeds: when the
smoothed score stays at or above ``raise_level`` for ``raise_windows`` windows running, or (with ``fast_windows`` above
0) when the score itself stays at or above ``fast_level`` for ``fast_windows`` windows running: what is far above the
threshold needs less proof, and an abrupt end leaves no time for more. It becomes critical when the smoothed score
stays at or above ``critical_level`` for ``raise_windows`` windows running, and is cleared only after ``clear_windows``
windows running below ``clear_level``.

Invariants:
    * Pure: the same state and score always give the same verdict; states are frozen.
    * A single spike never raises where ``raise_windows`` is above 1; ``fast_windows`` is 0 or at least 2.
    * Until ``smooth_windows`` finite scores were seen, nothing is raised at the slow speed.
    * An alert that was raised fast is not cleared sooner than any other.
    * A NaN score is ignored: the state is returned as it was, the verdict has ``valid`` False and repeats what holds.
      An infinite score counts as :data:`SCORE_LIMIT`. ``Verdict.score`` is always finite.
    * While the alert is on its severity only rises; it ends at normal.

What this module does not do: say that data is missing or stuck (data quality), send alerts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import median
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from wheeltapper_protocols.messages import Reason, Severity

__all__ = ["SCORE_LIMIT", "DecisionSpec", "DecisionState", "Verdict", "decide"]

SCORE_LIMIT: Final = 1e9

Windows = Annotated[int, Meta(ge=1, le=1000)]
Level = Annotated[float, Meta(gt=0, le=1e6)]


class DecisionSpec(Struct, frozen=True, kw_only=True):
    """Parameters of the decision. Levels are scores: 1.0 is the warning threshold."""

    smooth_windows: Windows = 5
    raise_level: Level = 1.0
    critical_level: Level = 2.0
    clear_level: Level = 0.8
    raise_windows: Windows = 3
    clear_windows: Windows = 10
    fast_level: Level = 2.0
    fast_windows: Annotated[int, Meta(ge=0, le=1000)] = 0
    """0: there is no fast speed (so are manifests that do not name it)."""
    reasons: Annotated[int, Meta(ge=1, le=16)] = 5

    def __post_init__(self) -> None:
        if not self.clear_level <= self.raise_level <= self.critical_level:
            raise ValueError("the levels must rise: clear_level <= raise_level <= critical_level")
        if self.fast_windows == 1:
            raise ValueError("fast_windows must be 0 (no fast speed) or at least 2: one spike must never alert")
        if self.fast_windows and self.fast_level < self.raise_level:
            raise ValueError("the fast speed must ask for more: raise_level <= fast_level")


@dataclass(frozen=True)
class DecisionState:
    """What the decision remembers. Start with ``DecisionState()``."""

    recent: tuple[float, ...] = ()
    above: int = 0
    critical: int = 0
    below: int = 0
    fast: int = 0
    severity: Severity = Severity.NORMAL
    smoothed: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """The decision at one window."""

    score: float
    """The smoothed score; 0 before the first finite one."""
    severity: Severity
    alert: bool
    """Whether the alert is on now."""
    changed: bool
    """Whether it was raised, cleared or changed its severity at this window."""
    reasons: tuple[Reason, ...]
    """The features that moved most, greatest share first; empty while there is no alert."""
    valid: bool = True
    """Whether this window's score was a number."""


def decide(
    spec: DecisionSpec,
    state: DecisionState,
    score: float,
    shares: npt.NDArray[Any],
    features: npt.NDArray[Any],
    names: tuple[str, ...],
    usual: npt.NDArray[Any],
) -> tuple[DecisionState, Verdict]:
    """Take one window's score into account.

    Args:
        spec: the manifest's decision.
        state: what the last call returned.
        score: the window's score; NaN is ignored (see above).
        shares: [feature], each feature's share of the score.
        features: [feature], the window's features.
        names: the features' names.
        usual: [feature], what is usual for them.
    """
    if math.isnan(score):
        alert = state.severity is not Severity.NORMAL
        return state, Verdict(state.smoothed, state.severity, alert, changed=False, reasons=(), valid=False)
    new = _severity(spec, _counted(spec, state, min(max(score, 0.0), SCORE_LIMIT)), state.severity)
    alert = new.severity is not Severity.NORMAL
    changed = new.severity is not state.severity
    reasons = _reasons(spec.reasons, shares, features, names, usual) if alert or changed else ()
    return new, Verdict(new.smoothed, new.severity, alert, changed, reasons)


def _counted(spec: DecisionSpec, state: DecisionState, score: float) -> DecisionState:
    """The state with the score in its window and its runs of windows counted."""
    recent = (*state.recent, score)[-spec.smooth_windows :]
    smoothed = float(median(recent))
    full = len(recent) == spec.smooth_windows
    return replace(
        state,
        recent=recent,
        smoothed=smoothed,
        above=state.above + 1 if full and smoothed >= spec.raise_level else 0,
        critical=state.critical + 1 if full and smoothed >= spec.critical_level else 0,
        below=state.below + 1 if smoothed < spec.clear_level else 0,
        fast=state.fast + 1 if score >= spec.fast_level else 0,
    )


def _severity(spec: DecisionSpec, state: DecisionState, before: Severity) -> DecisionState:
    if before is not Severity.NORMAL and state.below >= spec.clear_windows:
        return replace(state, severity=Severity.NORMAL)
    if state.critical >= spec.raise_windows:
        return replace(state, severity=Severity.CRITICAL)
    fast = spec.fast_windows > 0 and state.fast >= spec.fast_windows
    if before is Severity.NORMAL and (fast or state.above >= spec.raise_windows):
        # At the fast speed the smoothed score may still be low: what was counted before the alert does not clear it.
        return replace(state, severity=Severity.WARNING, below=0)
    return state


def _reasons(
    count: int, shares: npt.NDArray[Any], features: npt.NDArray[Any], names: tuple[str, ...], usual: npt.NDArray[Any]
) -> tuple[Reason, ...]:
    order = np.argsort(-np.asarray(shares), kind="stable")[:count]
    return tuple(
        Reason(feature=names[i], value=float(features[i]), usual=float(usual[i]), share=float(shares[i]))
        for i in order
        if shares[i] > 0 and math.isfinite(features[i])
    )

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
    * While the alert is on its severity only rises; it ends at normal, and not before ``minimum_alert_windows``.

What this module does not do: say that data is missing or stuck (data quality), send alerts.
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

__all__ = ["SCORE_LIMIT", "DecisionSpec", "DecisionState", "Verdict", "decide", "initial_state", "step"]

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
    minimum_alert_windows: Annotated[int, Meta(ge=0, le=100_000)] = 0
    """An alert lasts at least this many windows with a score, the one that raised it among them (0: no minimum). How
    long a score must last before it raises one is ``raise_windows``."""

    def __post_init__(self) -> None:
        if not self.clear_level <= self.raise_level <= self.critical_level:
            raise ValueError("the levels must rise: clear_level <= raise_level <= critical_level")
        if self.fast_windows == 1:
            raise ValueError("fast_windows must be 0 (no fast speed) or at least 2: one spike must never alert")
        if self.fast_windows and self.fast_level < self.raise_level:
            raise ValueError("the fast speed must ask for more: raise_level <= fast_level")


class DecisionState(Struct, frozen=True, kw_only=True):
    """What the decision remembers. Start with ``DecisionState()``."""

    recent_scores: tuple[float, ...] = ()
    above_windows: int = 0
    critical_windows: int = 0
    below_windows: int = 0
    fast_windows: int = 0
    severity: Severity = Severity.NORMAL
    smoothed: float = 0.0
    alert_windows: int = 0
    """Windows since the alert was raised."""


def initial_state(severity: Severity) -> DecisionState:
    """What the decision begins with where another release, or an earlier life of this one, left an alert open: it goes
    on until it is cleared like any other, so that nobody is told twice that it began, or never that it is over."""
    return DecisionState(severity=severity, alert_windows=int(severity is not Severity.NORMAL))


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
    """The features that moved most, greatest share first; empty while there is no alert, and from :func:`step`."""
    valid: bool = True
    """Whether this window's score was a number."""
    label: str | None = None
    """The class, of a classification."""
    value: float | None = None
    """What remains, of a remaining life, in the manifest's unit."""
    zone: Zone | None = None
    """The vibration severity zone, where the manifest asks for it (:mod:`iso20816`)."""


def step(spec: DecisionSpec, state: DecisionState, score: float) -> tuple[DecisionState, Verdict]:
    """Take one window's score into account, without reasons: they cost, and are only wanted where something changed.

    Args:
        spec: the manifest's decision.
        state: what the last call returned.
        score: the window's score; NaN is ignored (see above).
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
    severity, lasted = before, state.alert_windows + 1 if before is not Severity.NORMAL else 0
    if lasted and below >= spec.clear_windows and lasted >= spec.minimum_alert_windows:
        severity, lasted = Severity.NORMAL, 0
    elif critical >= spec.raise_windows:
        severity = Severity.CRITICAL
    elif before is Severity.NORMAL and (
        above >= spec.raise_windows or (spec.fast_windows > 0 and fast >= spec.fast_windows)
    ):
        # An alert that was raised fast may have a low smoothed score: windows below the clear level start over.
        severity, below = Severity.WARNING, 0
    new = DecisionState(
        recent_scores=scores,
        above_windows=above,
        critical_windows=critical,
        below_windows=below,
        fast_windows=fast,
        severity=severity,
        smoothed=smoothed,
        alert_windows=lasted,
    )
    return new, Verdict(smoothed, severity, severity is not Severity.NORMAL, severity is not before)


def decide(
    spec: DecisionSpec,
    state: DecisionState,
    score: float,
    shares: npt.NDArray[Any],
    features: npt.NDArray[Any],
    names: tuple[str, ...],
    usual: npt.NDArray[Any],
) -> tuple[DecisionState, Verdict]:
    """:func:`step`, with each feature's share of the score as the reasons.

    Args:
        spec: the manifest's decision.
        state: what the last call returned.
        score: the window's score.
        shares: [feature], each feature's share of the score.
        features: [feature], the window's features.
        names: the features' names.
        usual: [feature], what is usual for them.
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

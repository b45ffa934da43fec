"""Whether a release that scores live windows is healthy, against its budget and against the one before it. Pure.

ProbationRules, in this order; each asks for a least number of windows and is silent below it:
    1. latency: the new one's p95 (below 20 calls: its median, since the p95 of few is just their largest) against the
       manifest's budget; and its median against the old one's by a ratio, since a board that was busy for a moment
       moves the p95 of some dozen calls and not their median. Windows that were scored in one call count once: what
       held up the call held up each of them;
    2. score shift: the distance of the medians in units of the old one's spread, 1.4826 times its median absolute
       deviation, which estimates the standard deviation and does not mind outliers (Iglewicz and Hoaglin 1993,
       *How to Detect and Handle Outliers*, ASQC, section 3.3: the modified z-score);
    3. alert rate: Fisher's exact test, one-sided, that the new one alerts more often (Fisher 1922, *On the
       interpretation of chi-square from contingency tables*, J. R. Stat. Soc. 85). Exact, so it holds for few windows.

The rules are asked once, at the end of probation: asked at every window they would raise many false alarms.

What this module does not do: crashes and crash loops (the pipeline's health, :mod:`resume`), waiting, rolling back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta, Struct

__all__ = [
    "LEAST_CALLS",
    "ProbationRules",
    "Unhealthy",
    "WindowStatistics",
    "alert_rate_p_value",
    "judge",
    "shift_in_spreads",
    "window_statistics",
]

_NORMAL: Final = 1.4826
_P95_CALLS: Final = 20
LEAST_CALLS: Final = 3
"""Calls with several windows each say nothing of latency where they are fewer."""
Finite = Annotated[float, Meta(ge=-1e12, le=1e12)]


class WindowStatistics(Struct, frozen=True, kw_only=True):
    """What some windows of one release came to. Journalled, so that a restart knows the release of before."""

    windows: int = 0
    score_median: Finite = 0.0
    score_mad: Finite = 0.0
    """Median absolute deviation from the median."""
    alerts: int = 0
    """Windows of which the decision was an alert."""
    calls: int = 0
    """Calls of the network in which they were scored; latencies are of these, a window."""
    latency_median_ms: Finite = 0.0
    latency_p95_ms: Finite = 0.0


@dataclass(frozen=True, slots=True)
class ProbationRules:
    """The limits; 0 switches a rule off."""

    max_shift: float = 8.0
    """In spreads of the old release's scores."""
    least_spread: float = 0.05
    """The spread counts as at least this (1.0 is the warning threshold): scores that hardly move are no yardstick."""
    alert_alpha: float = 1e-3
    """How seldom chance alone may look like more alerts."""
    latency_ratio: float = 5.0
    new_windows: int = 3
    """Of the new release, for shift and alert rate."""
    old_windows: int = 20
    """Of the old release, for whatever is measured against it."""


@dataclass(frozen=True, slots=True)
class Unhealthy:
    """Why it must go back."""

    code: str
    detail: str


def _median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def window_statistics(scores: Sequence[float], alerts: int, latencies_ms: Sequence[float]) -> WindowStatistics:
    """The statistics of some windows of one release.

    Args:
        scores: finite score of each window (1.0 is the warning threshold).
        alerts: how many of the windows were alerts.
        latencies_ms: one entry for each call of the model: milliseconds per window.
    """
    if not scores:
        return WindowStatistics()
    ordered = sorted(min(max(score, -1e12), 1e12) for score in scores)
    median = _median(ordered)
    slow = sorted(latencies_ms) or [0.0]
    return WindowStatistics(
        windows=len(ordered),
        score_median=median,
        score_mad=min(_median(sorted(abs(score - median) for score in ordered)), 1e12),
        alerts=alerts,
        calls=len(latencies_ms),
        latency_median_ms=_median(slow),
        latency_p95_ms=slow[min(len(slow) - 1, math.ceil(0.95 * len(slow)) - 1)],
    )


def shift_in_spreads(old: WindowStatistics, new: WindowStatistics, least_spread: float) -> float:
    """How far the median moved, in robust standard deviations of the old scores; signed."""
    return (new.score_median - old.score_median) / max(_NORMAL * old.score_mad, least_spread)


def alert_rate_p_value(old: WindowStatistics, new: WindowStatistics) -> float:
    """Fisher's one-sided p: how likely chance gives the new release so many of all the alerts, or more."""
    alerts, total = old.alerts + new.alerts, old.windows + new.windows
    if not total:
        return 1.0
    ways = math.comb(total, new.windows)
    highest = min(alerts, new.windows)
    tail = sum(
        math.comb(alerts, count) * math.comb(total - alerts, new.windows - count)
        for count in range(new.alerts, highest + 1)
    )
    return tail / ways


def judge(
    rules: ProbationRules, old: WindowStatistics | None, new: WindowStatistics, budget_p95_ms: float
) -> Unhealthy | None:
    """The first rule that ``new`` breaks; None if it is healthy.

    Args:
        rules: the limits.
        old: of the release before, on its last windows; None: there was none.
        new: of the new release, in probation.
        budget_p95_ms: of the new release's manifest.
    """
    enough = new.calls >= _P95_CALLS
    what, latency_ms = ("p95", new.latency_p95_ms) if enough else ("median", new.latency_median_ms)
    told = new.calls > 0 and (new.calls >= LEAST_CALLS or new.calls == new.windows)
    if told and latency_ms > budget_p95_ms:
        return Unhealthy("probation.latency", f"{what} {latency_ms:.2f} ms exceeds the budget of {budget_p95_ms} ms")
    if old is None or old.windows < rules.old_windows:
        return None
    if enough and rules.latency_ratio and new.latency_median_ms > rules.latency_ratio * old.latency_median_ms > 0:
        text = f"median {new.latency_median_ms:.2f} ms is over {rules.latency_ratio:g} times the"
        return Unhealthy("probation.latency", f"{text} {old.latency_median_ms:.2f} ms of the release before")
    if new.windows < rules.new_windows:
        return None
    shift = shift_in_spreads(old, new, rules.least_spread)
    if rules.max_shift and abs(shift) > rules.max_shift:
        text = f"the median score went from {old.score_median:.3g} to {new.score_median:.3g}, {shift:+.1f} spreads"
        return Unhealthy("probation.score_shift", text)
    if rules.alert_alpha and (chance := alert_rate_p_value(old, new)) < rules.alert_alpha:
        text = f"{new.alerts} of {new.windows} windows alert, {old.alerts} of {old.windows} before (p = {chance:.2g})"
        return Unhealthy("probation.alert_rate", text)
    return None

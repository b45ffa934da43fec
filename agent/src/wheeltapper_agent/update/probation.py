"""Judges whether a release that scores live windows is healthy, by its budget and by the release before it. Pure.

The rules, in this order. Each needs a least number of windows and finds nothing below it:
    1. Latency: the new release's p95 against the manifest's budget (below 20 calls its median, since the p95 of a few
       is just their largest); and its median against a multiple of the old release's median, since a board that was
       busy for a moment moves the p95 of some dozen calls but not their median. Windows that were scored in one call
       count once: what held up the call held up each of them.
    2. Score shift: the distance of the medians in units of the old release's spread. The spread is 1.4826 times the
       median absolute deviation, which estimates the standard deviation and is robust against outliers (Iglewicz and
       Hoaglin 1993, *How to Detect and Handle Outliers*, ASQC, section 3.3: the modified z-score).
    3. Alert rate: Fisher's exact test, one-sided, that the new release alerts more often (Fisher 1922, *On the
       interpretation of chi-square from contingency tables*, J. R. Stat. Soc. 85). It is exact, so it holds for few
       windows.

Call :func:`judge` once, at the end of probation: asked at every window, the rules would raise many false alarms.

What this module does not do: crashes and crash loops (the pipeline's health and
:mod:`wheeltapper_agent.update.resume`), waiting, rolling back.
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

_MAD_TO_SD: Final = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""
_P95_CALLS: Final = 20
"""From so many calls on the p95 is judged, below it the median."""
LEAST_CALLS: Final = 3
"""Fewer calls than this, with several windows each, are not judged by latency."""
Finite = Annotated[float, Meta(ge=-1e12, le=1e12)]


class WindowStatistics(Struct, frozen=True, kw_only=True):
    """Statistics of some windows of one release. They are journalled, so that probation survives a restart."""

    windows: int = 0
    """Windows that were scored; the statistics are of these."""
    score_median: Finite = 0.0
    score_mad: Finite = 0.0
    """Median absolute deviation from the median."""
    alerts: int = 0
    """Windows whose decision was an alert."""
    calls: int = 0
    """Calls of the model in which the windows were scored; the latencies are those of the calls, per window."""
    latency_median_ms: Finite = 0.0
    latency_p95_ms: Finite = 0.0


@dataclass(frozen=True, slots=True)
class ProbationRules:
    """The limits of probation; 0 switches a rule off."""

    max_shift: float = 8.0
    """Allowed move of the median score, in spreads of the old release's scores."""
    least_spread: float = 0.05
    """The spread counts as at least this (1.0 is the warning threshold): scores that hardly vary measure nothing."""
    alert_alpha: float = 1e-3
    """Significance level of Fisher's test."""
    latency_ratio: float = 5.0
    """Allowed ratio of the new median latency to the old one."""
    new_windows: int = 3
    """Windows of the new release that score shift and alert rate need."""
    old_windows: int = 20
    """Windows of the old release that every comparison with it needs."""


@dataclass(frozen=True, slots=True)
class Unhealthy:
    """The rule that a release broke: its stable code, and the reason for a person."""

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
    """How far the median score moved, in robust standard deviations of the old scores; positive: upwards."""
    return (new.score_median - old.score_median) / max(_MAD_TO_SD * old.score_mad, least_spread)


def alert_rate_p_value(old: WindowStatistics, new: WindowStatistics) -> float:
    """The one-sided p-value of Fisher's exact test that the new release alerts more often than the old one."""
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
    """The first rule that the new release breaks; None if it is healthy.

    Args:
        rules: the limits.
        old: statistics of the last windows of the release before; None: there was none.
        new: statistics of the windows that the new release scored in probation.
        budget_p95_ms: latency that the new release's manifest allows, in milliseconds per window.
    """
    enough = new.calls >= _P95_CALLS
    what, latency_ms = ("p95", new.latency_p95_ms) if enough else ("median", new.latency_median_ms)
    conclusive = new.calls > 0 and (new.calls >= LEAST_CALLS or new.calls == new.windows)
    if conclusive and latency_ms > budget_p95_ms:
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

"""Compares two models on the same windows: paired statistics of their scores, and agreement of their decisions. Pure.

The shadow run uses it.

Sources: Pearson's correlation; Cohen 1960, *A coefficient of agreement for nominal scales*, Educ. Psychol. Meas. 20.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["QUANTILES", "Comparison", "Pair", "compare"]

QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class Pair:
    """One window that both models scored.

    Scores have the warning threshold at 1.0, decisions are severities as text, latencies are in milliseconds.
    """

    active_score: float
    shadow_score: float
    active_decision: str
    shadow_decision: str
    active_latency_ms: float
    shadow_latency_ms: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Statistics of some pairs; None where one is not defined (too few pairs, or no variance)."""

    windows: int
    mean_difference: float
    """Of shadow score minus active score."""
    sd_difference: float | None
    """Sample standard deviation of that difference."""
    correlation: float | None
    """Pearson's, between the scores."""
    active_quantiles: tuple[float, ...]
    """Of the active scores, at :data:`QUANTILES`."""
    shadow_quantiles: tuple[float, ...]
    agreement: float
    """Share of windows with the same decision, 0 to 1."""
    kappa: float | None
    """Cohen's kappa of the decisions."""
    active_latency_p95_ms: float
    shadow_latency_p95_ms: float


def _quantile(ordered: Sequence[float], share: float) -> float:
    """A quantile by linear interpolation, as numpy does (Hyndman and Fan 1996, type 7)."""
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def _correlation(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Pearson's correlation; None where one side has no variance."""
    mean_left, mean_right = math.fsum(left) / len(left), math.fsum(right) / len(right)
    both = math.fsum((a - mean_left) * (b - mean_right) for a, b in zip(left, right, strict=True))
    spread = math.fsum((a - mean_left) ** 2 for a in left) * math.fsum((b - mean_right) ** 2 for b in right)
    if not spread > 0 or not math.isfinite(spread):
        return None
    return max(-1.0, min(1.0, both / math.sqrt(spread)))


def _kappa(pairs: Sequence[Pair], agreement: float) -> float | None:
    """Cohen's kappa; None where chance alone would agree always."""
    kinds = {pair.active_decision for pair in pairs} | {pair.shadow_decision for pair in pairs}
    chance = (
        sum(
            sum(pair.active_decision == kind for pair in pairs) * sum(pair.shadow_decision == kind for pair in pairs)
            for kind in kinds
        )
        / len(pairs) ** 2
    )
    return None if chance >= 1.0 else (agreement - chance) / (1.0 - chance)


def compare(pairs: Sequence[Pair]) -> Comparison:
    """The statistics of ``pairs``: at least one, with finite scores.

    Raises:
        ValueError: there is no pair.
    """
    if not pairs:
        raise ValueError("there are no pairs to compare")
    active = [pair.active_score for pair in pairs]
    shadow = [pair.shadow_score for pair in pairs]
    differences = [b - a for a, b in zip(active, shadow, strict=True)]
    mean = math.fsum(differences) / len(differences)
    sd = None
    if len(pairs) > 1:
        sd = math.sqrt(math.fsum((each - mean) ** 2 for each in differences) / (len(pairs) - 1))
    agreement = sum(pair.active_decision == pair.shadow_decision for pair in pairs) / len(pairs)
    return Comparison(
        windows=len(pairs),
        mean_difference=mean,
        sd_difference=sd,
        correlation=_correlation(active, shadow) if len(pairs) > 1 else None,
        active_quantiles=tuple(_quantile(sorted(active), share) for share in QUANTILES),
        shadow_quantiles=tuple(_quantile(sorted(shadow), share) for share in QUANTILES),
        agreement=agreement,
        kappa=_kappa(pairs, agreement),
        active_latency_p95_ms=_quantile(sorted(pair.active_latency_ms for pair in pairs), 0.95),
        shadow_latency_p95_ms=_quantile(sorted(pair.shadow_latency_ms for pair in pairs), 0.95),
    )

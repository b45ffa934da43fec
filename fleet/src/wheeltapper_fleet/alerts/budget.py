"""An alert budget: how many false alarms a user accepts, and how that is kept. Pure.

A budget is a number of false alarms per 100 machine-weeks. The realised rate is what people called a false alarm, over
the time in which machines were watched. It is said to be exceeded only where the 95 % interval of the rate lies above
the budget, and to be kept only where it lies below: few findings decide nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wheeltapper_fleet.alerts.statistics import count_interval

__all__ = ["Realised", "Source", "realise"]

WEEK_SECONDS: Final = 7 * 86_400.0
_NOTABLE: Final = 0.5


@dataclass(frozen=True)
class Source:
    """Where false alarms come from: ``release`` or ``point``, its name, and how many."""

    kind: str
    name: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Realised:
    """How a budget is kept: rates are false alarms per 100 machine-weeks; ``status`` is ``kept``, ``exceeded`` or
    ``unsure``."""

    false_alarms: int
    machine_weeks: float
    rate: float | None
    low: float | None
    high: float | None
    status: str
    said: str
    suggestions: tuple[str, ...] = ()


def realise(
    limit: float, false_alarms: int, machine_seconds: float, without_feedback: int, sources: Sequence[Source]
) -> Realised:
    """How a budget of ``limit`` is kept.

    Args:
        limit: false alarms per 100 machine-weeks.
        false_alarms: how many there were.
        machine_seconds: for how long machines were watched, summed over machines.
        without_feedback: cases that were resolved by people without saying, or are open: what the rate does not know.
        sources: where the false alarms come from, the most frequent first.
    """
    weeks = machine_seconds / WEEK_SECONDS
    if weeks <= 0:
        said = "no machine was watched in this time: there is no rate"
        return Realised(
            false_alarms=false_alarms, machine_weeks=0.0, rate=None, low=None, high=None, status="unsure", said=said
        )
    low, high = (100 * bound / weeks for bound in count_interval(false_alarms))
    rate = 100 * false_alarms / weeks
    status = "exceeded" if low > limit else "kept" if high <= limit else "unsure"
    words = {"exceeded": "over the budget", "kept": "within the budget", "unsure": "too few findings to say"}
    said = f"{rate:.3g} false alarms per 100 machine-weeks ({low:.3g} to {high:.3g}), budget {limit:g}: {words[status]}"
    return Realised(
        false_alarms=false_alarms,
        machine_weeks=weeks,
        rate=rate,
        low=low,
        high=high,
        status=status,
        said=said,
        suggestions=_suggestions(status, false_alarms, without_feedback, sources),
    )


def _suggestions(status: str, false_alarms: int, without_feedback: int, sources: Sequence[Source]) -> tuple[str, ...]:
    """What may be done about it."""
    found = []
    if status == "exceeded":
        for source in sources:
            if source.count < _NOTABLE * false_alarms or source.count < 2:
                continue
            share = f"{source.count} of {false_alarms} false alarms come from {source.kind} {source.name}"
            if source.kind == "release":
                found.append(f"{share}: compare it with the release before, or go back to that")
            else:
                found.append(f"{share}: look at its sensor and mounting, or train with its recordings")
        if not found:
            found.append("the false alarms are spread out: raise the model's threshold, or train it with the labels")
    if without_feedback > false_alarms:
        found.append(f"{without_feedback} cases have no finding yet: the rate does not know them")
    return tuple(found)

"""False alarms are a budget: so many per 1,000 machine-hours. The limits of detectors follow from it.

A false alarm takes ``raise_windows`` windows in a row above a limit. The limit therefore follows from *sustained*
values: the least of so many consecutive values of healthy windows, by models that did not see them. The mean of the
sustained values is ``mu``, their deviation ``sigma`` (its upper confidence bound, since few windows know it badly), and
a machine that is healthy may drift in its later life by a share of what its windows differ by anyway, which the
beginning of a life does not show (how far each kind of detector drifts says :mod:`evidence`). The limit is the level
that ``mu + sqrt(sigma**2 + drift**2) * N`` reaches as seldom as the budget allows, N being standard normal; the budget
is divided by the number of detectors (Bonferroni).

The normal tail is an assumption that no short recording can prove: what the data at hand can show is said beside it
(:func:`bounds_per_1000_hours`), as the rate that so many hours without an alarm allow with 95 % confidence.

Invariant: pure functions of values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import logsumexp
from scipy.stats import chi2, norm

__all__ = [
    "CONFIDENCE",
    "SLOW_REFERENCE",
    "bounds_per_1000_hours",
    "hours_to_show",
    "limits",
    "shared_limits",
    "slow_limit",
    "smoothed",
    "sustained",
]

CONFIDENCE: Final = 0.95
"""Of what is said about rates, and of the deviation."""
_ENOUGH: Final = 4
"""With fewer sustained spans than this, the values themselves are looked at: there are too few sustained ones."""

SLOW_REFERENCE: Final = 0.5
"""The score at which the cumulative sum of slow wear neither grows nor shrinks: half of what warns."""
_SLOW_LEAST: Final = 40.0
"""Least limit of the sum: 80 windows at the threshold, or 200 at 0.7. A machine's beginning does not show how long a
healthy one may be a little off."""
_SLOW_MOST: Final = 200.0
"""With a higher limit a sum would find nothing in time."""
_SLOW_SHARE: Final = 0.1
"""Of the budget, for false alarms by the sum."""
_BLOCK: Final = 10
"""Windows of a block: scores within it depend on each other, blocks hardly do."""

Floats = npt.NDArray[np.float64]


def sustained(values: npt.NDArray[Any], windows: int) -> Floats:
    """[window - windows + 1, …]: the least of each ``windows`` consecutive values [window, …]; of all if there are
    fewer."""
    width = max(1, min(windows, len(values)))
    return np.asarray(np.lib.stride_tricks.sliding_window_view(values, width, axis=0).min(axis=-1), dtype=np.float64)


def smoothed(values: npt.NDArray[Any], windows: int) -> Floats:
    """[window - windows + 1, …]: the median of each ``windows`` consecutive values [window, …], as the decision
    smooths; of all if there are fewer."""
    width = max(1, min(windows, len(values)))
    spans = np.lib.stride_tricks.sliding_window_view(values, width, axis=0)
    return np.asarray(np.median(spans, axis=-1), dtype=np.float64)


def limits(
    held_out: list[Floats], windows_per_hour: float, per_1000_hours: float, windows: int, drift: float | Floats
) -> Floats:
    """[detector]: the limits that keep the budget.

    Args:
        held_out: for each recording the values of its healthy windows, [window, detector], by models that were not
            fitted to them.
        windows_per_hour: how many windows a machine gives in an hour.
        per_1000_hours: the budget of false alarms.
        windows: how many in a row raise an alert.
        drift: how far a healthy machine drifts in its later life, in deviations of its windows; one number, or
            [detector].
    """
    detectors = held_out[0].shape[1]
    chance = min(0.01, per_1000_hours / (1000.0 * windows_per_hour) / detectors)
    found = []
    for values in held_out:
        levels = sustained(values, windows) if len(values) >= _ENOUGH * windows else values
        count = len(levels)
        variance = levels.var(axis=0, ddof=1) * (count - 1) / chi2.ppf(1 - CONFIDENCE, count - 1)
        found.append(levels.mean(axis=0) + norm.isf(chance) * np.sqrt(variance + drift**2))
    level = np.max(found, axis=0)
    seen = np.max([sustained(values, windows).max(axis=0) for values in held_out], axis=0)
    return np.asarray(np.maximum(level, seen), dtype=np.float64)


def shared_limits(
    held_out: list[Floats], windows_per_hour: float, per_1000_hours: float, windows: int, drift: Floats
) -> Floats:
    """[detector]: the limits that keep the budget for machines that are each measured by their own baseline.

    Such machines differ by chance alone, so they are looked at together: the variance is the mean one within a machine
    (its upper bound) and that between their means, which a further machine has too.

    Args:
        held_out: for each of two or more machines the values of its healthy windows, [window, detector], by models that
            were not fitted to them.
        windows_per_hour, per_1000_hours, windows, drift: as of :func:`limits`.
    """
    chance = min(0.01, per_1000_hours / (1000.0 * windows_per_hour) / held_out[0].shape[1])
    levels = [sustained(values, windows) if len(values) >= _ENOUGH * windows else values for values in held_out]
    # Spans overlap: only so many of them say something new.
    count = max(2.0, sum(map(len, levels)) / windows)
    within = np.mean([each.var(axis=0, ddof=1) for each in levels], axis=0)
    within = within * (count - 1) / chi2.ppf(1 - CONFIDENCE, count - 1)
    means = np.array([each.mean(axis=0) for each in levels])
    between = means.var(axis=0, ddof=1) * (1 + 1 / len(levels))
    return np.asarray(means.mean(axis=0) + norm.isf(chance) * np.sqrt(within + between + drift**2), dtype=np.float64)


def slow_limit(held_out: Sequence[npt.NDArray[Any]], windows_per_hour: float, per_1000_hours: float) -> float:
    """The limit of the cumulative sum of ``score - SLOW_REFERENCE`` that keeps its share of the budget; 0: none does.

    The sums of blocks of consecutive healthy windows have an exponent ``q`` at which the mean of ``exp(q * sum)`` is 1;
    the sum then exceeds ``h`` as seldom as ``exp(-q * h)`` a block (Lundberg's bound; Siegmund, "Sequential Analysis",
    1985, for cumulative sums). Blocks keep what consecutive scores have in common (Kuensch, Annals of Statistics 17
    (1989)).

    Args:
        held_out: for each machine the scores of its healthy windows, [window], by models that did not see them.
        windows_per_hour: how many windows a machine gives in an hour.
        per_1000_hours: the budget of false alarms.
    """
    away = [np.minimum(scores, 1.0) - SLOW_REFERENCE for scores in held_out]
    width = min(_BLOCK, *map(len, away))
    blocks = np.concatenate([np.lib.stride_tricks.sliding_window_view(each, width).sum(axis=1) for each in away])
    if float(blocks.mean()) >= 0:
        return 0.0
    if float(blocks.max()) <= 0:
        return _SLOW_LEAST
    exponent = float(brentq(lambda q: logsumexp(q * blocks) - math.log(len(blocks)), 1e-6, 1e6 / blocks.max()))
    chance = min(0.01, _SLOW_SHARE * per_1000_hours / (1000.0 * windows_per_hour) * width)
    limit = max(_SLOW_LEAST, -math.log(chance) / exponent)
    return limit if limit <= _SLOW_MOST else 0.0


def bounds_per_1000_hours(alarms: int, hours: float) -> tuple[float, float]:
    """The rates, in alarms per 1,000 hours, between which the true one lies: below the first and above the second with
    5 % chance each, if ``alarms`` were seen in ``hours``.

    Source: Garwood, "Fiducial limits for the Poisson distribution", Biometrika 28 (1936).
    """
    low = 0.0 if alarms == 0 else float(chi2.ppf(1 - CONFIDENCE, 2 * alarms)) / 2
    high = float(chi2.ppf(CONFIDENCE, 2 * alarms + 2)) / 2
    return 1000 * low / hours, 1000 * high / hours


def hours_to_show(per_1000_hours: float) -> float:
    """The hours of healthy data without one alarm that show a budget with 95 % confidence."""
    return -1000.0 * math.log(1 - CONFIDENCE) / per_1000_hours

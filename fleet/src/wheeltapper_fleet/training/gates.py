"""The gates that a candidate must pass before its bundle is written.

Each function measures one property and returns a :class:`Gate`: the value, its limit, and whether it passed. The gates
become part of the signed manifest.
"""

from __future__ import annotations

import math
import time
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from wheeltapper_fleet.training.budget import CONFIDENCE, bounds_per_1000_hours, hours_to_show
from wheeltapper_fleet.training.evaluate import verdicts
from wheeltapper_fleet.training.recipe import DECISION
from wheeltapper_protocols.decision.decision import DecisionSpec, DecisionState, step
from wheeltapper_protocols.decision.scoring import Scorer
from wheeltapper_protocols.manifest.manifest import Gate

__all__ = [
    "agreement",
    "false_alarm_budget",
    "false_alert_limit",
    "false_alerts",
    "finite",
    "latency",
    "rate_bound",
    "reproducible",
    "sensitivity",
    "size",
    "unknown_from",
]

AGREEMENT_LIMIT: Final = 0.1
FALSE_ALERT_LIMIT: Final = 0.1
MAX_FALSE_ALERT_LIMIT: Final = 0.5
"""The limit never rises above this, however few windows there are: a bundle that alerts half of the time is useless."""
LATENCY_LIMIT_MS: Final = 5.0
SIZE_LIMIT_BYTES: Final = 256 * 1024
SENSITIVITY_LIMIT: Final = 0.5

Values = npt.NDArray[Any]


def agreement(int8_score: Values, float_score: Values) -> Gate:
    """Gate ``int8_agreement``: how far the int8 model's scores are from the float model's.

    The value is the 95th percentile of the absolute difference, divided by the float score or by 0.2, whichever is
    greater.

    Args:
        int8_score, float_score: scores of the same windows, [window].
    """
    value = float(np.quantile(np.abs(int8_score - float_score) / np.maximum(np.abs(float_score), 0.2), 0.95))
    return Gate(name="int8_agreement", value=value, limit=AGREEMENT_LIMIT, passed=value <= AGREEMENT_LIMIT)


def false_alerts(
    held_out: tuple[Values, ...],
    threshold: float,
    groups: list[Values],
    scorer: Scorer,
    decision: DecisionSpec = DECISION,
) -> Gate:
    """Gate ``false_alert_rate``: the share of healthy windows during which the alert is on.

    The decision is the one that devices use, on scores of models that were not fitted to the window. The limit allows
    one alert: it lasts until it clears, which is 43 % of 23 windows.

    Args:
        held_out: for each recording the residuals of its healthy windows, by models that did not see them, [window].
        threshold: the residual that counts as score 1.0.
        groups: for each recording the features of its healthy windows, [window, feature].
        scorer: names the features and knows their healthy values.
        decision: of the release.
    """
    alerts = windows = 0
    for residual, group in zip(held_out, groups, strict=True):
        shares = np.full(group.shape, 1.0 / group.shape[1])
        found = verdicts(decision, residual / threshold, shares, group, scorer)
        alerts += sum(verdict.alert for verdict in found)
        windows += len(found)
    value = alerts / windows
    limit = false_alert_limit(windows)
    detail = f"{alerts} of {windows} healthy windows, cross-validated over blocks of time"
    detail += f"; the rate is at most {rate_bound(alerts, windows):.2g} with {CONFIDENCE:.0%} confidence"
    if limit > FALSE_ALERT_LIMIT:
        detail += f"; with so few windows one alert exceeds {FALSE_ALERT_LIMIT:g}, so the limit allows one"
    return Gate(name="false_alert_rate", value=value, limit=limit, passed=value <= limit, detail=detail)


def false_alarm_budget(
    held_out: tuple[Values, ...], hours: float, per_1000_hours: float, decision: DecisionSpec = DECISION
) -> Gate:
    """Gate ``false_alarms_per_1000h``: whether the false alarms of held-out windows contradict the budget.

    The value is the rate that is exceeded with 95 % confidence, given the alarms that were raised. What the data at
    hand cannot show is in the detail: the rate that the same alarms still allow.

    Args:
        held_out: for each recording the scores of its healthy windows, by models that did not see them, [window].
        hours: machine-hours that the windows cover.
        per_1000_hours: the budget.
        decision: of the release.
    """
    alarms = 0
    for scores in held_out:
        state = DecisionState()
        for score in scores:
            state, verdict = step(decision, state, float(score))
            alarms += verdict.changed and verdict.alert and state.alert_windows == 0
    low, high = bounds_per_1000_hours(alarms, hours)
    detail = (
        f"{alarms} false alarms in {hours:.3g} held-out machine-hours; the rate is at most {high:.3g} per 1,000 h with "
        f"{CONFIDENCE:.0%} confidence; {hours_to_show(per_1000_hours):.4g} h without one would show the budget"
    )
    return Gate(
        name="false_alarms_per_1000h", value=low, limit=per_1000_hours, passed=low <= per_1000_hours, detail=detail
    )


def false_alert_limit(windows: int) -> float:
    """The limit of ``false_alert_rate`` for so many windows: one alert may be on until it clears."""
    return min(MAX_FALSE_ALERT_LIMIT, max(FALSE_ALERT_LIMIT, DECISION.clear_windows / windows))


def rate_bound(events: int, trials: int, confidence: float = CONFIDENCE) -> float:
    """The rate that is not exceeded with ``confidence``, if ``events`` of ``trials`` were seen: Clopper and Pearson's
    upper bound, which is at least what windows that depend on one another allow to say.

    Source: Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 26 (1934).
    """
    return 1.0 if events >= trials else float(betaincinv(events + 1, trials - events, confidence))


def unknown_from(windows: int, step_seconds: float) -> list[str]:
    """What so few healthy windows cannot show, in sentences; none where the gates are as strict as they are meant.

    Args:
        windows: number of healthy windows, of all recordings.
        step_seconds: from one window to the next.
    """
    limit = false_alert_limit(windows)
    if limit <= FALSE_ALERT_LIMIT:
        return []
    needed = math.ceil(DECISION.clear_windows / FALSE_ALERT_LIMIT)
    hours = needed * step_seconds / 3600
    length = f"{hours:.2g} hours" if hours >= 1 else f"{60 * hours:.2g} minutes"
    return [
        f"{windows} healthy windows are too few to know the false-alert rate: without any alert it may still be "
        f"{rate_bound(0, windows):.0%} ({CONFIDENCE:.0%} confidence), and its gate allows {limit:.0%} instead of "
        f"{FALSE_ALERT_LIMIT:.0%}. Record at least {needed} healthy windows ({length}), or raise --healthy-fraction if "
        "more of the recordings is healthy"
    ]


def finite(output: Values, score: Values) -> Gate:
    """Gate ``finite``: how many model outputs and scores are NaN or infinite; none may be."""
    value = float(np.sum(~np.isfinite(output)) + np.sum(~np.isfinite(score)))
    return Gate(name="finite", value=value, limit=0.0, passed=value == 0)


def sensitivity(score: Values) -> Gate:
    """Gate ``sensitivity``: the share of badly damaged windows whose score reaches 1.0, the warning threshold.

    Args:
        score: scores of healthy windows made ten times as loud and given impacts, [window].
    """
    value = float(np.mean(score >= 1.0))
    return Gate(
        name="sensitivity", value=value, limit=SENSITIVITY_LIMIT, passed=value >= SENSITIVITY_LIMIT,
        detail="at least; healthy windows made ten times as loud, with impacts (process data: ten deviations away)",
    )  # fmt: skip


def reproducible(first: Values, second: Values, atol: float) -> Gate:
    """Gate ``golden_reproducible``: the largest difference between two sessions' outputs for the golden windows."""
    value = float(np.max(np.abs(first - second)))
    return Gate(name="golden_reproducible", value=value, limit=atol, passed=value <= atol)


def size(model: bytes) -> Gate:
    """Gate ``model_bytes``: the length of the serialised model."""
    return Gate(
        name="model_bytes", value=float(len(model)), limit=SIZE_LIMIT_BYTES, passed=len(model) <= SIZE_LIMIT_BYTES
    )


def latency(session: Any, row: Values) -> Gate:
    """Gate ``latency_p95_ms``: the 95th percentile of the time that the model takes for one window.

    The value is the smallest of five rounds, so that a model does not fail because another process took the CPU.

    Args:
        session: an open onnxruntime session of the int8 model.
        row: one window's model input, [1, feature].
    """
    best = float("inf")
    for _ in range(5):
        times = []
        for _ in range(50):
            start = time.perf_counter()
            session.run(["output"], {"input": row})
            times.append(time.perf_counter() - start)
        best = min(best, float(np.quantile(times, 0.95)) * 1000)
    return Gate(name="latency_p95_ms", value=best, limit=LATENCY_LIMIT_MS, passed=best <= LATENCY_LIMIT_MS)

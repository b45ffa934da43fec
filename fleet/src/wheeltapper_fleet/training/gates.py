"""The gates that a candidate must pass before its bundle is written.

Each function measures one property and returns a :class:`Gate`: the value, its limit, and whether it passed. The gates
become part of the signed manifest.
"""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training.evaluate import verdicts
from wheeltapper_fleet.training.recipe import DECISION
from wheeltapper_protocols.decision.scoring import Scorer
from wheeltapper_protocols.manifest.manifest import Gate

__all__ = ["agreement", "false_alerts", "finite", "latency", "reproducible", "sensitivity", "size"]

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


def false_alerts(held_out: tuple[Values, ...], threshold: float, groups: list[Values], scorer: Scorer) -> Gate:
    """Gate ``false_alert_rate``: the share of healthy windows during which the alert is on.

    The decision is the one that devices use, on scores of models that were not fitted to the window. The limit allows
    one alert: it lasts until it clears, which is 43 % of 23 windows.

    Args:
        held_out: for each recording the residuals of its healthy windows, by models that did not see them, [window].
        threshold: the residual that counts as score 1.0.
        groups: for each recording the features of its healthy windows, [window, feature].
        scorer: names the features and knows their healthy values.
    """
    alerts = windows = 0
    for residual, group in zip(held_out, groups, strict=True):
        shares = np.full(group.shape, 1.0 / group.shape[1])
        found = verdicts(DECISION, residual / threshold, shares, group, scorer)
        alerts += sum(verdict.alert for verdict in found)
        windows += len(found)
    value = alerts / windows
    limit = min(MAX_FALSE_ALERT_LIMIT, max(FALSE_ALERT_LIMIT, DECISION.clear_windows / windows))
    return Gate(
        name="false_alert_rate", value=value, limit=limit, passed=value <= limit,
        detail=f"{alerts} of {windows} healthy windows, cross-validated over blocks of time",
    )  # fmt: skip


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
        detail="at least; healthy windows made ten times as loud, with impacts",
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

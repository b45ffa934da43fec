"""Gates of a candidate: what has to hold before a bundle exists. Each returns what was measured beside its limit.

Latency is the least p95 of several rounds: another process that takes the CPU for a moment does not fail a model.
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
FALSE_ALERT_LIMIT_MOST: Final = 0.5
"""However few windows there are: with an alert on half of the time a bundle is of no use."""
LATENCY_LIMIT_MS: Final = 5.0
SIZE_LIMIT_BYTES: Final = 256 * 1024
SENSITIVITY_LIMIT: Final = 0.5

Values = npt.NDArray[Any]


def agreement(int8_score: Values, float_score: Values) -> Gate:
    """95th percentile of the difference of the int8 and the float net's scores, relative to the score or 0.2."""
    value = float(np.quantile(np.abs(int8_score - float_score) / np.maximum(np.abs(float_score), 0.2), 0.95))
    return Gate(name="int8_agreement", value=value, limit=AGREEMENT_LIMIT, passed=value <= AGREEMENT_LIMIT)


def false_alerts(held_out: tuple[Values, ...], threshold: float, groups: list[Values], scorer: Scorer) -> Gate:
    """Share of healthy windows with the alert on, by nets that had not seen them and the real decision.

    A single alert lasts as long as it takes to clear, which of 23 windows is 43 %: one such is within the limit.
    """
    alerts = windows = 0
    for residual, group in zip(held_out, groups, strict=True):
        shares = np.full(group.shape, 1.0 / group.shape[1])
        found = verdicts(DECISION, residual / threshold, shares, group, scorer)
        alerts += sum(verdict.alert for verdict in found)
        windows += len(found)
    value = alerts / windows
    limit = min(FALSE_ALERT_LIMIT_MOST, max(FALSE_ALERT_LIMIT, DECISION.clear_windows / windows))
    return Gate(
        name="false_alert_rate", value=value, limit=limit, passed=value <= limit,
        detail=f"{alerts} of {windows} healthy windows, cross-validated over blocks of time",
    )  # fmt: skip


def finite(output: Values, score: Values) -> Gate:
    """Number of outputs and scores that are not finite."""
    value = float(np.sum(~np.isfinite(output)) + np.sum(~np.isfinite(score)))
    return Gate(name="finite", value=value, limit=0.0, passed=value == 0)


def sensitivity(score: Values) -> Gate:
    """Share of grossly damaged windows (healthy ones, ten times as loud, with impacts) that reach 1.0."""
    value = float(np.mean(score >= 1.0))
    return Gate(
        name="sensitivity", value=value, limit=SENSITIVITY_LIMIT, passed=value >= SENSITIVITY_LIMIT,
        detail="at least; healthy windows made ten times as loud, with impacts",
    )  # fmt: skip


def reproducible(first: Values, second: Values, atol: float) -> Gate:
    """Largest difference between two runs of the golden windows in sessions of their own."""
    value = float(np.max(np.abs(first - second)))
    return Gate(name="golden_reproducible", value=value, limit=atol, passed=value <= atol)


def size(model: bytes) -> Gate:
    """Bytes of the model."""
    return Gate(
        name="model_bytes", value=float(len(model)), limit=SIZE_LIMIT_BYTES, passed=len(model) <= SIZE_LIMIT_BYTES
    )


def latency(session: Any, row: Values) -> Gate:
    """Milliseconds of one window through the net."""
    best = float("inf")
    for _ in range(5):
        times = []
        for _ in range(50):
            start = time.perf_counter()
            session.run(["output"], {"input": row})
            times.append(time.perf_counter() - start)
        best = min(best, float(np.quantile(times, 0.95)) * 1000)
    return Gate(name="latency_p95_ms", value=best, limit=LATENCY_LIMIT_MS, passed=best <= LATENCY_LIMIT_MS)

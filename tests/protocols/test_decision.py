"""The decision: spikes, persistence, hysteresis, NaN, reasons."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from wheeltapper_protocols.decision import DecisionSpec, DecisionState, Verdict, decide
from wheeltapper_protocols.messages import Severity

SPEC = DecisionSpec(smooth_windows=3, raise_windows=2, clear_windows=3)
NAMES = ("a", "b")


def play(scores: list[float]) -> list[Verdict]:
    state, found = DecisionState(), []
    for score in scores:
        state, verdict = decide(SPEC, state, score, np.array([0.2, 0.8]), np.array([1.0, 9.0]), NAMES, np.array([1, 2]))
        found.append(verdict)
    return found


def test_a_spike_does_not_alert_and_persistence_does() -> None:
    assert not any(verdict.alert for verdict in play([0.1, 0.1, 50.0, 0.1, 0.1, 50.0, 0.1, 0.1]))
    found = play([0.1, 0.1, 0.1, 1.5, 1.5, 1.5, 1.5])
    assert [verdict.alert for verdict in found] == [False] * 5 + [True, True]
    assert [verdict.changed for verdict in found] == [False] * 5 + [True, False]
    assert found[5].severity is Severity.WARNING
    assert [reason.feature for reason in found[5].reasons] == ["b", "a"]
    assert found[5].reasons[0].value == 9.0


def test_it_becomes_critical_and_clears_with_hysteresis() -> None:
    found = play([1.5] * 5 + [5.0] * 4 + [0.9] * 9 + [0.1] * 6)
    severities = [verdict.severity for verdict in found]
    assert Severity.CRITICAL in severities
    assert severities[-1] is Severity.NORMAL
    assert all(verdict.alert for verdict in found[3:18])
    assert found[-1].reasons == ()


def test_nan_is_ignored_and_infinity_counts() -> None:
    found = play([1.5] * 4 + [math.nan] * 20 + [math.inf] * 4)
    assert found[4].alert
    assert not found[4].valid
    assert not found[4].changed
    assert found[-1].severity is Severity.CRITICAL
    assert play([math.nan])[0].score == 0.0


@given(st.lists(st.floats(allow_nan=True), max_size=60))
def test_verdicts_are_finite_and_changes_are_told(scores: list[float]) -> None:
    found = play(scores)
    assert all(math.isfinite(verdict.score) for verdict in found)
    for before, after in pairwise(found):
        assert after.changed == (after.severity is not before.severity)

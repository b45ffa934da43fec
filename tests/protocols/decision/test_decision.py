"""The decision: spikes, persistence, hysteresis, NaN, reasons."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from wheeltapper_protocols.decision.decision import (
    DecisionSpec,
    DecisionState,
    Verdict,
    decide,
    initial_state,
    step,
)
from wheeltapper_protocols.wire.messages import Severity

SPEC = DecisionSpec(smooth_windows=3, raise_windows=2, clear_windows=3)
NAMES = ("a", "b")


def play(scores: list[float], spec: DecisionSpec = SPEC) -> list[Verdict]:
    state, found = DecisionState(), []
    for score in scores:
        shares, features = np.array([0.2, 0.8]), np.array([1.0, 9.0])
        state, verdict = decide(spec, state, score, shares, features, NAMES, np.array([1, 2]))
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


TWO_SPEED = DecisionSpec(
    smooth_windows=1, raise_windows=3, clear_windows=4, critical_level=3.0, fast_level=1.5, fast_windows=2
)


def test_far_above_the_threshold_alerts_sooner() -> None:
    slow = play([0.1, 1.2, 1.2, 1.2, 1.2], TWO_SPEED)
    assert [verdict.alert for verdict in slow] == [False, False, False, True, True]
    fast = play([0.1, 1.6, 1.6, 1.6], TWO_SPEED)
    assert [verdict.alert for verdict in fast] == [False, False, True, True]
    assert fast[2].severity is Severity.WARNING
    assert fast[2].changed
    assert fast[2].reasons


def test_two_speeds_ignore_spikes_and_interruptions() -> None:
    assert not any(verdict.alert for verdict in play([0.1, 900.0, 0.1, 900.0, 0.1, 1.2, 1.2, 0.1] * 4, TWO_SPEED))
    assert not any(verdict.alert for verdict in play([0.1, 1.6, 1.4, 0.9, 1.6, 1.1, 0.9] * 4, TWO_SPEED))


def test_a_fast_alert_is_not_cleared_sooner() -> None:
    found = play([0.1, 1.6, 1.6, 0.1, 0.1, 0.1, 0.1, 0.1], TWO_SPEED)
    assert [verdict.alert for verdict in found] == [False, False, True, True, True, True, False, False]


def test_quiet_before_a_fast_alert_does_not_clear_it() -> None:
    smoothed = DecisionSpec(smooth_windows=5, raise_windows=3, clear_windows=4, fast_windows=2)
    found = play([0.1] * 20 + [9.0, 9.0, 0.1, 0.1, 0.1, 0.1, 0.1], smoothed)
    assert [verdict.alert for verdict in found[20:]] == [False, True, True, True, True, False, False]


def test_without_fast_windows_there_is_one_speed() -> None:
    one_speed = DecisionSpec(smooth_windows=1, raise_windows=3)
    assert not any(verdict.alert for verdict in play([0.1, 50.0, 50.0, 0.1, 0.1], one_speed))


@pytest.mark.parametrize(
    ("fast_windows", "fast_level", "text"), [(1, 2.0, "single spike"), (2, 0.9, "must not be below raise_level")]
)
def test_a_fast_speed_that_is_none_is_refused(fast_windows: int, fast_level: float, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        DecisionSpec(fast_windows=fast_windows, fast_level=fast_level)


@given(st.lists(st.floats(allow_nan=True), max_size=60))
def test_verdicts_are_finite_and_changes_are_told(scores: list[float]) -> None:
    found = play(scores)
    assert all(math.isfinite(verdict.score) for verdict in found)
    for before, after in pairwise(found):
        assert after.changed == (after.severity is not before.severity)


WEAR = DecisionSpec(smooth_windows=1, raise_windows=3, clear_windows=4, slow_drift=0.3, slow_limit=3.0)


def test_wear_far_below_the_threshold_is_raised_slowly() -> None:
    found = play([0.1] * 20 + [0.6] * 40, WEAR)
    at = next(place for place, verdict in enumerate(found) if verdict.alert)
    assert at == 20 + math.ceil(3.0 / 0.3) - 1
    assert (found[at].severity, found[at].changed, found[at].slowly) == (Severity.WARNING, True, True)
    assert all(verdict.alert for verdict in found[at:])
    assert not any(verdict.slowly for verdict in found[at + 1 :])
    assert not any(verdict.alert for verdict in play([0.1] * 20 + [0.6] * 400, replace(WEAR, slow_limit=0.0)))


def test_it_is_cleared_when_the_sum_has_gone_back_and_then_counts_anew() -> None:
    found = play([0.6] * 20 + [0.1] * 30 + [0.6] * 20, WEAR)
    alerts = [verdict.alert for verdict in found]
    assert alerts[9:27] == [True] * 18  # the sum is at 3.0 and falls by 0.2 a window to 1.5
    assert alerts[27:59] == [False] * 32
    assert alerts[59]


def test_spikes_add_no_more_than_the_threshold() -> None:
    assert not any(verdict.alert for verdict in play(([900.0] + [0.1] * 4) * 40, WEAR))


def test_an_alert_of_the_level_is_not_raised_again_by_the_sum() -> None:
    found = play([1.5] * 30 + [0.1] * 40, WEAR)
    assert [verdict.changed for verdict in found].count(True) == 2
    assert not any(verdict.slowly for verdict in found)


def test_the_sum_goes_on_after_a_restart_and_starts_anew_with_another_release() -> None:
    state = DecisionState()
    for _ in range(9):
        state, _ = step(WEAR, state, 0.6)
    _, verdict = step(WEAR, initial_state(state.severity, slow_sum=state.slow_sum), 0.6)
    assert verdict.slowly
    assert not step(WEAR, initial_state(state.severity), 0.6)[1].alert
    state = initial_state(Severity.WARNING)  # an open alert that was raised slowly goes on, and is not raised again
    for _ in range(30):
        state, verdict = step(WEAR, state, 0.6)
        assert verdict.alert
        assert not verdict.changed


@given(st.lists(st.floats(0, 5) | st.just(math.nan), max_size=80))
def test_the_sum_keeps_to_its_bounds_and_is_nothing_where_it_is_off(scores: list[float]) -> None:
    state = off = DecisionState()
    plain = replace(WEAR, slow_drift=0.0, slow_limit=0.0)
    for score in scores:
        state, verdict = step(WEAR, state, score)
        assert 0 <= state.slow_sum <= WEAR.slow_limit
        assert not verdict.slowly or verdict.changed
        off, verdict = step(plain, off, score)
        assert off.slow_sum == 0
        assert not verdict.slowly


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"slow_drift": 1.0, "slow_limit": 5.0}, "never grows"), ({"slow_drift": 0.5, "slow_limit": 0.5}, "single spike")],
)
def test_a_slow_rule_that_is_none_is_refused(changes: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        DecisionSpec(**changes)  # type: ignore[arg-type]  # only its numbers

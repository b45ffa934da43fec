"""A device's own baseline: what it learns, what it refuses, and that its limits hold."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocols.decision.test_scoring import spec as scoring_spec
from wheeltapper_protocols.decision.baseline import (
    BaselineSpec,
    BaselineState,
    adapted,
    adjustment,
    carried_over,
    learn,
    windows_left,
)
from wheeltapper_protocols.decision.scoring import Scorer

FLEET = scoring_spec()


def spec(**changes: Any) -> BaselineSpec:
    values: dict[str, Any] = {
        "windows": 40,
        "outside_windows": 20,
        "shift": [3.0, 3.0],
        "spread": [1.0, 1.0],
        "narrowest": [0.5, 0.5],
        "widest": [2.0, 2.0],
    }
    return BaselineSpec(**(values | changes))


def play(rows: Any, found: BaselineSpec | None = None, state: BaselineState | None = None) -> BaselineState:
    state = state or BaselineState()
    for row in rows:
        state = learn(found or spec(), state, np.asarray(row))
    return state


def machine(level: float, spread: float = 1.0, windows: int = 40, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(level, spread, (windows, 2))


def test_a_machine_learns_its_own_level_and_spread() -> None:
    rows = machine(2.0, 1.5)
    state = play(rows)
    assert (state.phase, state.learned, state.outside) == ("learned", 40, 0)
    found = adjustment(spec(), state)
    np.testing.assert_allclose(found.shift, rows.mean(axis=0))
    np.testing.assert_allclose(found.ratio, rows.std(axis=0, ddof=1))
    assert not found.limited.any()
    own = Scorer(adapted(spec(), FLEET, state), ("a", "b"))
    features = np.exp(rows[:, :1] * 0.5), rows[:, 1:] * 2.0 + 1.0  # what gives these rows with the fleet's values
    z = own.model_input(np.hstack(features))
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(z.std(axis=0, ddof=1), 1.0, rtol=1e-5)


def test_until_it_is_learned_the_values_of_the_fleet_stand() -> None:
    state = play(machine(2.0)[:39])
    assert state.phase == "learning"
    assert windows_left(spec(), state) == 1
    assert adapted(spec(), FLEET, state) is FLEET
    found = adjustment(spec(), state)
    assert (found.shift.tolist(), found.ratio.tolist()) == ([0.0, 0.0], [1.0, 1.0])


def test_a_machine_that_is_faulty_already_does_not_become_its_own_normal() -> None:
    state = play(machine(20.0, windows=60))
    assert (state.phase, state.learned, state.outside) == ("refused", 0, 20)
    assert adapted(spec(), FLEET, state) is FLEET
    unwell = BaselineState()
    for row in machine(0.0, windows=60):
        unwell = learn(spec(), unwell, row, healthy=False)
    assert (unwell.phase, unwell.outside) == ("refused", 20)


def test_a_burst_is_not_learnt() -> None:
    calm = machine(0.5)
    state = play([*calm[:10], *([[50.0, 0.0]] * 5), *calm[10:]])
    assert (state.phase, state.outside) == ("learned", 5)
    np.testing.assert_allclose(adjustment(spec(), state).shift, calm.mean(axis=0))


def test_what_goes_beyond_the_limits_is_limited_and_named() -> None:
    state = play(machine(0.0, 0.01) + np.array([5.0, 1.0]))
    found = adjustment(spec(), state)
    assert found.limited.tolist() == [True, False]
    assert found.shift[0] == 3.0
    assert found.ratio.tolist() == [0.5, 0.5]


def test_one_window_in_so_many_is_learnt() -> None:
    rows = machine(1.0, windows=160)
    state = play(rows, spec(every=4))
    assert (state.phase, state.seen, state.learned) == ("learned", 157, 40)
    np.testing.assert_allclose(state.mean, rows[::4].mean(axis=0))


def test_a_window_with_a_missing_feature_is_neither_learnt_nor_outside() -> None:
    state = play([[math.nan, 0.0], [0.0, math.inf]])
    assert (state.seen, state.learned, state.outside) == (2, 0, 0)


values = st.floats(-30, 30) | st.just(math.nan)


@given(st.lists(st.tuples(values, values), max_size=120), st.integers(0, 120), st.integers(1, 3))
def test_limits_hold_whatever_comes_and_a_restart_changes_nothing(
    rows: list[tuple[float, float]], cut: int, every: int
) -> None:
    found = spec(windows=8, outside_windows=8, every=every)
    state = play(rows, found)
    kept = msgspec.json.decode(msgspec.json.encode(play(rows[:cut], found)), type=BaselineState)
    assert play(rows[cut:], found, kept) == state
    moved = adjustment(found, state)
    assert (np.abs(moved.shift) <= 3.0).all()
    assert ((moved.ratio >= 0.5) & (moved.ratio <= 2.0)).all()
    if state.phase != "learning":
        assert play([[0.0, 0.0]], found, state) is state
        assert windows_left(found, state) == 0


def test_another_release_may_keep_what_was_learnt() -> None:
    state = play(machine(1.0, 1.2))
    other = scoring_spec(center=[0.25, 2.0], scale=[1.0, 1.0])
    moved = carried_over(spec(shift=[9.0, 9.0]), other, state, FLEET)
    wide = spec(shift=[9.0, 9.0], narrowest=[0.01, 0.01], widest=[9.0, 9.0])
    before, after = adapted(wide, FLEET, state), adapted(wide, other, moved)
    np.testing.assert_allclose(after.center, before.center)
    np.testing.assert_allclose(after.scale, before.scale)


def test_what_is_carried_over_keeps_to_the_limits_and_the_count_of_the_other_release() -> None:
    state = play(machine(2.5))
    assert adjustment(spec(shift=[1.0, 1.0]), carried_over(spec(), FLEET, state, FLEET)).shift.tolist() == [1.0, 1.0]
    more = carried_over(spec(windows=50), FLEET, state, FLEET)
    assert (more.phase, more.learned) == ("learning", 40)
    assert carried_over(spec(), FLEET, play(machine(20.0)), FLEET) == BaselineState()
    with pytest.raises(ValueError, match="transform"):
        carried_over(spec(), scoring_spec(transform=["affine", "affine"]), state, FLEET)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"shift": [1.0]}, "one entry a feature"),
        ({"shift": [-1.0, 0.0]}, "shift must be >= 0"),
        ({"spread": [0.0, 1.0]}, "spread > 0"),
        ({"narrowest": [1.1, 1.0]}, "narrowest"),
        ({"widest": [0.9, 1.0]}, "widest"),
        ({"shift": [math.inf, 1.0]}, "finite"),
    ],
)
def test_limits_that_are_none_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        spec(**changes)

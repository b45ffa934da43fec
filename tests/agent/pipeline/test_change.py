"""ADWIN: the same delays as river's on the same streams, few false alarms, bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wheeltapper_agent.pipeline import change as module
from wheeltapper_agent.pipeline.change import Adwin, ScoreChangeDetector, to_unit_interval
from wheeltapper_protocols.drift.drift import ChangeSpec

Values = NDArray[np.float64]
DELTA = 0.002
LOOK = 32
CHANGED_AT = 1500


def ours(values: Values) -> list[int]:
    watch = Adwin(DELTA, LOOK)
    return [index for index, value in enumerate(values.tolist()) if watch.add(value) is not None]


def theirs(values: Values) -> list[int]:
    river = pytest.importorskip("river.drift")  # not where only the agent is installed
    watch = river.ADWIN(delta=DELTA, clock=LOOK)
    found = []
    for index, value in enumerate(values.tolist()):
        watch.update(value)
        if watch.drift_detected:
            found.append(index)
    return found


def abrupt(random: np.random.Generator) -> Values:
    level = np.where(np.arange(3000) < CHANGED_AT, 0.3, 0.38)
    return np.clip(random.normal(level, 0.06), 0, 1)


def gradual(random: np.random.Generator) -> Values:
    level = 0.3 + 0.2 * np.clip((np.arange(3000) - CHANGED_AT) / 1000, 0, 1)
    return np.clip(random.normal(level, 0.06), 0, 1)


def skewed(random: np.random.Generator) -> Values:
    level = np.where(np.arange(3000) < CHANGED_AT, 0.1, 0.2)
    return np.clip(random.exponential(level), 0, 1)


@pytest.mark.parametrize("stream", [abrupt, gradual, skewed])
def test_a_change_is_found_as_soon_as_river_finds_it(stream: Callable[[np.random.Generator], Values]) -> None:
    for seed in range(6):
        values = stream(np.random.default_rng(seed))
        mine, rivers = ours(values), theirs(values)
        assert mine
        assert rivers
        assert mine[0] >= CHANGED_AT
        assert abs(mine[0] - rivers[0]) <= LOOK  # one look
        if stream is not gradual:
            assert len(mine) <= len(rivers) + 1


def test_where_nothing_changes_alarms_are_as_rare_as_rivers() -> None:
    alarms = [0, 0]
    for seed in range(4):
        values = np.clip(np.random.default_rng(seed).normal(0.3, 0.1, 10_000), 0, 1)
        alarms[0] += len(ours(values))
        alarms[1] += len(theirs(values))
    assert alarms[0] <= alarms[1] + 1
    assert alarms[0] <= 2


def test_a_spread_that_grows_is_found_though_the_mean_stays() -> None:
    random = np.random.default_rng(1)
    deviation = np.where(np.arange(3000) < CHANGED_AT, 0.03, 0.12)
    scores = np.clip(random.normal(0.4, deviation), 0, None)
    watch = ScoreChangeDetector(ChangeSpec())
    found = [(index, one.kind, one.before, one.after) for index, score in enumerate(scores) for one in watch.add(score)]
    kinds = {kind for _, kind, _, _ in found}
    assert "spread" in kinds
    first = next(one for one in found if one[1] == "spread")
    assert CHANGED_AT <= first[0] <= CHANGED_AT + 6 * LOOK
    assert first[3] > 2 * first[2]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=400))
def test_the_window_is_its_newest_values(values: list[float]) -> None:
    watch = Adwin(DELTA, LOOK)
    for value in values:
        watch.add(value)
    kept = np.array(values[len(values) - watch.width :])
    assert watch.mean == pytest.approx(kept.mean(), abs=1e-12)
    kept = kept[: watch._width]  # without those that wait for the next look
    assert watch._m2 == pytest.approx(((kept - kept.mean()) ** 2).sum() if len(kept) else 0.0, abs=1e-9)
    assert sum((watch.base << size) * len(buckets) for size, buckets in enumerate(watch._sizes)) == watch._width


def test_memory_is_bounded_whatever_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Adwin(DELTA, LOOK)
    for index in range(60_000):
        watch.add(0.25 if index % 2 else 0.35)
    assert watch.width == 60_000
    assert watch.buckets <= 6 * math.ceil(math.log2(60_000))
    monkeypatch.setattr(module, "_SIZES", 4)
    small = Adwin(DELTA, LOOK)
    for _ in range(5_000):
        small.add(0.3)
        assert small.buckets <= 4 * 6
        assert small.width <= 6 * (1 + 2 + 4 + 8) * small.base + LOOK
    assert small.mean == pytest.approx(0.3)


def test_scores_that_are_no_numbers_do_no_harm() -> None:
    watch = ScoreChangeDetector(ChangeSpec())
    for score in (math.nan, math.inf, -1.0, 1e300, 0.0) * 40:
        watch.add(score)
    assert watch.level.width == 160
    assert 0 <= watch.level.mean <= 1
    assert [to_unit_interval(score) for score in (-1.0, 0.0, 1.0, 3.0, math.inf)] == [0.0, 0.0, 0.5, 0.75, 1.0]

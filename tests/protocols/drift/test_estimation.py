"""Quality without labels: right where scores mean what they meant in training, bounded, silent where it cannot know."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wheeltapper_protocols.drift.estimation import (
    MIN_WINDOWS,
    EstimationSpec,
    GroupCounts,
    estimate,
    fit_estimation,
)
from wheeltapper_protocols.drift.sketch import Bins

EDGES = [0.0, *np.linspace(0.1, 1.9, 19).round(3).tolist(), 2.0]


def machine(random: np.random.Generator, share: float, windows: int = 400) -> tuple[Any, Any]:
    """Scores and faults of one machine; ``share`` says how far its scores lie towards the faulty end.

    Whether a window is faulty depends on its score, and a little on the machine.
    """
    score = 2 * random.beta(0.3 + 2 * share, 0.3 + 2 * (1 - share), windows)
    chance = np.clip(score / 2 + random.normal(0, 0.05), 0.02, 0.98)
    return score, random.random(windows) < chance


def counts_of(scores: Any) -> list[int]:
    return Bins([EDGES]).sketch(np.asarray(scores)[:, None]).counts[0].tolist()  # type: ignore[no-any-return]


def reference(random: np.random.Generator, machines: int) -> EstimationSpec:
    made = [machine(random, 0.5) for _ in range(machines)]
    scores, faults = (np.concatenate(each) for each in zip(*made, strict=True))
    owner = np.repeat(np.arange(machines), 400)
    return fit_estimation(EDGES, scores, owner, right=(scores >= 1.0) == faults, faults=faults)


def test_a_fleet_in_another_state_gets_another_estimate_that_holds() -> None:
    random = np.random.default_rng(3)
    inside, off, assumed = [], [], []
    for _ in range(60):
        spec = reference(random, 8)
        made = [machine(random, random.uniform(0.05, 0.95)) for _ in range(4)]
        scores, faults = (np.concatenate(each) for each in zip(*made, strict=True))
        alarm = scores >= 1.0
        truth = {
            "accuracy": float(np.mean(alarm == faults)),
            "precision": float(faults[alarm].mean()),
            "recall": float(alarm[faults].mean()),
        }
        for found in estimate(spec, EDGES, counts_of(scores), 4):
            assert found.value is not None
            assert found.low is not None
            assert found.high is not None
            assert found.reference is not None
            inside.append(found.low <= truth[found.name] <= found.high)
            off.append(abs(found.value - truth[found.name]))
            assumed.append(abs(found.reference - truth[found.name]))
    assert np.mean(inside) > 0.85
    assert np.mean(off) < 0.6 * np.mean(assumed)


def test_the_error_of_a_regressor_follows_where_its_predictions_lie() -> None:
    random = np.random.default_rng(4)
    owner = np.repeat(np.arange(6), 500)
    scores = random.uniform(0, 2, len(owner))
    error = random.normal(0, 1 + 4 * scores)  # the higher the score the worse
    spec = fit_estimation(EDGES, scores, owner, error=error)
    for low, high in ((0.0, 0.5), (1.5, 2.0), (0.0, 2.0)):
        now = random.uniform(low, high, 4000)
        real = random.normal(0, 1 + 4 * now)
        mae, rmse = estimate(spec, EDGES, counts_of(now), 5)
        assert mae.value == pytest.approx(np.abs(real).mean(), rel=0.1)
        assert rmse.value == pytest.approx(np.sqrt(np.mean(real**2)), rel=0.1)
        assert mae.reference == pytest.approx(np.abs(error).mean(), rel=1e-6)


@given(
    counts=st.lists(st.integers(0, 5000), min_size=4, max_size=4),
    devices=st.integers(0, 50),
    groups=st.lists(
        st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1), st.floats(0, 1)), min_size=4, max_size=4),
        min_size=1,
        max_size=12,
    ).filter(lambda each: any(windows for group in each for windows, _, _ in group)),
)
def test_an_estimate_is_a_share_within_its_bounds_or_says_what_lacks(
    counts: list[int], devices: int, groups: list[list[tuple[int, float, float]]]
) -> None:
    made = [
        GroupCounts(
            windows=[windows for windows, _, _ in group],
            right=[int(windows * share) for windows, share, _ in group],
            faults=[int(windows * share) for windows, _, share in group],
        )
        for group in groups
    ]
    spec = EstimationSpec(kind="classification", groups=made)
    for found in estimate(spec, [0.0, 1.0, 2.0], counts, devices):
        if found.value is None:
            assert found.why
            assert found.low is None is found.high
        else:
            assert found.low is not None
            assert found.high is not None
            assert 0 <= found.low <= found.value <= found.high <= 1 + 1e-12
            assert sum(counts) >= MIN_WINDOWS
            assert len(groups) >= 3


def test_nothing_is_guessed() -> None:
    few = GroupCounts(windows=[0, 90, 10, 0], right=[0, 80, 5, 0], faults=[0, 3, 6, 0])
    two = EstimationSpec(kind="classification", groups=[few] * 2)
    three = EstimationSpec(kind="classification", groups=[few] * 3)
    assert {each.why for each in estimate(two, [0.0, 1.0, 2.0], [0, 500, 0, 0], 3)} == {
        "only 2.0 machines of the reference have such scores; at least 3 are needed",
        "0 windows; at least 100 are needed",
    }  # fmt: skip
    accuracy, precision, recall = estimate(three, [0.0, 1.0, 2.0], [0, 500, 0, 0], 3)
    assert accuracy.value == pytest.approx(80 / 90)
    assert (precision.value, precision.why) == (None, "0 windows; at least 100 are needed")
    assert recall.value == pytest.approx(0.0)
    assert estimate(three, [0.0, 1.0, 2.0], [0, 99, 0, 0], 3)[0].why == "99 windows; at least 100 are needed"
    with pytest.raises(ValueError, match="other bins"):
        estimate(three, [0.0, 1.0, 2.0], [1, 2, 3], 3)


def test_a_machine_more_or_less_widens_or_narrows_the_bounds() -> None:
    random = np.random.default_rng(5)
    wide = estimate(reference(random, 4), EDGES, counts_of(machine(random, 0.5)[0]), 1)[0]
    narrow = estimate(reference(random, 30), EDGES, counts_of(machine(random, 0.5, 4000)[0]), 30)[0]
    assert wide.high is not None
    assert wide.low is not None
    assert narrow.high is not None
    assert narrow.low is not None
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


@pytest.mark.parametrize(
    "group",
    [
        {"windows": [1, 2, 3]},
        {"windows": [1, 2, 3], "right": [1, 1, 1]},
        {"windows": [1, 2, 3], "right": [1, 1, 1], "faults": [1, 1]},
        {"windows": [0, 0, 0], "right": [0, 0, 0], "faults": [0, 0, 0]},
        {"windows": [1, 2, 3], "absolute": [1, 1, 1], "squared": [1, 1, 1]},
        {"windows": [-1, 2, 3], "right": [1, 1, 1], "faults": [1, 1, 1]},
    ],
)
def test_a_section_that_says_too_little_is_refused(group: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"kind": "classification", "groups": [group]}, EstimationSpec)


def test_many_machines_are_put_together() -> None:
    random = np.random.default_rng(6)
    spec = reference(random, 70)
    assert len(spec.groups) == 32
    assert sum(sum(group.windows) for group in spec.groups) == 70 * 400

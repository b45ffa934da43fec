"""Operating conditions: the nearest known one standardises, beyond them is unknown, bad sections are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wheeltapper_protocols.decision.condition import Conditions, ConditionSpec
from wheeltapper_protocols.decision.scoring import Scorer, ScoringSpec


def scorer() -> Scorer:
    both = [1.0, 1.0]
    spec = ScoringSpec(
        transform=["log", "affine"], center=[0.0, 0.0], scale=both, weight=both, down=both, threshold=1.0
    )
    return Scorer(spec, ("rms", "speed"))


def section(**changes: object) -> ConditionSpec:
    values: dict[str, object] = {
        "features": [1],
        "centres": [[20.0], [40.0]],
        "reach": [10.0],
        "center": [[0.0, 20.0], [2.0, 40.0]],
        "scale": [[0.5, 10.0], [0.25, 10.0]],
    }
    return ConditionSpec(**(values | changes))  # type: ignore[arg-type]  # the tests pass wrong values on purpose


def test_each_condition_has_its_usual_values() -> None:
    conditions = Conditions(section(), scorer())
    features = np.array([[np.e, 20.0], [np.e, 40.0], [np.e, 51.0], [np.e, 9.0], [np.e, np.nan]])
    assert conditions.find(features).tolist() == [0, 1, -1, -1, -1]
    np.testing.assert_allclose(conditions.model_input(features)[:3], [[2.0, 0.0], [-4.0, 0.0], [-4.0, 1.1]], rtol=1e-5)
    np.testing.assert_allclose(conditions.usual(features[1]), [np.exp(2.0), 40.0])


@given(st.floats(-100, 200))
def test_a_window_is_in_the_nearest_condition_within_its_reach_or_in_none(speed: float) -> None:
    found = int(Conditions(section(), scorer()).find(np.array([[1.0, speed]]))[0])
    apart = [abs(speed - 20), abs(speed - 40)]
    if min(apart) > 10.0:
        assert found == -1
    else:
        assert apart[found] == min(apart)


@pytest.mark.parametrize(
    "changes",
    [
        {"reach": [0.0]},
        {"reach": [1.0, 1.0]},
        {"centres": [[20.0]]},
        {"center": [[0.0, 20.0], [2.0]]},
        {"scale": [[0.5, 10.0], [0.0, 10.0]]},
        {"centres": [[20.0], [float("nan")]]},
    ],
)
def test_bad_sections_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        section(**changes)


def test_a_section_of_other_features_is_refused() -> None:
    with pytest.raises(ValueError, match="has not the 2 features"):
        Conditions(section(features=[2]), scorer())

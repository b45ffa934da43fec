"""A policy is read strictly: what it does not understand is refused with the field's name."""

from __future__ import annotations

import copy
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fleet.learning.policies.example import EXAMPLE
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.policies.spec import campaign_of, parse_policy, read_policy, recipe_text


def changed(path: str, value: Any) -> dict[str, Any]:
    """The example with one field changed; ``path`` has dots."""
    made = copy.deepcopy(EXAMPLE)
    *above, name = path.split(".")
    place = made
    for each in above:
        place = place.setdefault(each, {})
    place[name] = value
    return made


def test_the_example_is_taken_and_makes_a_campaign_and_a_recipe() -> None:
    spec = read_policy(EXAMPLE)
    campaign = campaign_of(spec, 7)
    assert (campaign.model, campaign.release, campaign.audience.query) == ("fan-anomaly", 7, "site = north")
    assert len(campaign.waves) == 2
    recipe = tomllib.loads(recipe_text(spec, "fans@3", 5))
    assert recipe["data"] == {"dataset": "fans@3"}
    assert recipe["parameters"] == {"condition": "speed", "healthy_fraction": 1.0}
    assert (recipe["recipe"], recipe["model"], recipe["seed"]) == ("anomaly", "fan-anomaly", 5)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("when", {}, "nothing begins it"),
        ("when.drift.devices", 1.5, "when.drift.devices"),
        ("when.drift.shares", 0.5, "shares"),
        ("whenever", 1, "whenever"),
        ("captures.at_least", 6, "captures.at_least"),
        ("captures.devices", 21, "captures.devices"),
        ("campaign.release", 4, "campaign.release"),
        ("campaign.waves", [{"percent": 0}], "waves"),
        ("run.parameters", {"since": None}, "run.parameters"),
        ("run.parameters", {"since": "\ud800"}, "run.parameters"),
        ("run.parameters", {"since": float("nan")}, "run.parameters"),
        ("run.parameters", {"since": [float("inf")]}, "run.parameters"),
        ("gates.worse", float("nan"), "gates.worse"),
        ("gates.required", ["everything"], "gates.required"),
        ("audience.query", "site =", "query"),
        ("name", "Fans", "name"),
        ("cool_down_seconds", 0, "cool_down_seconds"),
    ],
)
def test_what_is_wrong_is_named(path: str, value: Any, says: str) -> None:
    with pytest.raises(FleetError) as refused:
        read_policy(changed(path, value))
    assert says in str(refused.value)
    assert refused.value.status in (400, 422)


def test_a_text_that_is_no_toml_is_refused() -> None:
    with pytest.raises(FleetError) as refused:
        parse_policy("name = ")
    assert refused.value.code == "policy.malformed"


VALUES = st.recursive(
    st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=4))
def test_parameters_reach_the_recipe_as_they_were_given(parameters: dict[str, Any]) -> None:
    spec = read_policy(changed("run.parameters", parameters))
    assert tomllib.loads(recipe_text(spec, "fans@1", 0)).get("parameters", {}) == parameters


def test_the_bundle_is_held_against_what_the_alias_names() -> None:
    recipe = tomllib.loads(recipe_text(read_policy(EXAMPLE), "fans@3", 5))
    assert recipe["gates"] == {"champion": "champion"}
    strict = changed("gates", {"worse": 0.1, "required": ["champion", "site"], "label": "state"})
    strict["alias"] = "best"
    recipe = tomllib.loads(recipe_text(read_policy(strict), "fans@3", 5))
    assert recipe["gates"] == {"champion": "best", "worse": 0.1, "required": ["champion", "site"], "label": "state"}
    recipe = tomllib.loads(recipe_text(read_policy(changed("gates", {"champion": False})), "fans@3", 5))
    assert recipe["gates"] == {"champion": ""}
    same = changed("gates", {"side": "train"})
    same["run"]["side"] = "train"
    with pytest.raises(FleetError, match=r"gates\.side"):
        read_policy(same)

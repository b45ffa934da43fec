"""A campaign that cannot work is refused at its creation; one that may not is warned of, for people and programs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fleet.campaigns.world import World, create
from wheeltapper_fleet.campaigns.rules.foresight import foresee
from wheeltapper_fleet.campaigns.rules.spec import plan_waves, read_spec
from wheeltapper_fleet.campaigns.views import get_campaign, list_log
from wheeltapper_fleet.ground.errors import FleetError

MAIN: dict[str, Any] = {"main": ("m", 1)}


def warnings(shown: dict[str, Any], **fields: Any) -> list[str]:
    spec = read_spec({"model": "m", "release": 1, **fields})
    return foresee(spec, plan_waves(spec, sorted(shown)), shown)


def test_a_campaign_that_can_work_has_no_warnings() -> None:
    assert warnings({"a": MAIN, "b": MAIN}, waves=[{"count": 1}, {}], soak_seconds=60.0) == []
    assert warnings({"a": {"x": None}, "b": {"y": None}}, pipelines=["*"]) == []


@pytest.mark.parametrize(
    ("shown", "fields"),
    [
        ({"a": MAIN, "b": MAIN}, {"pipelines": ["mian"]}),
        ({"a": MAIN, "b": MAIN}, {"pipelines": ["main", "aux"]}),
        ({"a": {}, "b": {}}, {}),
        ({"a": {}}, {"pipelines": ["*"]}),
    ],
)
def test_a_pipeline_that_nobody_has_is_refused(shown: dict[str, Any], fields: dict[str, Any]) -> None:
    with pytest.raises(FleetError) as caught:
        warnings(shown, **fields)
    assert (caught.value.code, caught.value.status) == ("campaign.pipeline_unknown", 422)


@pytest.mark.parametrize(
    ("shown", "fields", "said"),
    [
        ({"a": MAIN, "b": None}, {}, ["1 of 2 devices have not said yet which pipelines they have: b"]),
        (
            {"a": MAIN, "b": {"aux": None}},
            {"success": {"percent": 50}},
            ["1 of 2 devices do not have a pipeline 'main', and will fail: b"],
        ),
        (
            {"a": MAIN, "b": {"aux": None}, "c": MAIN},
            {"waves": [{"devices": ["b"]}, {}]},
            ["do not have a pipeline 'main'", "wave 1 cannot pass: it needs 1 successes, and 0 devices are able to"],
        ),
        ({"a": {"main": ("other", 3)}, "b": MAIN}, {}, ["1 of 2 devices run another model on pipeline 'main': a"]),
        ({"a": {"x": ("other", 3)}, "b": MAIN}, {"pipelines": ["*"]}, ["another model on some pipelines: a"]),
        ({"a": MAIN}, {"soak_seconds": 7200.0}, ["shorter than the soak time"]),
        (
            {"a": MAIN, "b": MAIN, "c": MAIN},
            {"waves": [{"count": 1}, {}], "abort": [{"count": 2, "scope": "wave"}]},
            ["wave 1 has 1 devices, too few to break the abort rule"],
        ),
        (
            {"a": MAIN, "b": MAIN, "c": MAIN},
            {"waves": [{"count": 1}, {}], "abort": [{"percent": 10, "minimum_executed": 2, "scope": "wave"}]},
            ["wave 1 has 1 devices, too few to break the abort rule"],
        ),
    ],
)
def test_what_may_not_go_well_is_warned_of(shown: dict[str, Any], fields: dict[str, Any], said: list[str]) -> None:
    found = warnings(shown, **fields)
    assert len(found) == len(said)
    for text, part in zip(found, said, strict=True):
        assert part in text


def test_warnings_are_in_the_log_and_in_the_answer(world: World) -> None:
    for index in range(4):
        world.online(f"dev-{index}", main=None)
    campaign = create(world)
    shown = get_campaign(world.database, campaign)
    assert shown.warnings == ["1 of 5 devices have not said yet which pipelines they have: dev-4"]
    assert [line.event for line in list_log(world.database, campaign).items][:2] == ["created", "warning"]
    world.online("dev-4", main=None)
    assert get_campaign(world.database, create(world)).warnings == []
    with pytest.raises(FleetError) as caught:
        create(world, pipelines=["camera"])
    assert caught.value.code == "campaign.pipeline_unknown"

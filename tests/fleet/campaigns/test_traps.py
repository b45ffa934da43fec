"""The traps that rollout systems have fallen into, one test each; a failure does not hide what a device runs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fleet.campaigns.world import World, create
from wheeltapper_fleet.campaigns import service
from wheeltapper_fleet.campaigns.service import pause_campaign, resume_campaign
from wheeltapper_fleet.devices.views import get_device
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.messages import AssignmentRefused, ExecutionState

S = ExecutionState


def test_a_finished_wave_below_its_threshold_pauses_and_no_resume_goes_past_it(world: World) -> None:
    campaign = create(world)
    world.tick()
    world.end("dev-0", S.COMMITTED)
    world.end("dev-1", S.FAILED)
    world.tick()
    assert (world.campaign(campaign).state, world.campaign(campaign).waves[0]["state"]) == ("PAUSED", "FAILED")
    with pytest.raises(FleetError, match="wave_failed"):
        world.act(campaign, resume_campaign)
    assert world.states(campaign)["dev-2"] == "PENDING"


@pytest.mark.parametrize(
    "rule", [{}, {"percent": "half"}, {"percent": 0}, {"count": 1, "states": ["SAD"]}, {"cuont": 1}]
)
def test_a_rule_that_cannot_be_read_refuses_the_campaign(world: World, rule: dict[str, Any]) -> None:
    with pytest.raises(FleetError) as caught:
        create(world, abort=[rule])
    assert caught.value.code == "campaign.rule_invalid"
    assert world.campaign_ids() == []


def test_the_denominator_is_what_was_executed(world: World) -> None:
    """One failure of two that ended is half of them, though the wave has five devices."""
    campaign = create(world, waves=[{}], abort=[{"percent": 50, "minimum_executed": 2}], success={"percent": 20})
    world.tick()
    world.end("dev-0", S.FAILED)
    world.tick()
    assert world.campaign(campaign).state == "RUNNING"
    world.end("dev-1", S.COMMITTED)
    world.tick()
    assert world.campaign(campaign).state == "PAUSED"


def test_a_refusal_of_the_device_ends_its_execution(world: World) -> None:
    campaign = create(world)
    world.tick()
    execution = world.assigned["dev-0"].executions[0].execution
    world.report("dev-0", AssignmentRefused(code="assignment.signature", execution=execution))
    assert world.states(campaign)["dev-0"] == "REJECTED"


def test_an_offline_device_ends_by_its_deadline(world: World) -> None:
    campaign = create(world)
    world.tick()
    world.tick(61.0)
    (row,) = [each for each in world.campaign(campaign).execution_list if each.device == "dev-0"]
    assert (row.state, row.code) == ("FAILED", "execution.deadline")


def test_who_acts_on_what_has_moved_on_is_told_where_it_stands(world: World) -> None:
    campaign = create(world)
    seen = world.campaign(campaign).version
    world.tick()
    with pytest.raises(FleetError) as caught:
        service.abort_campaign(world.database, campaign, version=seen, who="bob", now=world.now)
    assert (caught.value.code, caught.value.status) == ("campaign.conflict", 409)
    assert "RUNNING" in caught.value.message
    world.act(campaign, pause_campaign)


def test_the_last_failure_of_a_device_does_not_blank_what_it_runs(world: World) -> None:
    runs = ("bearing", 1)
    world.online("dev-0", main=runs)
    campaign = create(world, release=2, waves=[{}], audience={"devices": ["dev-0"]})
    world.tick()
    world.end("dev-0", S.FAILED, "selftest.output")
    world.online("dev-0", world.retained["dev-0"].counter, main=runs)
    world.tick()
    assert world.states(campaign)["dev-0"] == "FAILED"
    target = world.retained["dev-0"].pipelines["main"]
    assert target is not None
    assert (target.model, target.release, world.retained["dev-0"].executions) == ("bearing", 1, [])
    shown = get_device(world.database, "dev-0", world.now).model_dump()
    assert "'release': 1" in str(shown), "the device's page does not say what it runs"

"""Four eyes: who made or started a campaign does not approve it, and as many persons approve as it asks for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fleet.campaigns.world import World, create
from wheeltapper_fleet.campaigns import service
from wheeltapper_fleet.campaigns.rules.spec import read_spec
from wheeltapper_fleet.ground.errors import FleetError


def approve(world: World, campaign: str, who: str) -> None:
    version = world.campaign(campaign).version
    service.approve_campaign(world.database, campaign, version=version, who=who, now=world.now)


def waiting(world: World, **fields: Any) -> str:
    """Made by ann, started by bob."""
    campaign = create(world, start=False, needs_approval=True, **fields)
    service.start_campaign(world.database, campaign, version=1, who="bob", now=world.now)
    return campaign


@pytest.mark.parametrize("who", ["ann", "bob"])
def test_who_made_or_started_it_does_not_approve_it(world: World, who: str) -> None:
    campaign = waiting(world)
    before = world.campaign(campaign)
    with pytest.raises(FleetError, match="another person must approve") as refused:
        approve(world, campaign, who)
    assert (refused.value.code, refused.value.status) == ("campaign.four_eyes", 403)
    assert world.campaign(campaign) == before
    assert world.tick() == []
    approve(world, campaign, "eve")
    assert world.campaign(campaign).state == "SCHEDULED"
    assert len(world.tick()) == 2


def test_as_many_persons_approve_as_it_asks_for(world: World) -> None:
    campaign = waiting(world, approvals=3)
    approve(world, campaign, "eve")
    with pytest.raises(FleetError, match="eve has approved it already"):
        approve(world, campaign, "eve")
    approve(world, campaign, "fay")
    found = world.campaign(campaign)
    assert (found.state, found.approved_by) == ("AWAITING_APPROVAL", ["eve", "fay"])
    assert world.tick() == []
    approve(world, campaign, "gil")
    assert world.campaign(campaign).state == "SCHEDULED"
    assert world.campaign(campaign).approved_by == ["eve", "fay", "gil"]


def test_two_approvals_of_one_version_are_a_conflict(world: World) -> None:
    campaign = waiting(world, approvals=2)
    version = world.campaign(campaign).version
    service.approve_campaign(world.database, campaign, version=version, who="eve", now=world.now)
    with pytest.raises(FleetError) as refused:
        service.approve_campaign(world.database, campaign, version=version, who="fay", now=world.now)
    assert refused.value.code == "campaign.conflict"
    assert world.campaign(campaign).approved_by == ["eve"]


def test_what_does_not_wait_for_approval_is_not_approved(world: World) -> None:
    campaign = create(world)
    with pytest.raises(FleetError) as refused:
        approve(world, campaign, "eve")
    assert refused.value.code == "campaign.illegal"
    assert world.campaign(campaign).approved_by == []


@pytest.mark.parametrize("count", [0, -1, 11, 1.5])
def test_a_number_of_approvals_that_makes_no_sense_is_refused(count: float) -> None:
    with pytest.raises(FleetError) as refused:
        read_spec({"model": "bearing", "release": 1, "needs_approval": True, "approvals": count})
    assert refused.value.code == "campaign.spec_invalid"

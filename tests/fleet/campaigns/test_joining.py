"""A device that enters the audience of a continuous campaign later joins it, once; a log that rests costs nothing."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event

from tests.fleet.campaigns.world import World, create, enrols, moves_to
from wheeltapper_fleet.campaigns.joining import join, next_changes, who_joins
from wheeltapper_fleet.campaigns.service import abort_campaign, complete_campaign
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.messages import ExecutionState

S = ExecutionState
SITE_A: dict[str, Any] = {"audience": {"tags": {"site": "a"}, "continuous": True}, "waves": [{"count": 1}, {}]}


def test_a_device_that_enters_later_joins_the_last_wave(world: World) -> None:
    campaign = create(world, **SITE_A)
    world.tick()
    moves_to(world, "dev-4", "a")
    moves_to(world, "dev-3", "b")
    assert world.tick(6.0) == [], "it goes past the wave that runs"
    assert world.states(campaign) == {"dev-0": "ASSIGNED", "dev-1": "PENDING", "dev-4": "PENDING"}
    assert world.campaign(campaign).executions == {"1": {"ASSIGNED": 1}, "2": {"PENDING": 2}}
    world.end("dev-0", S.COMMITTED)
    assert world.tick() == ["dev-1", "dev-4"]


def test_it_does_not_complete_and_who_comes_is_told(world: World) -> None:
    campaign = create(world, **SITE_A)
    for device in ("dev-0", "dev-1"):
        world.tick()
        world.end(device, S.COMMITTED)
    world.tick()
    assert world.campaign(campaign).state == "RUNNING"
    enrols(world, "dev-9", "a")
    assert world.tick(6.0) == ["dev-9"]
    moves_to(world, "dev-9", "b")
    moves_to(world, "dev-9", "a")
    assert world.tick(6.0) == []
    assert list(world.states(campaign)) == ["dev-0", "dev-1", "dev-9"]


def test_a_campaign_that_is_over_or_not_continuous_takes_nobody(world: World) -> None:
    once = create(world, audience={"tags": {"site": "a"}}, waves=[{}])
    over = create(world, **SITE_A, pipelines=["aux"])
    world.tick()
    world.act(over, abort_campaign)
    moves_to(world, "dev-4", "a")
    world.tick(6.0)
    assert ("dev-4" in world.states(once), "dev-4" in world.states(over)) == (False, False)


def test_a_closed_campaign_takes_nobody_and_completes(world: World) -> None:
    campaign = create(world, **SITE_A)
    for device in ("dev-0", "dev-1"):
        world.tick()
        world.end(device, S.COMMITTED)
    world.tick()
    assert world.campaign(campaign).continuous
    moves_to(world, "dev-4", "a")
    world.now += 6.0
    with reading(world.database) as connection:
        devices, line = next_changes(connection, world.now, 10)
        joining = who_joins(connection, devices, world.now)
    assert [each.device for each in joining] == ["dev-4"]
    version = world.campaign(campaign).version
    world.act(campaign, complete_campaign)
    shown = world.campaign(campaign)
    assert (shown.state, shown.continuous, shown.version > version) == ("COMPLETED", False, True)
    with world.database.begin() as connection:
        join(connection, joining, line, world.now)
    enrols(world, "dev-9", "a")
    world.tick(6.0)
    assert list(world.states(campaign)) == ["dev-0", "dev-1"], "also who was about to join"
    assert set(world.states(campaign).values()) == {"COMMITTED"}, "what it gave stays"
    with pytest.raises(FleetError, match="COMPLETED"):
        world.act(campaign, complete_campaign)


def test_a_log_that_rests_is_not_written_about(world: World) -> None:
    create(world, **SITE_A)
    moves_to(world, "dev-4", "a")
    world.tick(6.0)
    world.tick()
    seen: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(world.database, "before_cursor_execute", note)
    world.tick()
    event.remove(world.database, "before_cursor_execute", note)
    assert not [each for each in seen if "campaign_cursors" in each]

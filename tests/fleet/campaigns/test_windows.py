"""Devices are told within the windows of a campaign, in its time zone, and at no other time."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.fleet.campaigns.world import World, create
from wheeltapper_fleet.campaigns.rules.spec import CampaignSpec, read_spec
from wheeltapper_fleet.campaigns.windows import check_time_zone, closed_until
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.messages import ExecutionState

BERLIN = ZoneInfo("Europe/Berlin")
NIGHTS: dict[str, Any] = {
    "windows": [
        {"days": ["fri", "sat"], "begin": "22:00", "end": "05:00"},
        {"days": ["wed"], "begin": "12:00", "end": "13:00"},
    ],
    "time_zone": "Europe/Berlin",
}


def spec(**fields: Any) -> CampaignSpec:
    return read_spec({"model": "m", "release": 1, **fields})


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        ("2026-03-27 22:00", ""),  # a Friday
        ("2026-03-28 04:59", ""),  # its night ends on Saturday
        ("2026-03-28 05:00", "2026-03-28 22:00"),
        ("2026-03-29 05:00", "2026-04-01 12:00"),  # the night in which the clock is set forward
        ("2026-04-01 12:30", ""),
        ("2026-04-01 13:00", "2026-04-03 22:00"),
        ("2026-03-26 22:30", "2026-03-27 22:00"),
    ],
)
def test_a_window_is_open_on_its_days_in_its_time_zone(now: str, opens: str) -> None:
    assert closed_until(spec(**NIGHTS), at(now)) == (at(opens) if opens else 0.0)


def test_without_windows_it_is_always_open() -> None:
    assert closed_until(spec(), 1e9) == 0.0


def test_a_time_zone_that_there_is_not_is_refused() -> None:
    with pytest.raises(FleetError) as caught:
        check_time_zone(spec(time_zone="Europe/Atlantis"))
    assert (caught.value.code, caught.value.status) == ("campaign.time_zone_unknown", 422)


def test_a_campaign_waits_for_its_window_and_goes_on_by_itself(world: World) -> None:
    world.now = at("2026-03-28 04:59:57")
    campaign = create(world, waves=[{"count": 2}, {}], **NIGHTS)
    assert world.tick() == ["dev-0", "dev-1"]
    for device in ("dev-0", "dev-1"):
        world.end(device, ExecutionState.COMMITTED)
    assert world.tick(60.0) == []
    assert (world.campaign(campaign).state, world.states(campaign)["dev-2"]) == ("RUNNING", "PENDING")
    world.now = at("2026-03-28 21:59:59")
    assert world.tick(0.5) == []
    assert world.tick() == ["dev-2", "dev-3", "dev-4"]


def test_a_rate_does_not_change_the_version_that_people_decide_on(world: World) -> None:
    campaign = create(world, waves=[{"rate": {"per_minute": 60}}])
    assert world.tick() == ["dev-0"]
    version = world.campaign(campaign).version
    assert world.tick() == ["dev-1"]
    assert world.tick(3.0) == ["dev-2", "dev-3", "dev-4"]
    assert world.campaign(campaign).version == version


def test_an_audience_may_be_a_query(world: World) -> None:
    campaign = create(world, waves=[{}], audience={"query": 'tag.site = "b" and id != "dev-3"'})
    assert sorted(world.states(campaign)) == ["dev-2", "dev-4"]

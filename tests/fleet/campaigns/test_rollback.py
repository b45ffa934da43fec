"""One command takes back what a campaign brought."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine

from tests.fleet.api.harness import MODEL, AdminServer
from tests.fleet.campaigns.world import World, create
from wheeltapper_fleet.campaigns import rollback
from wheeltapper_fleet.campaigns.default_releases import set_default
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.tables import campaigns, executions, releases
from wheeltapper_protocols.wire.messages import ExecutionState


@pytest.fixture
def world(engine: Engine) -> World:
    """Five devices that run release 1, which a campaign brought."""
    world = World(engine)
    world.populate(5)
    brought(world, release=1, waves=[{}])
    return world


def brought(world: World, leave: int = 0, **fields: Any) -> str:
    """A campaign of which all devices of its first wave but the last ``leave`` committed the release."""
    world.now += 10
    campaign = create(world, **fields)
    world.tick()
    world.tick()
    told = sorted(device for device, state in world.states(campaign).items() if state == "ASSIGNED")
    for device in told[: len(told) - leave]:
        world.end(device, ExecutionState.COMMITTED)
        world.online(device, main=("bearing", fields["release"]))
    world.tick()
    return campaign


def roll_back(world: World, campaign: str, release: int | None = None) -> str:
    world.now += 10
    spec = rollback.rollback_spec(world.database, campaign, release)
    return rollback.roll_back(world.database, campaign, spec, who="eve", why="too hot", now=world.now)


def test_what_was_committed_goes_back_and_nobody_else_is_touched(world: World) -> None:
    bad = brought(world, release=2, waves=[{"count": 3}, {}], leave=1)
    back = roll_back(world, bad)
    found = world.campaign(bad)
    assert (found.state, found.reason) == ("ABORTED", f"rolled back by campaign {back}: too hot")
    assert sorted(world.tick() + world.tick()) == ["dev-0", "dev-1"]
    assert {device: world.wanted(device) for device in ("dev-0", "dev-1")} == {
        "dev-0": {"main": 1},
        "dev-1": {"main": 1},
    }
    assert world.wanted("dev-2") == {}  # it was under way, and is withdrawn
    for device in ("dev-0", "dev-1"):
        world.end(device, ExecutionState.COMMITTED)
        world.online(device, main=("bearing", 1))
    world.tick()
    world.tick()
    assert world.campaign(back).state == "COMPLETED"
    assert world.tick() == []


def test_one_that_fails_does_not_hold_the_others(world: World) -> None:
    bad = brought(world, release=2, waves=[{}])
    back = roll_back(world, bad)
    world.tick()
    world.end("dev-0", ExecutionState.FAILED, "x")
    world.tick()
    assert world.campaign(back).state == "RUNNING"
    for number in range(1, 5):
        world.end(f"dev-{number}", ExecutionState.COMMITTED)
    world.tick()
    world.tick()
    assert world.campaign(back).state == "COMPLETED"


def test_it_wins_over_the_campaign_that_it_takes_back_with_its_priority(world: World) -> None:
    bad = brought(world, release=2, waves=[{}], priority=7)
    back = roll_back(world, bad)
    assert world.campaign(back).spec["priority"] == 7
    assert len(world.tick()) == 5


def test_a_default_release_may_be_what_they_ran_before(engine: Engine) -> None:
    world = World(engine)
    world.populate(2)
    set_default(world.database, "bearing", 1, pipeline="main", tags={}, who="ann", why="", now=world.now)
    for number in range(2):
        world.online(f"dev-{number}", main=None)
    world.tick()
    world.tick()
    for number in range(2):
        world.end(f"dev-{number}", ExecutionState.COMMITTED)
        world.online(f"dev-{number}", main=("bearing", 1))
    bad = brought(world, release=2, waves=[{}])
    assert rollback.rollback_spec(world.database, bad)["release"] == 1


def test_devices_that_ran_different_releases_before_need_to_be_told_which(world: World) -> None:
    with world.database.begin() as connection:
        row = {"model": "bearing", "release": 3, "path": "releases/bearing/3/manifest.json", "sha256": "1" * 64}
        connection.execute(releases.insert().values(**row, length=10, manifest={}, published_at=0.0, published_by="t"))
    brought(world, release=2, waves=[{}], audience={"devices": ["dev-0"]})
    bad = brought(world, release=3, waves=[{}])
    with pytest.raises(FleetError, match="bearing release 1 on 4, bearing release 2 on 1") as refused:
        roll_back(world, bad)
    assert refused.value.code == "campaign.rollback_unclear"
    assert world.campaign(bad).state == "COMPLETED"
    assert len(world.campaign_ids()) == 3
    assert world.campaign(roll_back(world, bad, release=1)).spec["release"] == 1


def test_what_cannot_be_rolled_back_is_refused_and_changes_nothing(world: World) -> None:
    fresh = create(world, release=2)
    before = world.campaign(fresh)
    for campaign, release, code in (
        (fresh, None, "campaign.nothing_committed"),
        ("c-nothing", None, "campaign.not_found"),
        (world.campaign_ids()[-1], None, "campaign.rollback_unclear"),  # the first one: before it is unknown
        (world.campaign_ids()[-1], 99, "release.not_found"),
    ):
        with pytest.raises(FleetError) as refused:
            roll_back(world, campaign, release)
        assert refused.value.code == code
    assert world.campaign(fresh) == before
    assert len(world.campaign_ids()) == 2


def test_it_reads_devices_in_slices(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = brought(world, release=2, waves=[{}])
    monkeypatch.setattr(rollback, "SLICE", 2)
    assert rollback.rollback_spec(world.database, bad)["release"] == 1


def test_the_api_rolls_back(server: AdminServer) -> None:
    for release in (1, 2):
        path = f"releases/{MODEL}/{release}/manifest.json"
        row: dict[str, Any] = {"model": MODEL, "release": release, "path": path, "length": 1, "sha256": "0" * 64}
        server.insert(releases, **row, manifest={}, published_at=0.0, published_by="t")
    server.add_device("press-1")
    spec = {"model": MODEL, "release": 2, "pipelines": ["bearing"]}
    row = {"id": "c-1", "version": 1, "state": "COMPLETED", "spec": spec, "waves": [{"state": "PASSED", "since": 0.0}]}
    server.insert(campaigns, **row, reason="", created_at=1.0, updated_at=1.0)
    row = {"id": "e-1", "campaign": "c-1", "device": "press-1", "wave": 0, "state": "COMMITTED", "updated_at": 2.0}
    server.insert(executions, **row, assigned_at=1.0, ended_at=2.0)
    with server.http() as http:
        unclear = http.post("/api/v1/campaigns/c-1/rollback", json={})
        assert (unclear.status_code, unclear.json()["code"]) == (409, "campaign.rollback_unclear")
        made = http.post("/api/v1/campaigns/c-1/rollback", json={"release": 1, "why": "too hot"})
        assert made.status_code == 201, made.text
        found = made.json()
        assert (found["state"], found["spec"]["audience"]["committed_in"]) == ("SCHEDULED", "c-1")
        log = http.get("/api/v1/campaigns/c-1/log").json()["items"]
        assert [(line["event"], line["detail"]) for line in log] == [
            ("rollback", f"rolled back by campaign {found['id']}: too hot")
        ]

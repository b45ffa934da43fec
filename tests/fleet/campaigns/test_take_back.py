"""A campaign that breaks a rule takes its devices back: those that committed, those that say so late, and no others."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fleet.campaigns.world import World, create
from wheeltapper_fleet.campaigns.rules import campaign as machine
from wheeltapper_fleet.campaigns.take_back import KEEPS
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.registry.tables import releases
from wheeltapper_protocols.wire.messages import ExecutionReport, ExecutionState

S = ExecutionState
BACK: dict[str, Any] = {
    "release": 2,
    "waves": [{}],
    "abort": [{"count": 1}],
    "on_abort": "ROLLBACK_TO",
    "rollback_to": 1,
}


def other(world: World, campaign: str) -> str:
    """The newest campaign, which is not ``campaign``."""
    found = world.campaign_ids()[0]
    assert found != campaign
    return found


def test_devices_that_committed_are_taken_back_and_the_others_are_called_off(world: World) -> None:
    bad = create(world, **BACK)
    world.tick()
    for device in ("dev-0", "dev-1"):
        world.end(device, S.COMMITTED)
    world.end("dev-2", S.FAILED)
    world.tick()
    world.tick()
    shown = world.campaign(bad)
    assert (shown.state, "abort rule" in shown.reason) == ("ROLLED_BACK", True)
    back = other(world, bad)
    assert world.states(back) == {"dev-0": "ASSIGNED", "dev-1": "ASSIGNED"}
    assert [world.wanted(f"dev-{i}") for i in range(5)] == [{"main": 1}, {"main": 1}, {}, {}, {}]
    assert any(back in line.detail for line in shown.log)
    world.end("dev-0", S.FAILED)
    world.end("dev-1", S.COMMITTED)
    world.tick()
    assert world.campaign(back).state == "COMPLETED"
    assert world.campaign_ids() == [back, bad], "what was taken back is taken back again"


def test_a_device_that_says_late_that_it_committed_is_taken_back_too(world: World) -> None:
    bad = create(world, **BACK)
    world.tick()
    world.end("dev-0", S.COMMITTED)
    world.end("dev-1", S.FAILED)
    late = {name: world.assigned[name].executions[0].execution for name in ("dev-2", "dev-3")}
    world.tick()
    world.tick()
    back = other(world, bad)
    world.report("dev-2", ExecutionReport(execution=late["dev-2"], state=S.COMMITTED))
    world.tick()
    world.tick()
    assert world.states(back) == {"dev-0": "ASSIGNED", "dev-2": "ASSIGNED"}
    for device in ("dev-0", "dev-2"):
        world.end(device, S.COMMITTED)
    world.tick()
    assert world.campaign(back).state == "COMPLETED"
    world.report("dev-3", ExecutionReport(execution=late["dev-3"], state=S.COMMITTED))
    world.tick()
    world.tick()
    again = other(world, back)
    assert world.states(again) == {"dev-3": "ASSIGNED"}
    assert world.wanted("dev-3") == {"main": 1}


def test_where_nothing_committed_nothing_is_made(world: World) -> None:
    bad = create(world, **BACK)
    world.tick()
    world.end("dev-1", S.FAILED)
    for _ in range(3):
        world.tick()
    assert (world.campaign(bad).state, world.campaign_ids()) == ("ROLLED_BACK", [bad])


def test_many_are_taken_back_in_slices(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_TAKEN_AT_ONCE", 2)
    bad = create(world, **BACK | {"abort": [{"count": 1, "minimum_executed": 5}]})
    world.tick()
    for device in ("dev-0", "dev-1", "dev-2", "dev-3"):
        world.end(device, S.COMMITTED)
    world.end("dev-4", S.FAILED)
    for _ in range(3):
        world.tick()
    assert world.states(other(world, bad)) == dict.fromkeys(("dev-0", "dev-1", "dev-2", "dev-3"), "ASSIGNED")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"rollback_to": None}, "campaign.spec_invalid"),
        ({"rollback_to": 2}, "campaign.spec_invalid"),
        ({"rollback_to": 9}, "release.not_found"),
    ],
)
def test_a_rollback_to_nothing_is_refused(world: World, fields: dict[str, Any], code: str) -> None:
    with pytest.raises(FleetError) as caught:
        create(world, **BACK | fields)
    assert caught.value.code == code


def committed_before(world: World, **by_release: list[str]) -> None:
    """Have devices run releases, each by a campaign of its own; and make a third release."""
    row: dict[str, Any] = {"model": "bearing", "sha256": "1" * 64, "length": 10, "manifest": {}}
    row |= {"path": "releases/bearing/3/manifest.json"}
    with world.database.begin() as connection:
        connection.execute(releases.insert().values(**row, release=3, published_at=0.0, published_by="t"))
    for release, names in by_release.items():
        create(world, release=int(release[1:]), audience={"devices": names}, waves=[{}])
        world.tick()
        for device in names:
            world.end(device, S.COMMITTED)
        world.tick()


def test_each_device_goes_back_to_what_it_ran_before(world: World) -> None:
    committed_before(world, r1=["dev-0", "dev-3"], r2=["dev-1"])
    bad = create(
        world, **BACK | {"release": 3, "rollback_to": "before", "abort": [{"count": 1, "minimum_executed": 5}]}
    )
    world.tick()
    for device in ("dev-0", "dev-1", "dev-2", "dev-3"):
        world.end(device, S.COMMITTED)
    world.end("dev-4", S.FAILED)
    for _ in range(3):
        world.tick()
    shown = world.campaign(bad)
    assert shown.state == "ROLLED_BACK"
    assert [world.wanted(f"dev-{i}")["main"] for i in (0, 1, 3)] == [1, 2, 1]
    kept = next(each for each in shown.execution_list if each.device == "dev-2")
    assert (kept.state, kept.code) == ("COMMITTED", KEEPS)
    assert any("1 devices: what it ran before is not known" in line.detail for line in shown.log)
    back = [each for each in world.campaign_ids() if each not in (bad, *world.campaign_ids()[-2:])]
    assert sorted(tuple(world.states(each)) for each in back) == [("dev-0", "dev-3"), ("dev-1",)]
    for device in ("dev-0", "dev-1", "dev-3"):
        world.end(device, S.COMMITTED)
    for _ in range(3):
        world.tick()
    assert {world.campaign(each).state for each in back} == {"COMPLETED"}
    assert len(world.campaign_ids()) == 5, "nothing more is made"


def test_devices_that_keep_what_they_have_do_not_hold_up_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_TAKEN_AT_ONCE", 1)
    committed_before(world, r1=["dev-3"])
    rules = {"abort": [{"count": 1, "minimum_executed": 5}]}
    bad = create(world, **BACK | rules | {"release": 3, "rollback_to": "before"})
    world.tick()
    for device in ("dev-0", "dev-1", "dev-2", "dev-3"):
        world.end(device, S.COMMITTED)
    world.end("dev-4", S.FAILED)
    for _ in range(6):
        world.tick()
    assert world.wanted("dev-3") == {"main": 1}
    codes = {each.device: each.code for each in world.campaign(bad).execution_list}
    assert [codes[f"dev-{i}"] for i in range(4)] == [KEEPS, KEEPS, KEEPS, ""]

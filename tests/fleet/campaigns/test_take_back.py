"""A campaign that breaks a rule takes its devices back: those that committed, those that say so late, and no others."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fleet.campaigns.world import World, create
from wheeltapper_fleet.campaigns.rules import campaign as machine
from wheeltapper_fleet.ground.errors import FleetError
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

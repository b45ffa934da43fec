"""What the broker retains for a device is what the fleet wants now, whoever is offline and wherever campaigns meet."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from tests.fleet.campaigns.world import World, create
from wheeltapper_fleet import tables
from wheeltapper_fleet.campaigns import engine as engine_module
from wheeltapper_fleet.campaigns.due import mark_devices
from wheeltapper_fleet.campaigns.engine import CampaignEngine
from wheeltapper_fleet.campaigns.service import abort_campaign, pause_campaign, resume_campaign
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.rules import Action
from wheeltapper_fleet.devices.service import Devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.assignment import decode_assignment, encode_assignment
from wheeltapper_protocols.wire.messages import ExecutionReport, ExecutionState

ALL: dict[str, Any] = {"waves": [{}]}


def execution(world: World, campaign: str, device: str) -> Any:
    return next(each for each in world.campaign(campaign).execution_list if each.device == device)


def test_an_aborted_campaign_is_withdrawn_from_devices_that_are_offline(world: World) -> None:
    campaign = create(world)
    world.tick()
    was = world.retained["dev-0"]
    world.act(campaign, abort_campaign)
    world.tick()
    assert world.wanted("dev-0") == {}
    assert world.retained["dev-0"].counter > was.counter
    world.online("dev-0", counter=was.counter)  # it comes back with the assignment that was called off
    given = world.sent("dev-0")
    assert given is not None
    assert (given.executions, given.counter) == ([], world.retained["dev-0"].counter)


def test_an_aborted_campaign_is_handed_out_to_nobody_even_before_the_engine_ticks(world: World) -> None:
    campaign = create(world)
    world.tick()
    world.act(campaign, abort_campaign)
    world.online("dev-0")  # between the abort and the next tick
    assert world.sent("dev-0") is None
    world.tick()
    assert world.wanted("dev-0") == {}


@pytest.mark.parametrize("by_a_person", [True, False])
def test_a_paused_campaign_hands_out_only_what_devices_have_begun(world: World, by_a_person: bool) -> None:
    campaign = create(world, waves=[{}], abort=[{"count": 1}])
    world.tick()
    for device in ("dev-0", "dev-1"):
        world.end(device, ExecutionState.FETCHING)
    if by_a_person:
        world.act(campaign, pause_campaign)
    else:
        world.end("dev-4", ExecutionState.FAILED)
    world.tick()
    assert world.campaign(campaign).state == "PAUSED"
    assert [world.wanted(f"dev-{i}") for i in range(4)] == [{"main": 1}, {"main": 1}, {}, {}]
    world.online("dev-3")
    given = world.sent("dev-3")
    assert given is not None
    assert given.executions == []
    if by_a_person:
        world.act(campaign, resume_campaign)
        assert world.tick() == []  # the same execution as before the pause
        assert [world.wanted(f"dev-{i}") for i in range(4)] == [{"main": 1}] * 4


def test_what_a_pause_withdrew_is_asked_again_under_another_id(world: World) -> None:
    """A device that had begun just before the pause, unknown to the fleet, gives its execution up and remembers it."""
    campaign = create(world, waves=[{}])
    world.tick()
    first = execution(world, campaign, "dev-0").id
    world.act(campaign, pause_campaign)
    world.tick()
    world.report("dev-0", ExecutionReport(execution=first, state=ExecutionState.CANCELLED, code="update.withdrawn"))
    assert execution(world, campaign, "dev-0").state == "ASSIGNED"
    world.tick()
    assert world.wanted("dev-0") == {}
    world.act(campaign, resume_campaign)
    assert world.tick() == ["dev-0"]
    again = execution(world, campaign, "dev-0").id
    assert again != first
    world.report("dev-0", ExecutionReport(execution=again, state=ExecutionState.COMMITTED))
    assert world.states(campaign)["dev-0"] == "COMMITTED"


def test_an_execution_that_ended_is_no_longer_retained(world: World) -> None:
    ends = {
        "dev-0": ExecutionState.COMMITTED,
        "dev-1": ExecutionState.ROLLED_BACK,
        "dev-2": ExecutionState.REJECTED,
        "dev-3": None,
    }
    create(world, waves=[{}], success={"count": 1})
    world.tick()
    for device, state in ends.items():
        if state is not None:
            world.end(device, state)
    world.tick()
    assert [bool(world.wanted(device)) for device in ends] == [False, False, False, True]
    world.now += 100.0
    world.tick()  # the deadline of dev-3
    assert not world.wanted("dev-3")


def test_two_campaigns_on_different_pipelines_of_a_device_both_run(world: World) -> None:
    one = create(world, **ALL)
    two = create(world, **ALL, release=2, pipelines=["aux"])
    world.tick()
    assert world.wanted("dev-0") == {"main": 1, "aux": 2}
    for campaign in (one, two):
        found = execution(world, campaign, "dev-0")
        world.report("dev-0", ExecutionReport(execution=found.id, state=ExecutionState.COMMITTED))
        world.tick()
    assert (world.states(one)["dev-0"], world.states(two)["dev-0"]) == ("COMMITTED", "COMMITTED")
    assert world.wanted("dev-0") == {}


def test_an_older_campaigns_later_wave_takes_no_device_back_and_neither_pauses(world: World) -> None:
    older = create(world)
    world.tick()
    newer = create(world, release=2, audience={"devices": ["dev-2", "dev-3"]}, waves=[{}])
    world.tick()
    for device in ("dev-2", "dev-3"):
        world.end(device, ExecutionState.COMMITTED)
    world.tick()
    assert world.campaign(newer).state == "COMPLETED"
    for device in ("dev-0", "dev-1"):
        world.end(device, ExecutionState.COMMITTED)
    assert world.tick() == ["dev-4"]
    world.end("dev-4", ExecutionState.COMMITTED)
    world.tick()
    world.tick()
    assert world.states(older) == dict.fromkeys(("dev-0", "dev-1", "dev-4"), "COMMITTED") | dict.fromkeys(
        ("dev-2", "dev-3"), "SUPERSEDED"
    )
    assert world.campaign(older).state == "COMPLETED"


def test_priority_decides_before_age(world: World) -> None:
    urgent = create(world, **ALL, priority=5)
    world.tick()
    later = create(world, **ALL, release=2)
    world.tick()
    assert world.wanted("dev-0") == {"main": 1}
    assert set(world.states(later).values()) == {"SUPERSEDED"}
    for device in list(world.states(urgent)):
        world.end(device, ExecutionState.COMMITTED)
    world.tick()
    world.tick()
    assert [world.campaign(each).state for each in (urgent, later)] == ["COMPLETED", "COMPLETED"]
    after = create(world, **ALL, release=2)  # a priority counts while its campaign runs, not for ever
    world.tick()
    assert world.wanted("dev-0") == {"main": 2}
    assert set(world.states(after).values()) == {"ASSIGNED"}


@pytest.mark.parametrize("priority", [1001, -1001, 1.5, "high", None, True])
def test_a_priority_is_a_small_whole_number(world: World, priority: Any) -> None:
    with pytest.raises(FleetError) as caught:
        create(world, priority=priority)
    assert caught.value.code == "campaign.spec_invalid"


def test_of_two_campaigns_made_in_one_moment_the_second_is_the_newer(world: World) -> None:
    for _ in range(4):
        old, new = create(world, **ALL), create(world, **ALL, release=2)
        world.tick()
        assert world.wanted("dev-0") == {"main": 2}
        assert set(world.states(old).values()) == {"SUPERSEDED"}
        world.act(new, abort_campaign)
        world.tick()


def test_a_wave_that_lost_devices_is_judged_by_as_many_as_planned(world: World) -> None:
    older = create(world, waves=[{"count": 2}, {"count": 2}, {}])
    world.tick()
    create(world, release=2, audience={"devices": ["dev-0", "dev-1"]}, waves=[{}])
    world.tick()
    world.tick()
    waves = {each.device: each.wave for each in world.campaign(older).execution_list}
    assert {device for device, wave in waves.items() if wave == 1} == {"dev-2", "dev-3"}
    assert world.states(older)["dev-4"] == "PENDING"  # nothing goes past a wave that nobody has judged


def test_what_was_signed_and_not_published_is_published_after_a_restart(world: World) -> None:
    campaign = create(world)
    world.tick()
    world.act(campaign, abort_campaign)
    world.engine.tick(world.now + 1)  # signed and stored, and the fleet dies before it is published
    again = CampaignEngine(world.database, lambda assignment: encode_assignment(assignment).decode())
    given = [decode_assignment(each.payload) for each in again.republish(world.now + 2)]
    assert {each.device: each.executions for each in given} == {"dev-0": [], "dev-1": []}
    assert again.tick(world.now + 3) == []


def test_an_assignment_that_has_expired_is_signed_anew_for_a_device_that_comes_back(world: World) -> None:
    campaign = create(world)
    world.tick()
    world.act(campaign, abort_campaign)
    world.tick()
    was = world.retained["dev-0"]
    world.now += 400 * 86_400.0
    world.online("dev-0", counter=was.counter - 1)
    assert world.sent("dev-0") is None  # the device would refuse it
    world.tick()
    assert world.retained["dev-0"].counter == was.counter + 1
    assert world.retained["dev-0"].expires_at > world.now


def test_a_device_that_knows_a_higher_counter_is_told_anew(world: World) -> None:
    """The database was restored from a copy: what the device has is not what the fleet knows of."""
    campaign = create(world)
    world.tick()
    world.act(campaign, abort_campaign)
    world.tick()
    world.online("dev-0", counter=40)
    world.tick()
    assert (world.retained["dev-0"].counter, world.retained["dev-0"].executions) == (41, [])


def test_the_work_of_a_tick_follows_from_what_changed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "SLICE", 2)
    monkeypatch.setattr(engine_module, "_COMPOSED_AT_ONCE", 2)
    create(world, waves=[{}])
    assert world.tick() == ["dev-0", "dev-1"]
    world.act(world.campaign_ids()[0], abort_campaign)
    world.tick()
    world.tick()
    world.tick()
    assert [world.wanted(f"dev-{i}") for i in range(5)] == [{}] * 5
    with reading(world.database) as connection:
        assert connection.execute(select(func.count()).select_from(tables.assignments_due)).scalar_one() == 0
    counters = {device: each.counter for device, each in world.retained.items()}
    assert world.tick() == []
    assert {device: each.counter for device, each in world.retained.items()} == counters


def test_a_release_that_is_gone_or_a_device_that_is_revoked_ends_its_execution(world: World) -> None:
    campaign = create(world, waves=[{}])
    with world.database.begin() as connection:
        connection.execute(tables.devices.update().where(tables.devices.c.id == "dev-0").values(state="revoked"))
        connection.execute(tables.devices.delete().where(tables.devices.c.id == "dev-1"))
    world.tick()
    found = {each.device: each.code for each in world.campaign(campaign).execution_list}
    assert (found["dev-0"], found["dev-1"], found["dev-2"]) == ("device.revoked", "device.not_found", "")


def test_a_device_in_quarantine_is_told_nothing_new(world: World) -> None:
    create(world, waves=[{}])
    world.tick()
    people = Devices(world.database, lambda: world.now, mark_devices)
    people.move("dev-0", Action.QUARANTINE, who="ann")
    assert world.wanted("dev-0") == {"main": 1}
    world.tick()
    assert world.wanted("dev-0") == {}
    other = create(world, release=2, waves=[{}])
    assert "dev-0" not in {each.device for each in world.campaign(other).execution_list}
    people.move("dev-0", Action.REINSTATE, who="ann")
    third = create(world, release=2, audience={"devices": ["dev-0"]}, waves=[{}])
    assert [each.device for each in world.campaign(third).execution_list] == ["dev-0"]


def test_what_a_device_was_told_before_it_was_forgotten_is_not_told_its_successor(world: World) -> None:
    create(world, waves=[{}])
    world.tick()
    one = tables.devices.c.id == "dev-0"
    with reading(world.database) as connection:
        row = dict(connection.execute(select(tables.devices).where(one)).one()._mapping)
    with world.database.begin() as connection:
        connection.execute(tables.devices.delete().where(one))
    world.tick(100.0)  # its deadline
    assert world.wanted("dev-0") == {}
    with world.database.begin() as connection:
        connection.execute(tables.devices.insert().values(row))
    world.online("dev-0", main=None)
    given = world.sent("dev-0")
    assert given is not None
    assert given.executions == []


def test_a_campaign_for_every_pipeline_covers_those_that_the_device_shows(world: World) -> None:
    world.online("dev-0", main=None, aux=("bearing", 1))
    campaign = create(world, release=2, pipelines=["*"], waves=[{}])
    world.tick()
    assert world.wanted("dev-0") == {"main": 2, "aux": 2}
    assert execution(world, campaign, "dev-1").code == "execution.no_pipeline"


def test_more_than_an_assignment_can_hold_follows_afterwards(world: World) -> None:
    first = create(world, **ALL, pipelines=[f"a{i}" for i in range(40)])
    second = create(world, **ALL, release=2, pipelines=[f"b{i}" for i in range(40)])
    world.tick()
    assert len(world.wanted("dev-0")) == 40
    ended = execution(world, second, "dev-0").id
    world.report("dev-0", ExecutionReport(execution=ended, state=ExecutionState.COMMITTED))
    world.tick()
    assert set(world.wanted("dev-0")) == {f"a{i}" for i in range(40)}
    assert world.states(first)["dev-0"] == "ASSIGNED"


def test_an_unreadable_campaign_asks_for_nothing_and_the_rest_is_composed(world: World, engine: Engine) -> None:
    bad = create(world, **ALL)
    good = create(world, **ALL, release=2, pipelines=["aux"])
    world.tick()
    with engine.begin() as connection:
        connection.execute(tables.campaigns.update().where(tables.campaigns.c.id == bad).values(spec={"no": "model"}))
    world.act(good, pause_campaign)
    world.tick()
    world.act(good, resume_campaign)
    world.tick()
    assert world.wanted("dev-0") == {"aux": 2}

"""Whatever happens in whatever order: what is retained for a device is what all campaigns together want of it now."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sqlalchemy import Engine, Row, func, select

from tests.fleet.campaigns.world import Action, World, create
from wheeltapper_fleet import tables
from wheeltapper_fleet.campaigns import assignments, claims, moves
from wheeltapper_fleet.campaigns.default_releases import clear_default, set_default
from wheeltapper_fleet.campaigns.rules import meeting
from wheeltapper_fleet.campaigns.rules.meeting import Standing
from wheeltapper_fleet.campaigns.service import abort_campaign, pause_campaign, resume_campaign, start_campaign
from wheeltapper_fleet.campaigns.tallies import read_tallies
from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.messages import ExecutionReport, ExecutionState

S = ExecutionState
DEVICES = ("dev-0", "dev-1", "dev-2")
TERMINAL = {state.value for state in S if state.terminal}
UNDER_WAY = {"RUNNING", "PAUSED", "SCHEDULED"}
NEXT = {S.ASSIGNED: S.FETCHING, S.FETCHING: S.PROBATION, S.PROBATION: S.COMMITTED}


@dataclass
class Device:
    """A device as the agent behaves: it obeys the newest assignment, and reports when it is online."""

    name: str
    online: bool = False
    counter: int = 0
    runs: dict[str, tuple[str, int] | None] = field(default_factory=lambda: {"main": None, "aux": None})
    under_way: dict[str, S] = field(default_factory=dict)
    brings: dict[str, dict[str, tuple[str, int]]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    unsent: list[ExecutionReport] = field(default_factory=list)


class Interleavings(RuleBasedStateMachine):
    """Several campaigns, default releases, three devices, and everything that may happen to them."""

    database: Engine

    @initialize()
    def begin(self) -> None:
        with self.database.begin() as connection:
            for table in reversed(tables.metadata.sorted_tables):
                connection.execute(table.delete())
        self.world = World(self.database)
        self.world.populate(len(DEVICES))
        self.devices = {name: Device(name) for name in DEVICES}
        self.ends: dict[str, str] = {}

    # --- people -------------------------------------------------------------------------------------------------------

    @rule(
        release=st.sampled_from([1, 2]),
        pipelines=st.sampled_from([["main"], ["main"], ["aux"], ["main", "aux"]]),
        devices=st.sampled_from([DEVICES, DEVICES, DEVICES[:1], DEVICES[1:]]),
        priority=st.sampled_from([0, 0, 0, 3]),
        canary=st.booleans(),
        started=st.sampled_from([True, True, True, False]),
    )
    def create(
        self, release: int, pipelines: list[str], devices: tuple[str, ...], priority: int, canary: bool, started: bool
    ) -> None:
        waves: list[dict[str, int]] = [{"count": 1}, {}] if canary and len(devices) > 1 else [{}]
        fields: dict[str, Any] = {"release": release, "pipelines": pipelines, "waves": waves, "priority": priority}
        create(self.world, start=started, audience={"devices": list(devices)}, **fields)

    @rule(which=st.integers(0, 5), action=st.sampled_from([start_campaign, pause_campaign, resume_campaign]))
    def person(self, which: int, action: Action) -> None:
        names = self.world.campaign_ids()
        if names:
            with contextlib.suppress(FleetError):  # what makes no sense in its state is refused
                self.world.act(names[which % len(names)], action)

    @rule(which=st.integers(0, 5))
    def abort(self, which: int) -> None:
        self.person(which, abort_campaign)

    @rule(release=st.sampled_from([1, 2, None]), pipeline=st.sampled_from(["main", "aux"]))
    def default_release(self, release: int | None, pipeline: str) -> None:
        common: dict[str, Any] = {"pipeline": pipeline, "tags": {}, "who": "ann", "why": "", "now": self.world.now}
        with contextlib.suppress(FleetError):  # none is set
            if release is None:
                clear_default(self.database, "bearing", **common)
            else:
                set_default(self.database, "bearing", release, **common)

    # --- devices ------------------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(DEVICES))
    def comes_online(self, name: str) -> None:
        device = self.devices[name]
        device.online = True
        self.obey(device)

    @rule(name=st.sampled_from(DEVICES))
    def goes_offline(self, name: str) -> None:
        self.devices[name].online = False
        self.world.offline(name)

    @rule(name=st.sampled_from(DEVICES), obeys=st.booleans())
    def hears(self, name: str, obeys: bool) -> None:
        if self.devices[name].online and obeys:
            self.obey(self.devices[name])

    @rule(name=st.sampled_from(DEVICES), fails=st.sampled_from([False, False, False, True]))
    def works(self, name: str, fails: bool) -> None:
        """A device does not need the fleet for its next step."""
        device = self.devices[name]
        for execution, state in list(device.under_way.items())[:1]:
            self.enter(device, execution, S.FAILED if fails and state is S.FETCHING else NEXT[state])
        self.tell(device)

    @rule(name=st.sampled_from(DEVICES))
    def loses_its_card(self, name: str) -> None:
        device = self.devices[name]
        device.runs = dict.fromkeys(device.runs)
        self.tell(device)

    def obey(self, device: Device) -> None:
        """Take the assignment that the broker retains, if it is newer."""
        self.tell(device)
        given = self.world.retained.get(device.name)
        if given is None or given.counter <= device.counter or given.expires_at <= self.world.now:
            return
        device.counter = given.counter
        ordered = {order.execution: order for order in given.executions}
        for execution in [each for each in device.under_way if each not in ordered]:
            begun = device.under_way[execution] is S.PROBATION
            self.enter(device, execution, S.ROLLED_BACK if begun else S.CANCELLED, "update.withdrawn")
        for execution, order in ordered.items():
            if execution not in device.ended and execution not in device.under_way:
                device.under_way[execution] = S.ASSIGNED
                targets = given.targets(order)
                device.brings[execution] = {name: (each.model, each.release) for name, each in targets.items()}
        self.tell(device)

    def enter(self, device: Device, execution: str, state: S, code: str = "") -> None:
        device.unsent.append(ExecutionReport(execution=execution, state=state, code=code))
        device.under_way[execution] = state
        if state is S.COMMITTED:
            device.runs |= device.brings[execution]
        if state.terminal:
            device.ended.add(execution)
            del device.under_way[execution]

    def tell(self, device: Device) -> None:
        if device.online:
            for report in device.unsent:
                self.world.report(device.name, report)
            device.unsent.clear()
            self.world.online(device.name, device.counter, **device.runs)

    # --- time, and what must hold afterwards --------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, 1.0, 1.0, 30.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.tick(seconds)
        self.world.tick(0.001)  # what a campaign does because of what was composed
        for name in DEVICES:
            self.check(name)
        self.count()
        for campaign in self.world.campaign_ids():
            shown = self.world.campaign(campaign)
            if "below its success threshold" in shown.reason:
                ended = {each.state for each in shown.execution_list}
                assert ended & (TERMINAL - {"COMMITTED", "SUPERSEDED"}), "paused because it was superseded"

    def count(self) -> None:
        """The counts that campaigns decide on are what counting the executions gives."""
        columns = (tables.executions.c.campaign, tables.executions.c.wave, tables.executions.c.state)
        numbers = (func.count(), func.count(tables.executions.c.assigned_at))
        counted = select(*columns, *numbers).where(columns[0].is_not(None)).group_by(*columns)
        names = self.world.campaign_ids()
        with reading(self.database) as connection:
            rows = {tuple(row) for row in connection.execute(counted)}
            kept = read_tallies(connection, names)
        assert rows == {
            (campaign, wave, state, count.n, count.assigned)
            for campaign, tallies in kept.items()
            for (wave, state), count in tallies.cells.items()
        }

    def check(self, name: str) -> None:
        """What is retained for a device, against the whole database."""
        assignment = self.world.retained.get(name)
        orders = {order.execution: order for order in assignment.executions} if assignment else {}
        named = [pipeline for order in orders.values() for pipeline in order.pipelines]
        assert len(set(named)) == len(named)
        rows = {row.id: row for row in self.executions(name)}
        for row in rows.values():
            if row.state in TERMINAL:
                assert self.ends.setdefault(row.id, row.state) == row.state, "an end has changed"
            origin = row.campaign_state or ("RUNNING" if row.cleared_at is None else "ABORTED")
            begun = row.state not in ("ASSIGNED", "PENDING", *TERMINAL)
            wanted = (origin == "RUNNING" and (begun or row.state == "ASSIGNED")) or (origin == "PAUSED" and begun)
            assert (row.id in orders) == wanted, f"{row.state} of {origin}: retained {row.id in orders}"
        assert set(orders) <= set(rows)
        for execution in orders:
            for other in rows.values():
                if other.state == "COMMITTED":
                    assert not self.taken_back(rows[execution], other), "a newer campaign's release is taken back"

    def executions(self, name: str) -> list[Row[Any]]:
        campaigns, defaults = tables.campaigns, tables.default_releases
        query = (
            select(tables.executions, campaigns.c.state.label("campaign_state"), campaigns.c.created_at)
            .add_columns(campaigns.c.spec, defaults.c.cleared_at)
            .outerjoin(campaigns, campaigns.c.id == tables.executions.c.campaign)
            .outerjoin(defaults, defaults.c.id == tables.executions.c.default_release)
            .where(tables.executions.c.device == name)
        )
        with reading(self.database) as connection:
            return list(connection.execute(query).all())

    @staticmethod
    def taken_back(ordered: Row[Any], other: Row[Any]) -> bool:
        """Whether ``ordered`` goes over what the newer or more urgent campaign of ``other`` has committed."""
        if ordered.spec is None or other.spec is None or ordered.campaign == other.campaign:
            return False
        if other.campaign_state == "ABORTED" or not set(ordered.spec["pipelines"]) & set(other.spec["pipelines"]):
            return False
        mine, theirs = ordered.spec["priority"], other.spec["priority"]
        newer = other.created_at > ordered.created_at
        if other.campaign_state in UNDER_WAY:
            return bool(theirs > mine or (theirs == mine and newer))
        return bool(newer and theirs >= mine)

    def teardown(self) -> None:
        """Where everybody is online and works, everything ends and nothing is left to do."""
        if not hasattr(self, "devices"):
            return
        for which, _ in enumerate(self.world.campaign_ids()):
            self.person(which, resume_campaign)
        for _ in range(12):
            for device in self.devices.values():
                device.online = True
                self.obey(device)
                for execution, state in list(device.under_way.items()):
                    self.enter(device, execution, NEXT[state])
                self.tell(device)
            self.time_passes(20.0)
        self.time_passes(70.0)
        for campaign in self.world.campaign_ids():
            shown = self.world.campaign(campaign)
            assert shown.state in ("COMPLETED", "ABORTED", "PAUSED", "DRAFT"), shown.state
            if shown.state != "DRAFT":
                left = {each.state for each in shown.execution_list} - TERMINAL
                assert left <= ({"PENDING"} if shown.state == "PAUSED" else set()), left


SETTINGS = settings(max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def machine_class() -> Iterator[type[Interleavings]]:
    database = open_database("sqlite://")
    yield type("InterleavingsOnDatabase", (Interleavings,), {"database": database})
    database.dispose()


def test_what_is_retained_is_what_is_wanted(machine_class: type[Interleavings]) -> None:
    run_state_machine_as_test(machine_class, settings=SETTINGS)


def _held_is_ordered(execution: str, campaign: str) -> Standing | None:
    found = meeting.standing_of(execution, campaign)
    return Standing.ORDERED if found is Standing.HELD else found


def _called_off_is_ordered(execution: str, campaign: str) -> Standing | None:
    found = meeting.standing_of(execution, campaign)
    return Standing.ORDERED if found is Standing.CALLED_OFF else found


FAULTS: dict[str, tuple[Any, str, Any]] = {
    "a pause hands out": (claims, "standing_of", _held_is_ordered),
    "an abort is not said": (claims, "standing_of", _called_off_is_ordered),
    "a commit does not stand": (meeting, "_beats", lambda one, _: one.standing is not Standing.COMMITTED),
    "a change is not signed": (assignments, "_is_needed", lambda stored, *_: stored is None),
    "a move is not counted": (moves, "add_moves", lambda *_: None),
    "a report marks nobody": (moves, "tells_device", lambda before, _: before.state == "PENDING"),
}


def story(fleet: Interleavings) -> None:
    """A draft, a newer campaign that is paused, resumed and completed, the draft started after it, and an abort."""
    fleet.begin()
    common: dict[str, Any] = {"pipelines": ["main"], "devices": DEVICES, "priority": 0, "canary": False}
    fleet.create(release=1, started=False, **common)
    fleet.create(release=2, started=True, **common)
    fleet.time_passes(1.0)
    fleet.person(0, pause_campaign)
    fleet.time_passes(1.0)
    fleet.person(0, resume_campaign)
    fleet.time_passes(1.0)
    for name in DEVICES:
        fleet.comes_online(name)
        for _ in range(3):
            fleet.works(name, False)
    fleet.time_passes(1.0)
    fleet.person(1, start_campaign)
    fleet.time_passes(1.0)
    fleet.create(release=1, started=True, **common)
    fleet.time_passes(1.0)
    fleet.abort(0)
    fleet.time_passes(1.0)


def test_the_story_of_the_planted_faults_holds(machine_class: type[Interleavings]) -> None:
    story(machine_class())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_noticed(
    fault: str, machine_class: type[Interleavings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*FAULTS[fault])
    with pytest.raises(AssertionError):
        story(machine_class())

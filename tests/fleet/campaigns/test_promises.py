"""A campaign never exceeds its wave and no broken rule lets one pass, whatever devices do; and its counts are true.

Devices succeed, fail, lie, vanish, answer twice and late. The engine works in slices of two and dies between them.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Engine, Row, func, select

from tests.fleet.campaigns.world import Action, World, create
from wheeltapper_fleet import tables
from wheeltapper_fleet.campaigns import effects, moves, service
from wheeltapper_fleet.campaigns import engine as engine_module
from wheeltapper_fleet.campaigns.engine import CampaignEngine
from wheeltapper_fleet.campaigns.rules import campaign as machine
from wheeltapper_fleet.campaigns.rules import execution as single
from wheeltapper_fleet.campaigns.rules.execution import Execution, ExecutionEvent, Report
from wheeltapper_fleet.campaigns.rules.waves import Wave, WaveState
from wheeltapper_fleet.campaigns.service import abort_campaign, pause_campaign, resume_campaign
from wheeltapper_fleet.campaigns.tallies import read_tallies
from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.assignment import encode_assignment
from wheeltapper_protocols.wire.messages import AssignmentRefused, ExecutionReport, ExecutionState

S = ExecutionState
DEVICES = tuple(f"dev-{number}" for number in range(6))
SIZES = (2, 2, 2)
TERMINAL = {state.value for state in S if state.terminal}
SPEC: dict[str, Any] = {"waves": [{"count": 2}, {"count": 2}, {}], "abort": [{"percent": 50, "minimum_executed": 3}]}


class Fleet(RuleBasedStateMachine):
    """One campaign with three waves of two devices, a second one that takes some of them, and what may happen."""

    database: Engine

    @initialize(
        success=st.sampled_from([{}, {"percent": 50}]),
        action=st.sampled_from(["PAUSE", "CANCEL_PENDING"]),
        retry=st.sampled_from([[], [{"backoff_seconds": 5}]]),
    )
    def begin(self, success: Mapping[str, Any], action: str, retry: Sequence[Any] = ()) -> None:
        with self.database.begin() as connection:
            for table in reversed(tables.metadata.sorted_tables):
                connection.execute(table.delete())
        self.world = World(self.database)
        self.world.populate(len(DEVICES))
        self.success = success
        self.campaign = create(self.world, **SPEC, success=success, on_abort=action, retry=retry)
        self.ends: dict[str, str] = {}
        self.told: dict[str, str] = {}
        self.passed: set[int] = set()

    # --- devices ------------------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(DEVICES), state=st.sampled_from([S.COMMITTED, S.COMMITTED, S.FAILED, S.FETCHING]))
    def answers(self, name: str, state: S) -> None:
        if name in self.told:
            self.world.report(name, ExecutionReport(execution=self.told[name], state=state))

    @rule(name=st.sampled_from(DEVICES), state=st.sampled_from([S.COMMITTED, S.ROLLED_BACK]))
    def answers_twice(self, name: str, state: S) -> None:
        self.answers(name, state)
        self.waves_hold()
        self.answers(name, S.FAILED)

    @rule(name=st.sampled_from(DEVICES))
    def refuses(self, name: str) -> None:
        if name in self.told:
            self.world.report(name, AssignmentRefused(code="assignment.expired", execution=self.told[name]))

    @rule(name=st.sampled_from(DEVICES), about=st.sampled_from(DEVICES))
    def lies(self, name: str, about: str) -> None:
        """It says that another device's execution went well; or its own, which it was never told of."""
        for row in self.rows():
            if row.device == about and (about != name or row.state == "PENDING"):
                self.world.report(name, ExecutionReport(execution=row.id, state=S.COMMITTED))
                (now,) = [each for each in self.rows() if each.id == row.id]
                assert now.state == row.state, "a lie was believed"

    # --- people, time, death ------------------------------------------------------------------------------------------

    @rule(action=st.sampled_from([pause_campaign, resume_campaign, resume_campaign, abort_campaign]))
    def person(self, action: Action) -> None:
        with contextlib.suppress(FleetError):  # what makes no sense in its state is refused
            self.world.act(self.campaign, action)

    @rule(name=st.sampled_from(DEVICES))
    def another_campaign_takes(self, name: str) -> None:
        create(self.world, release=2, waves=[{}], audience={"devices": [name]})

    @rule()
    def engine_dies(self) -> None:
        self.world.engine = CampaignEngine(self.database, lambda each: encode_assignment(each).decode())

    @rule(seconds=st.sampled_from([1.0, 1.0, 30.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        """A device that says nothing all the while has vanished."""
        self.world.tick(seconds)
        for row in self.rows():
            if row.campaign == self.campaign and row.assigned_at is not None:
                self.told[row.device] = row.id

    # --- what must hold -----------------------------------------------------------------------------------------------

    def rows(self) -> list[Row[Any]]:
        with reading(self.database) as connection:
            return list(connection.execute(select(tables.executions).order_by(tables.executions.c.id)))

    @invariant()
    def what_is_counted_is_true(self) -> None:
        if not hasattr(self, "world"):
            return
        counted: dict[Any, list[int]] = defaultdict(lambda: [0, 0])
        for row in self.rows():
            counted[row.campaign, row.wave, row.state][0] += 1
            counted[row.campaign, row.wave, row.state][1] += row.assigned_at is not None
        names = self.world.campaign_ids()
        with reading(self.database) as connection:
            kept = read_tallies(connection, names)
        cells = {(name, *key): [each.n, each.assigned] for name in names for key, each in kept[name].cells.items()}
        assert cells == counted

    @invariant()
    def waves_hold(self) -> None:
        if not hasattr(self, "world"):
            return
        rows = [row for row in self.rows() if row.campaign == self.campaign]
        states = [each["state"] for each in self.world.campaign(self.campaign).waves]
        assert [sum(row.wave == wave for row in rows) for wave in range(3)] == list(SIZES)
        for row in rows:
            if row.state in TERMINAL:
                assert self.ends.setdefault(row.id, row.state) == row.state, "an end has changed"
            if row.assigned_at is not None and row.state != "SUPERSEDED":
                assert set(states[: row.wave]) <= {"PASSED"}, "it exceeds its wave"
        for wave in [each for each, state in enumerate(states) if state == "PASSED" and each not in self.passed]:
            self.passed.add(wave)
            left = [row.state for row in rows if row.wave == wave and row.state != "SUPERSEDED"]
            needed = 1 if self.success else len(left)
            assert left.count("COMMITTED") >= needed, "it passes without successes"

    @invariant()
    def a_broken_rule_stops(self) -> None:
        """What has ended badly before a step is never followed by an assignment of that step."""
        if hasattr(self, "world"):
            rows = [row for row in self.rows() if row.campaign == self.campaign and row.assigned_at is not None]
            newest = max((row.assigned_at for row in rows), default=0.0)
            ended = [row.state for row in rows if row.ended_at is not None and row.ended_at < newest]
            counted = [state for state in ended if state != "SUPERSEDED"]
            bad = sum(state in ("FAILED", "REJECTED", "ROLLED_BACK") for state in counted)
            assert len(counted) < 3 or bad * 100 < 50 * len(counted), "it goes on though a rule is broken"

    def teardown(self) -> None:
        """Nobody answers any more: everything ends."""
        if not hasattr(self, "world"):
            return
        self.person(abort_campaign)
        for _ in range(10):
            self.time_passes(70.0)
        for row in self.rows():
            assert row.campaign != self.campaign or row.state in TERMINAL, f"{row.state} for ever"
        self.what_is_counted_is_true()
        self.waves_hold()
        with reading(self.database) as connection:
            waiting = connection.execute(select(func.count()).select_from(tables.tally_changes)).scalar_one()
        assert waiting == 0


@pytest.fixture(params=["sqlite", "postgresql"])
def fleet(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Fleet]]:
    """The machine over a database, with an engine that works in slices of two."""
    url = "sqlite://" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    database = open_database(url)
    for module in (effects, engine_module, service):
        monkeypatch.setattr(module, "SLICE", 2)
    monkeypatch.setattr(engine_module, "_COMPOSED_AT_ONCE", 2)
    yield type("FleetOnDatabase", (Fleet,), {"database": database})
    with database.begin() as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(table.delete())
    database.dispose()


def test_the_promises_hold(fleet: type[Fleet]) -> None:
    examples = 20 if fleet.database.dialect.name == "sqlite" else 5
    chosen = settings(
        max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(fleet, settings=chosen)


def story(fleet: Fleet) -> None:
    """Lies, a refusal and devices that vanish; then a device that is taken and an abort; then a rule that is broken."""

    def happens(*calls: Any) -> None:
        for call in calls:
            call()
            fleet.what_is_counted_is_true()
            fleet.waves_hold()
            fleet.a_broken_rule_stops()

    def ticks() -> None:
        fleet.time_passes(1.0)
        fleet.time_passes(1.0)

    fleet.begin({"percent": 50}, "PAUSE")
    happens(ticks, lambda: fleet.lies("dev-1", "dev-0"), lambda: fleet.answers_twice("dev-0", S.COMMITTED))
    happens(lambda: fleet.lies("dev-2", "dev-2"), lambda: fleet.refuses("dev-1"), ticks)
    happens(lambda: fleet.answers("dev-2", S.COMMITTED), lambda: fleet.time_passes(70.0), ticks, ticks)
    happens(lambda: fleet.answers("dev-2", S.FAILED), ticks)
    fleet.teardown()
    fleet.begin({}, "CANCEL_PENDING")
    happens(ticks, lambda: fleet.another_campaign_takes("dev-1"), ticks, lambda: fleet.answers("dev-0", S.COMMITTED))
    happens(ticks, lambda: fleet.answers("dev-2", S.FAILED), ticks, lambda: fleet.person(abort_campaign), ticks)
    fleet.teardown()
    fleet.begin({"percent": 50}, "PAUSE")
    happens(ticks, lambda: fleet.answers("dev-0", S.FAILED), lambda: fleet.answers("dev-1", S.COMMITTED), ticks)
    happens(lambda: fleet.answers("dev-2", S.FAILED), ticks, lambda: fleet.answers("dev-3", S.COMMITTED), ticks, ticks)
    fleet.teardown()


def test_the_story_of_the_planted_faults_holds(fleet: type[Fleet]) -> None:
    story(fleet())


def _two_waves(campaign: machine.Campaign, index: int, wave: Wave) -> machine.Campaign:
    opened = _SET_WAVE(campaign, index, wave)
    if wave.state is WaveState.RUNNING and index + 1 < len(campaign.waves):
        opened = _SET_WAVE(opened, index + 1, wave)
    return opened


def _anybodys(connection: Any, reported: Any) -> Any:
    device_of = dict(reported)
    return [replace(each, device=device_of[each.id]) for each in moves.lock_executions(connection, device_of)]


def _last_word(execution: Execution, event: ExecutionEvent) -> Execution:
    assert isinstance(event, Report)
    return replace(execution, state=event.state.value)


_SET_WAVE = machine._set_wave
FAULTS: dict[str, tuple[Any, str, Any]] = {
    "a move is not counted": ("wheeltapper_fleet.campaigns.moves", "add_moves", lambda *_: None),
    "two waves open": (machine, "_set_wave", _two_waves),
    "no rule is ever broken": (machine, "broken_rule", lambda *_: None),
    "the last word counts": (single, "_TABLE", {**single._TABLE, (single._Phase.ENDED, Report): _last_word}),
    "nobody looks at deadlines": (engine_module, "any_overdue", lambda *_: False),
    "anybody speaks for a device": ("wheeltapper_fleet.campaigns.reports", "lock_reported", _anybodys),
    "an abort leaves what is pending": ("wheeltapper_fleet.campaigns.effects", "cancel_pending", lambda *_: 0),
}


@pytest.mark.parametrize("fleet", ["sqlite"], indirect=True)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_noticed(fault: str, fleet: type[Fleet], monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, planted = FAULTS[fault]
    if isinstance(where, str):
        monkeypatch.setattr(f"{where}.{name}", planted)
    else:
        monkeypatch.setattr(where, name, planted)
    with pytest.raises(AssertionError):
        story(fleet())

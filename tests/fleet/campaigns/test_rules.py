"""The campaign machine: its promises hold whatever happens in whatever order, and its spec refuses what cannot work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from wheeltapper_fleet.campaigns.rules import campaign as machine
from wheeltapper_fleet.campaigns.rules import execution as single
from wheeltapper_fleet.campaigns.rules import waves
from wheeltapper_fleet.campaigns.rules.campaign import (
    Abort,
    AssignPending,
    Campaign,
    CampaignState,
    CancelPending,
    Complete,
    Event,
    FillPlaces,
    Pause,
    Resume,
    Start,
    Tick,
)
from wheeltapper_fleet.campaigns.rules.execution import (
    PENDING,
    SUCCESS,
    Assign,
    Cancel,
    Deadline,
    Execution,
    ExecutionEvent,
    Fail,
    Refuse,
    Report,
    Supersede,
)
from wheeltapper_fleet.campaigns.rules.meeting import Standing, standing_of
from wheeltapper_fleet.campaigns.rules.spec import plan_waves, read_spec
from wheeltapper_fleet.campaigns.rules.waves import Count, Tallies, Wave, WaveCounts, WaveState
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.messages import ExecutionState

S = ExecutionState


@dataclass
class Model:
    """A campaign with its executions in memory: what a step wants is carried out at once, what it knows is counted."""

    campaign: Campaign
    executions: list[Execution]
    slice: int = 10**6
    assigned: list[str] = field(default_factory=list)

    def apply(self, event: Event) -> None:
        """One step, and what it wants, up to ``slice`` executions of it."""
        self.campaign, effects = machine.step(self.campaign, waves.tally(self.executions), event)
        for effect in effects:
            match effect:
                case AssignPending(wave, count, deadline_at):
                    now = deadline_at - self.campaign.spec.execution_deadline_seconds
                    for each in self.some(wave, PENDING, count):
                        self.assigned.append(each.id)
                        self.move(each.id, Assign(now, deadline_at))
                case FillPlaces(wave, count):
                    later = [each for each in self.sorted() if each.wave > wave and each.state == PENDING]
                    for gone, following in zip(self.some(wave, S.SUPERSEDED.value, count), later, strict=False):
                        self.replace(gone, replace(gone, wave=following.wave))
                        self.replace(following, replace(following, wave=wave))
                case CancelPending(count):
                    for each in [each for each in self.sorted() if each.state == PENDING][: min(count, self.slice)]:
                        self.move(each.id, Cancel())

    def tick(self, now: float) -> None:
        """What time does: deadlines first, then steps until the campaign rests."""
        for each in list(self.executions):
            if each.deadline_at is not None and each.deadline_at <= now:
                self.move(each.id, Deadline())
        for _ in range(200):
            before = (self.campaign, list(self.executions))
            self.apply(Tick(now))
            if (self.campaign, self.executions) == before:
                return
        raise AssertionError("the campaign never rests")

    def move(self, execution: str, event: ExecutionEvent) -> None:
        """An execution moves by itself: no campaign is asked."""
        before = next(each for each in self.executions if each.id == execution)
        self.replace(before, single.move(before, event))

    def replace(self, before: Execution, after: Execution) -> None:
        self.executions[self.executions.index(before)] = after

    def some(self, wave: int, state: str, count: int) -> list[Execution]:
        found = [each for each in self.sorted() if (each.wave, each.state) == (wave, state)]
        return found[: min(count, self.slice)]

    def sorted(self) -> list[Execution]:
        return sorted(self.executions, key=lambda each: (each.wave, each.device))

    @property
    def states(self) -> list[str]:
        return [each.state for each in self.executions]

    @property
    def state(self) -> CampaignState:
        return self.campaign.state

    @property
    def waves(self) -> tuple[Wave, ...]:
        return self.campaign.waves

    @property
    def reason(self) -> str:
        return self.campaign.reason


def make(devices: int = 4, **fields: Any) -> Model:
    spec = read_spec({"model": "m", "release": 1, "waves": [{"percent": 50}, {}], **fields})
    planned = plan_waves(spec, [f"d{i}" for i in range(devices)])
    executions = [Execution(f"e-{d}", d, i, campaign="c") for i, wave in enumerate(planned) for d in wave]
    return Model(Campaign("c", spec, tuple(Wave() for _ in planned)), executions)


def run(model: Model, *events: Event | tuple[str, ExecutionEvent]) -> Model:
    """Apply events of the campaign, and (device, event) of its executions."""
    for event in events:
        match event:
            case Tick(now):
                model.tick(now)
            case (str(device), moved):
                model.move(f"e-{device}", moved)
            case _:
                model.apply(event)
    return model


def test_two_waves_complete() -> None:
    campaign = run(make(), Start(), Tick(0), Tick(1))
    assert campaign.states == ["ASSIGNED", "ASSIGNED", "PENDING", "PENDING"]
    campaign = run(campaign, ("d0", Report(S.COMMITTED)), Tick(2))
    assert campaign.states[2:] == ["PENDING", "PENDING"]
    campaign = run(campaign, ("d1", Report(S.COMMITTED)), Tick(3), Tick(4), Tick(5))
    assert campaign.states[2:] == ["ASSIGNED", "ASSIGNED"]
    campaign = run(campaign, ("d2", Report(S.COMMITTED)), ("d3", Report(S.COMMITTED)), Tick(6), Tick(7))
    assert campaign.state is CampaignState.COMPLETED


def test_a_wave_below_success_pauses_and_cannot_be_resumed() -> None:
    campaign = run(make(), Start(), Tick(0), Tick(1), ("d0", Report(S.ROLLED_BACK)), Tick(2))
    assert campaign.state is CampaignState.PAUSED
    assert campaign.waves[0].state is WaveState.FAILED
    with pytest.raises(FleetError, match="wave_failed"):
        campaign.apply(Resume())


def test_an_offline_device_ends_by_deadline_even_when_paused() -> None:
    campaign = run(make(execution_deadline_seconds=10.0), Start(), Tick(0), Pause(), Tick(11))
    assert [each.code for each in campaign.executions][:2] == ["execution.deadline"] * 2
    ended = list(campaign.executions)
    assert run(campaign, ("d0", Report(S.COMMITTED)), Tick(12)).executions == ended


def test_a_refusal_ends_an_execution_only_before_it_began() -> None:
    campaign = run(make(), Start(), Tick(0), ("d1", Report(S.FETCHING)), ("d0", Refuse("x")), ("d1", Refuse("x")))
    assert campaign.states[:2] == ["REJECTED", "FETCHING"]


def test_reports_never_go_backwards_and_pending_ones_do_not_move() -> None:
    campaign = run(make(), Start(), Tick(0), ("d0", Report(S.PROBATION)), ("d0", Report(S.FETCHING)))
    campaign = run(campaign, ("d2", Report(S.COMMITTED)))
    assert (campaign.states[0], campaign.states[2]) == ("PROBATION", "PENDING")


def test_soak_holds_the_next_wave() -> None:
    campaign = run(make(soak_seconds=100.0), Start(), Tick(0), ("d0", Report(S.COMMITTED)), ("d1", Report(S.COMMITTED)))
    campaign = run(campaign, Tick(10), Tick(109))
    assert campaign.waves[0].state is WaveState.SOAKING
    assert run(campaign, Tick(110)).waves[0].state is WaveState.PASSED


def test_abort_rule_counts_what_was_executed() -> None:
    rules = [{"percent": 50, "minimum_executed": 2}]
    campaign = run(make(20, abort=rules, success={"percent": 10}), Start(), Tick(0), ("d0", Report(S.FAILED)), Tick(1))
    assert campaign.state is CampaignState.RUNNING
    paused = run(campaign, ("d1", Report(S.COMMITTED)), Tick(2))
    assert paused.state is CampaignState.PAUSED
    assert "abort rule" in paused.reason


def test_cancel_pending_ends_what_has_not_begun_and_asks_the_others() -> None:
    campaign = make(abort=[{"count": 1}], on_abort="CANCEL_PENDING", success={"percent": 50})
    campaign = run(campaign, Start(), Tick(0), ("d0", Report(S.FAILED)), Tick(1))
    assert campaign.state is CampaignState.ABORTED
    assert campaign.states == ["FAILED", "ASSIGNED", "CANCELLED", "CANCELLED"]
    assert campaign.assigned == ["e-d0", "e-d1"]
    assert standing_of(campaign.states[1], campaign.state) is Standing.CALLED_OFF
    assert run(campaign, Tick(1e6)).states[1] == "FAILED"


def test_what_is_held_stays_in_its_wave_and_what_is_broken_stops() -> None:
    campaign = run(make(), Start(), Tick(0), ("d0", Report(S.COMMITTED)), ("d1", Report(S.COMMITTED)))
    seen = []
    for tick in (Tick(1.0, held="too few windows"), Tick(2.0, held="too few windows"), Tick(3.0)):
        campaign.apply(tick)
        seen.append(campaign.waves[0].state)
    assert seen == ["SOAKING", "SOAKING", "PASSED"]
    campaign.apply(Tick(4.0, broken="latency rose by 40 %"))
    assert (campaign.state, campaign.reason) == (CampaignState.PAUSED, "latency rose by 40 %")


def test_a_step_costs_the_same_for_any_number_of_devices() -> None:
    """It reads counts: as many as there are waves and states."""
    counts = Tallies({(0, PENDING): Count(60_000), (1, PENDING): Count(40_000)})
    campaign, effects = machine.step(replace(make().campaign, state=CampaignState.RUNNING), counts, Tick(1.0))
    assert [each for each in effects if isinstance(each, AssignPending)] == [AssignPending(0, 60_000, 3601.0)]
    assert campaign.waves[1].state is WaveState.PENDING


@pytest.mark.parametrize("event", [Pause(), Resume(), machine.Approve()])
def test_what_makes_no_sense_is_refused(event: Event) -> None:
    with pytest.raises(FleetError) as caught:
        make().apply(event)
    assert (caught.value.code, caught.value.status) == ("campaign.illegal", 409)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"abort": [{}]}, "campaign.rule_invalid"),
        ({"abort": [{"percent": "many"}]}, "campaign.rule_invalid"),
        ({"abort": [{"percent": 0}]}, "campaign.rule_invalid"),
        ({"abort": [{"percent": 101}]}, "campaign.rule_invalid"),
        ({"abort": [{"percent": float("nan")}]}, "campaign.rule_invalid"),
        ({"abort": [{"count": 1, "states": ["COMMITTED"]}]}, "campaign.rule_invalid"),
        ({"abort": [{"count": 1, "unknown": 1}]}, "campaign.rule_invalid"),
        ({"success": {"percent": 50, "count": 1}}, "campaign.rule_invalid"),
        ({"success": {"count": 3}}, "campaign.rule_unreachable"),
        ({"abort": [{"count": 5}]}, "campaign.rule_unreachable"),
        ({"abort": [{"percent": 1, "minimum_executed": 5}]}, "campaign.rule_unreachable"),
        ({"waves": [{"percent": 50}]}, "campaign.waves_invalid"),
        ({"waves": [{"percent": 100}, {}]}, "campaign.waves_invalid"),
        ({"waves": [{"count": 9}]}, "campaign.waves_invalid"),
        ({"waves": [{"devices": ["nobody"]}, {}]}, "campaign.waves_invalid"),
        ({"waves": [{"count": 1, "percent": 1}, {}]}, "campaign.waves_invalid"),
        ({"waves": []}, "campaign.spec_invalid"),
        ({"releases": 1}, "campaign.spec_invalid"),
        ({"pipelines": ["UP/../"]}, "campaign.spec_invalid"),
        ({"soak_seconds": float("inf")}, "campaign.spec_invalid"),
        ({"waves": [{"rate": {"per_minute": 0}}]}, "campaign.spec_invalid"),
        ({"waves": [{"rate": {"per_minute": 5, "factor": 2}}]}, "campaign.waves_invalid"),
        ({"windows": [{"begin": "24:00", "end": "05:00"}]}, "campaign.spec_invalid"),
        ({"windows": [{"begin": "22:00", "end": "05:00", "days": ["someday"]}]}, "campaign.spec_invalid"),
        ({"audience": {"query": "site = "}}, "query.invalid"),
        ({"audience": {"query": 'site = "a"'}, "make_default": True}, "campaign.spec_invalid"),
    ],
)
def test_a_spec_that_cannot_work_is_refused(fields: Mapping[str, Any], code: str) -> None:
    with pytest.raises(FleetError) as caught:
        make(**fields)
    assert caught.value.code == code


def test_waves_cover_the_audience_exactly_once() -> None:
    spec = read_spec({"model": "m", "release": 1, "waves": [{"devices": ["d4"]}, {"percent": 40}, {"count": 1}, {}]})
    assert plan_waves(spec, [f"d{i}" for i in range(5)]) == (("d4",), ("d0", "d1"), ("d2",), ("d3",))


def handed(model: Model, *times: float) -> list[int]:
    """How many executions were handed out by each of ``times``."""
    counts = []
    for now in times:
        model.tick(now)
        counts.append(len(model.assigned))
    return counts


def test_a_constant_rate_hands_out_so_many_a_minute() -> None:
    model = run(make(40, waves=[{"rate": {"per_minute": 6}}]), Start())
    assert handed(model, 1000.0, 1005.0, 1010.0, 1019.9, 1020.1, 1060.0) == [1, 1, 2, 2, 3, 4]
    assert machine.next_look(model.campaign, waves.tally(model.executions)) == pytest.approx(1070.0)
    steady = handed(model, *(1060.0 + 2.0 * tick for tick in range(1, 61)))
    assert steady[-1] - 4 == 12  # two minutes
    many = run(make(40, waves=[{"rate": {"per_minute": 600}}]), Start())
    assert handed(many, 1000.0, 1000.5, 1001.0) == [1, 6, 11]


def test_a_rate_grows_with_what_went_well_up_to_its_maximum() -> None:
    rate = {"per_minute": 6, "factor": 2, "every_successes": 2, "maximum_per_minute": 20}
    model = run(make(40, waves=[{"rate": rate}]), Start())
    spec = model.campaign.spec.waves[0].rate
    assert spec is not None
    assert [spec.at(successes) for successes in (0, 1, 2, 4, 10**6)] == [6, 6, 12, 20, 20]
    assert handed(model, 1000.1, 1010.2, 1020.3) == [1, 2, 3]
    for device in ("d0", "d1"):
        model.move(f"e-{device}", Report(S.COMMITTED))
    assert handed(model, 1025.4, 1030.5) == [4, 5]


def test_a_closed_window_and_a_pause_save_nothing_up() -> None:
    fields: dict[str, Any] = {"waves": [{"rate": {"per_minute": 6}}], "execution_deadline_seconds": 1e6}
    model = run(make(40, **fields), Start(), Tick(100.0))
    model.apply(Tick(500.0, closed_until=900.0))
    assert len(model.assigned) == 1
    assert machine.next_look(model.campaign, waves.tally(model.executions), 900.0) == 900.0
    assert handed(model, 900.0) == [2]
    assert run(model, Pause(), Tick(2000.0), Resume(), Tick(5000.0)).assigned == ["e-d0", "e-d1", "e-d10"]


CONTINUOUS: dict[str, Any] = {"audience": {"continuous": True}, "waves": [{}], "execution_deadline_seconds": 60.0}


def test_a_continuous_campaign_is_completed_by_a_person_once_its_executions_have_ended() -> None:
    model = run(make(2, **CONTINUOUS), Start(), Tick(0.0))
    model.move("e-d0", Report(S.COMMITTED))
    model.apply(Complete())
    assert (model.campaign.state, model.campaign.joinable) == (CampaignState.RUNNING, False)
    with pytest.raises(FleetError, match="no device can join"):
        model.apply(Complete())
    model.move("e-d1", Report(S.COMMITTED))
    model.tick(1.0)
    assert model.campaign.state is CampaignState.COMPLETED


def test_where_all_have_ended_it_completes_at_once_also_from_a_pause() -> None:
    model = run(make(1, **CONTINUOUS), Start(), Tick(0.0))
    model.move("e-d0", Report(S.COMMITTED))
    model.tick(1.0)
    assert model.campaign.state is CampaignState.RUNNING
    assert run(model, Pause(), Complete()).campaign.state is CampaignState.COMPLETED
    with pytest.raises(FleetError, match="is COMPLETED"):
        model.apply(Complete())


class Checked(Model):
    """A model whose promises are checked at each step."""

    sizes: Sequence[int] = ()

    def apply(self, event: Event) -> None:
        before, counts = self.campaign, list(self.executions)
        try:
            super().apply(event)
        except FleetError:
            return
        if self.campaign.state is CampaignState.COMPLETED and before.state is not CampaignState.COMPLETED:
            assert all(each.terminal for each in counts), "completes before its executions have ended"
            assert not self.campaign.joinable, "completes though devices may join it"
        passed = {index for index, wave in enumerate(before.waves) if wave.state is WaveState.PASSED}
        for old, new in zip(counts, self.executions, strict=True):
            if old.state == PENDING and new.state == S.ASSIGNED:
                assert before.state in (CampaignState.RUNNING, CampaignState.SCHEDULED)
                assert set(range(new.wave)) <= passed, "exceeds its wave"
        for index, (was, now) in enumerate(zip(before.waves, self.campaign.waves, strict=True)):
            if now.state is WaveState.PASSED and was.state is not WaveState.PASSED:
                assert isinstance(event, Tick)
                of = [each for each in counts if each.wave == index and not each.superseded]
                good = sum(each.state == SUCCESS for each in of)
                needed = self.campaign.spec.success.needed(self.sizes[index])
                if not any(each.state == PENDING for each in counts):
                    needed = min(needed, len(of))  # nothing is opened after it
                assert good >= needed, "passes without successes"
                broken = waves.broken_rule(self.campaign.spec.abort, waves.tally(counts), index)
                assert broken is None, "a rule is broken"
                since = was.since if was.state is WaveState.SOAKING else event.now
                assert event.now - since >= self.campaign.spec.soak_seconds, "passes before its soak time is over"


class Promises(RuleBasedStateMachine):
    """Anything may happen to a campaign; what it promises is checked after each event."""

    @initialize(
        devices=st.integers(2, 9),
        success=st.sampled_from([{}, {"percent": 50}, {"percent": 90}, {"count": 1}]),
        abort=st.sampled_from([[], [{"percent": 40}], [{"count": 1, "scope": "wave"}], [{"count": 2, "percent": 90}]]),
        action=st.sampled_from(["PAUSE", "CANCEL_PENDING"]),
        soak=st.sampled_from([0.0, 20.0]),
        slice_=st.sampled_from([1, 2, 10**6]),
        rate=st.sampled_from([None, {"per_minute": 4}]),
        continuous=st.booleans(),
    )
    def create(
        self,
        devices: int,
        success: Any,
        abort: Any,
        action: str,
        soak: float,
        slice_: int,
        rate: Any,
        continuous: bool,
    ) -> None:
        self.now = 0.0
        fields: dict[str, Any] = {"success": success, "abort": abort, "on_abort": action, "soak_seconds": soak}
        fields |= {"audience": {"continuous": continuous}}
        planned = [{"percent": 50, "rate": rate}, {}]
        made = make(devices, **fields, execution_deadline_seconds=60.0, waves=planned)
        self.model = Checked(made.campaign, made.executions, slice_)
        self.model.sizes = [sum(each.wave == index for each in made.executions) for index in range(2)]
        self.ends: dict[str, str] = {}
        self.ranks: dict[str, int] = {}
        self.model.apply(Start())

    @rule(seconds=st.sampled_from([0.0, 1.0, 25.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.model.tick(self.now)

    @rule()
    def the_engine_dies_after_one_step(self) -> None:
        """What was carried out of a step stays; what was not is wanted again."""
        self.model.apply(Tick(self.now))

    @rule(which=st.integers(0, 8), state=st.sampled_from(list(S)))
    def report(self, which: int, state: S) -> None:
        self.model.move(self.pick(which), Report(state))

    @rule(which=st.integers(0, 8))
    def success(self, which: int) -> None:
        self.report(which, S.COMMITTED)

    @rule(which=st.integers(0, 8))
    def failure(self, which: int) -> None:
        self.report(which, S.FAILED)

    @rule(which=st.integers(0, 8), event=st.sampled_from([Supersede("other"), Refuse("x"), Fail("device.revoked")]))
    def ends_otherwise(self, which: int, event: ExecutionEvent) -> None:
        self.model.move(self.pick(which), event)

    @rule(event=st.sampled_from([Pause(), Resume(), Complete(), Abort()]))
    def person(self, event: Event) -> None:
        self.model.apply(event)

    def pick(self, which: int) -> str:
        return self.model.executions[which % len(self.model.executions)].id

    @invariant()
    def terminal_never_changes(self) -> None:
        for each in self.model.executions:
            if each.terminal:
                assert self.ends.setdefault(each.id, each.state) == each.state

    @invariant()
    def no_state_goes_backwards(self) -> None:
        order = [PENDING, *(state.value for state in S)]
        for each in self.model.executions:
            assert self.ranks.get(each.id, 0) <= order.index(each.state)
            self.ranks[each.id] = order.index(each.state)

    @invariant()
    def waves_keep_their_size(self) -> None:
        for index, size in enumerate(self.model.sizes):
            assert sum(each.wave == index for each in self.model.executions) == size

    @invariant()
    def nothing_is_assigned_twice(self) -> None:
        assert len(set(self.model.assigned)) == len(self.model.assigned)

    def teardown(self) -> None:
        """In the end everything under way ends by deadline, and after an abort everything has ended."""
        if not hasattr(self, "model"):
            return
        self.model.apply(Abort())
        self.now += 1000
        self.model.tick(self.now)
        if self.model.campaign.state is CampaignState.ABORTED:
            assert all(each.terminal for each in self.model.executions)


_SETTINGS = settings(max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))

# As many examples as it takes: hypothesis stops at the first that shows the fault, and which one that is depends on
# what else the process has imported.
_FAULT_SETTINGS = settings(_SETTINGS, max_examples=6000, database=None, derandomize=True, phases=[Phase.generate])


def test_the_promises_hold() -> None:
    run_state_machine_as_test(Promises, settings=_SETTINGS)


def _two_waves(campaign: Campaign, index: int, wave: Wave) -> Campaign:
    """As ``_set_wave``, and a wave that opens opens the next one."""
    both = {index: wave} | ({index + 1: wave} if wave.state is WaveState.RUNNING else {})
    return replace(campaign, waves=tuple(both.get(number, each) for number, each in enumerate(campaign.waves)))


def _passed(tallies: Tallies, index: int) -> WaveCounts:
    return replace(_COUNTS_OF_WAVE(tallies, index), successes=10**6)


_COUNTS_OF_WAVE = Tallies.wave
_FAULTS: dict[str, tuple[Any, str, Any]] = {
    "open_two_waves": (machine, "_set_wave", _two_waves),
    "rules_never_broken": (machine, "broken_rule", lambda *_: None),
    "an_end_is_not_the_end": (single, "is_terminal", lambda _state: False),
    "always_passed": (Tallies, "wave", _passed),
    "no_deadline": (single, "_end", lambda execution, state, *_: execution),
    "places_stay_empty": (Tallies, "superseded", lambda *_: 0),
    "an_abort_cancels_nothing": (machine, "_cancel_pending", lambda _tallies: ()),
    "waves_before_it_do_not_matter": (machine, "_OPENED", frozenset(WaveState)),
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_the_promises_notice_a_planted_fault(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*_FAULTS[fault])
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(Promises, settings=_FAULT_SETTINGS)

"""The campaign machine: its promises hold whatever happens in whatever order, and its spec refuses what cannot work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from wheeltapper_fleet.campaigns.rules import campaign as machine
from wheeltapper_fleet.campaigns.rules.campaign import (
    Abort,
    Assign,
    Campaign,
    CampaignState,
    Event,
    Pause,
    Refused,
    Reported,
    Resume,
    Start,
    Superseded,
    Tick,
)
from wheeltapper_fleet.campaigns.rules.execution import PENDING, SUCCESS
from wheeltapper_fleet.campaigns.rules.meeting import Standing, standing_of
from wheeltapper_fleet.campaigns.rules.spec import plan_waves, read_spec
from wheeltapper_fleet.campaigns.rules.waves import Execution, Wave, WaveState, broken_rule, count_executions
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.messages import ExecutionState

S = ExecutionState


def make(devices: int = 4, **fields: Any) -> Campaign:
    spec = read_spec({"model": "m", "release": 1, "waves": [{"percent": 50}, {}], **fields})
    waves = plan_waves(spec, [f"d{i}" for i in range(devices)])
    executions = tuple(Execution(f"e-{d}", d, i) for i, wave in enumerate(waves) for d in wave)
    return Campaign("c", spec, tuple(Wave() for _ in waves), executions)


def run(campaign: Campaign, *events: Event) -> Campaign:
    for event in events:
        campaign, _ = machine.step(campaign, event)
    return campaign


def states(campaign: Campaign) -> list[str]:
    return [each.state for each in campaign.executions]


def test_two_waves_complete() -> None:
    campaign = run(make(), Start(), Tick(0), Tick(1))
    assert states(campaign) == ["ASSIGNED", "ASSIGNED", "PENDING", "PENDING"]
    campaign = run(campaign, Reported("e-d0", S.COMMITTED), Tick(2))
    assert states(campaign)[2:] == ["PENDING", "PENDING"]
    campaign = run(campaign, Reported("e-d1", S.COMMITTED), Tick(3), Tick(4), Tick(5))
    assert states(campaign)[2:] == ["ASSIGNED", "ASSIGNED"]
    campaign = run(campaign, Reported("e-d2", S.COMMITTED), Reported("e-d3", S.COMMITTED), Tick(6), Tick(7))
    assert campaign.state is CampaignState.COMPLETED


def test_a_wave_below_success_pauses_and_cannot_be_resumed() -> None:
    campaign = run(make(), Start(), Tick(0), Tick(1), Reported("e-d0", S.ROLLED_BACK), Tick(2))
    assert campaign.state is CampaignState.PAUSED
    assert campaign.waves[0].state is WaveState.FAILED
    with pytest.raises(FleetError, match="wave_failed"):
        machine.step(campaign, Resume())


def test_an_offline_device_ends_by_deadline_even_when_paused() -> None:
    campaign = run(make(execution_deadline_seconds=10.0), Start(), Tick(0), Pause(), Tick(11))
    assert [each.code for each in campaign.executions][:2] == ["execution.deadline"] * 2
    late = run(campaign, Reported("e-d0", S.COMMITTED))
    assert late == campaign


def test_a_refusal_ends_an_execution_only_before_it_began() -> None:
    campaign = run(make(), Start(), Tick(0), Reported("e-d1", S.FETCHING), Refused("e-d0", "x"), Refused("e-d1", "x"))
    assert states(campaign)[:2] == ["REJECTED", "FETCHING"]


def test_reports_never_go_backwards_and_pending_ones_do_not_move() -> None:
    campaign = run(make(), Start(), Tick(0), Reported("e-d0", S.PROBATION), Reported("e-d0", S.FETCHING))
    campaign = run(campaign, Reported("e-d2", S.COMMITTED))
    assert (states(campaign)[0], states(campaign)[2]) == ("PROBATION", "PENDING")


def test_soak_holds_the_next_wave() -> None:
    campaign = run(
        make(soak_seconds=100.0), Start(), Tick(0), Reported("e-d0", S.COMMITTED), Reported("e-d1", S.COMMITTED)
    )
    campaign = run(campaign, Tick(10), Tick(109))
    assert campaign.waves[0].state is WaveState.SOAKING
    assert run(campaign, Tick(110)).waves[0].state is WaveState.PASSED


def test_abort_rule_counts_what_was_executed() -> None:
    rules = [{"percent": 50, "minimum_executed": 2}]
    campaign = run(
        make(20, abort=rules, success={"percent": 10}), Start(), Tick(0), Reported("e-d0", S.FAILED), Tick(1)
    )
    assert campaign.state is CampaignState.RUNNING
    paused = run(campaign, Reported("e-d1", S.COMMITTED), Tick(2))
    assert paused.state is CampaignState.PAUSED
    assert "abort rule" in paused.reason


def test_cancel_pending_ends_what_has_not_begun_and_asks_the_others() -> None:
    campaign = make(abort=[{"count": 1}], on_abort="CANCEL_PENDING", success={"percent": 50})
    campaign = run(campaign, Start(), Tick(0), Reported("e-d0", S.FAILED))
    campaign, effects = machine.step(campaign, Tick(1))
    assert campaign.state is CampaignState.ABORTED
    assert states(campaign) == ["FAILED", "ASSIGNED", "CANCELLED", "CANCELLED"]
    assert not [each for each in effects if isinstance(each, Assign)]
    assert standing_of(states(campaign)[1], campaign.state) is Standing.CALLED_OFF
    assert states(run(campaign, Tick(1e6)))[1] == "FAILED"


@pytest.mark.parametrize("event", [Pause(), Resume(), machine.Approve()])
def test_what_makes_no_sense_is_refused(event: Event) -> None:
    with pytest.raises(FleetError) as caught:
        machine.step(make(), event)
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
    ],
)
def test_a_spec_that_cannot_work_is_refused(fields: Mapping[str, Any], code: str) -> None:
    with pytest.raises(FleetError) as caught:
        make(**fields)
    assert caught.value.code == code


def test_waves_cover_the_audience_exactly_once() -> None:
    spec = read_spec({"model": "m", "release": 1, "waves": [{"devices": ["d4"]}, {"percent": 40}, {"count": 1}, {}]})
    assert plan_waves(spec, [f"d{i}" for i in range(5)]) == (("d4",), ("d0", "d1"), ("d2",), ("d3",))


class Promises(RuleBasedStateMachine):
    """Anything may happen to a campaign; what it promises is checked after each event."""

    @initialize(
        devices=st.integers(2, 9),
        success=st.sampled_from([{}, {"percent": 50}, {"percent": 90}, {"count": 1}]),
        abort=st.sampled_from([[], [{"percent": 40}], [{"count": 1, "scope": "wave"}], [{"count": 2, "percent": 90}]]),
        action=st.sampled_from(["PAUSE", "CANCEL_PENDING"]),
        soak=st.sampled_from([0.0, 20.0]),
    )
    def create(self, devices: int, success: Any, abort: Any, action: str, soak: float) -> None:
        self.now = 0.0
        self.campaign = make(
            devices, success=success, abort=abort, on_abort=action, soak_seconds=soak, execution_deadline_seconds=60.0
        )
        self.assigned: list[str] = []
        self.sizes = [sum(each.wave == index for each in self.campaign.executions) for index in range(2)]
        self.ends: dict[str, str] = {}
        self.apply(Start())

    def apply(self, event: Event) -> None:
        before = self.campaign
        try:
            self.campaign, effects = machine.step(before, event)
        except FleetError:
            return
        waves = {each.id: each.wave for each in self.campaign.executions}
        for effect in effects:
            if isinstance(effect, Assign):
                assert before.state in (CampaignState.RUNNING, CampaignState.SCHEDULED)
                assert all(w.state is WaveState.PASSED for w in before.waves[: waves[effect.execution]]), (
                    "exceeds its wave"
                )
                self.assigned.append(effect.execution)
        for index, (old, new) in enumerate(zip(before.waves, self.campaign.waves, strict=True)):
            if new.state is WaveState.PASSED and old.state is not WaveState.PASSED:
                of = [each for each in self.campaign.executions if each.wave == index and not each.superseded]
                good = sum(each.state == SUCCESS for each in of)
                needed = self.campaign.spec.success.needed(self.sizes[index])
                if not any(each.state == PENDING for each in self.campaign.executions):
                    needed = min(needed, len(of))  # nothing is opened after it
                assert good >= needed, "passes without successes"
                assert broken_rule(self.campaign.spec.abort, self.campaign.executions, index) is None, (
                    "a rule is broken"
                )
                since = old.since if old.state is WaveState.SOAKING else self.now
                assert self.now - since >= self.campaign.spec.soak_seconds, "passes before its soak time is over"

    @rule(seconds=st.sampled_from([0.0, 1.0, 25.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.apply(Tick(self.now))

    @rule(which=st.integers(0, 8), state=st.sampled_from(list(S)))
    def report(self, which: int, state: S) -> None:
        self.apply(Reported(self.pick(which), state))

    @rule(which=st.integers(0, 8))
    def success(self, which: int) -> None:
        self.apply(Reported(self.pick(which), S.COMMITTED))

    @rule(which=st.integers(0, 8))
    def failure(self, which: int) -> None:
        self.apply(Reported(self.pick(which), S.FAILED))

    @rule(which=st.integers(0, 8), supersede=st.booleans())
    def refuse_or_supersede(self, which: int, supersede: bool) -> None:
        execution = self.pick(which)
        self.apply(Superseded(execution, "other") if supersede else Refused(execution, "x"))

    @rule(event=st.sampled_from([Pause(), Resume(), Abort()]))
    def person(self, event: Event) -> None:
        self.apply(event)

    def pick(self, which: int) -> str:
        return self.campaign.executions[which % len(self.campaign.executions)].id

    @invariant()
    def terminal_never_changes(self) -> None:
        for each in self.campaign.executions:
            if each.terminal:
                assert self.ends.setdefault(each.id, each.state) == each.state

    @invariant()
    def waves_keep_their_size(self) -> None:
        for index, size in enumerate(self.sizes):
            assert sum(each.wave == index for each in self.campaign.executions) == size

    @invariant()
    def nothing_is_assigned_twice(self) -> None:
        assert len(set(self.assigned)) == len(self.assigned)

    def teardown(self) -> None:
        """In the end everything under way ends by deadline, and after an abort everything has ended."""
        if not hasattr(self, "campaign"):
            return
        self.apply(Abort())
        self.now += 1000
        self.apply(Tick(self.now))
        if self.campaign.state is CampaignState.ABORTED:
            assert all(each.terminal for each in self.campaign.executions)


_SETTINGS = settings(max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))

# As many examples as it takes: hypothesis stops at the first that shows the fault, and which one that is depends on
# what else the process has imported.
_FAULT_SETTINGS = settings(_SETTINGS, max_examples=6000, database=None, derandomize=True, phases=[Phase.generate])


def test_the_promises_hold() -> None:
    run_state_machine_as_test(Promises, settings=_SETTINGS)


def _plant(name: str) -> tuple[str, Any]:
    def next_wave_anyway(campaign: Campaign, index: int, now: float) -> Any:
        opened, effects = original_open(campaign, index, now)
        nxt = index + 1
        if nxt < len(campaign.waves):
            opened, more = original_open(opened, nxt, now)
            return opened, (*effects, *more)
        return opened, effects

    original_open = machine._open_wave
    return {
        "open_two_waves": ("_open_wave", next_wave_anyway),
        "rules_never_broken": ("broken_rule", lambda *_: None),
        "reports_always_win": ("advance", lambda _current, reported: reported.value),
        "always_passed": ("count_executions", lambda each: replace(count_executions(each), successes=10**6)),
        "no_deadline": ("_end_overdue", lambda campaign, _now: campaign),
        "places_stay_empty": ("_fill_places", lambda *_: None),
    }[name]


@pytest.mark.parametrize(
    "fault",
    ["open_two_waves", "rules_never_broken", "reports_always_win", "always_passed", "no_deadline", "places_stay_empty"],
)
def test_the_promises_notice_a_planted_fault(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, *_plant(fault))
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(Promises, settings=_FAULT_SETTINGS)

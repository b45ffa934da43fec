"""The machine of a policy: one run and campaign at a time, within budgets, with cool-downs; late events do nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.fleet.learning.policies.example import EXAMPLE
from wheeltapper_fleet.learning.policies.choosing import choose_devices, derived_id
from wheeltapper_fleet.learning.policies.events import (
    AskCaptures,
    Assemble,
    CampaignEnded,
    CampaignStarted,
    CancelRun,
    CapturesSeen,
    Crossed,
    DatasetMade,
    Decided,
    Effect,
    ExpireCandidate,
    Failed,
    Input,
    Pause,
    Promote,
    Promoted,
    QueueRun,
    Resume,
    RollOut,
    RunEnded,
    RunQueued,
    Stage,
    Tick,
)
from wheeltapper_fleet.learning.policies.rules import BUDGET_SECONDS, PolicyState, ends_at, step, wanted
from wheeltapper_fleet.learning.policies.spec import read_policy

SPEC = read_policy(EXAMPLE)
DRIFT = Crossed(findings=("half of the devices drift",), devices=("fan-1", "fan-2", "fan-3"), release=1)


def walk(*events: Input, state: PolicyState | None = None, at: float = 0.0) -> tuple[PolicyState, list[str]]:
    """The state after events, a second apart, and what happened."""
    current, kinds = state or PolicyState(), []
    for number, event in enumerate(events):
        taken = step(SPEC, current, event, at + number)
        current = taken.state
        if taken.arrow is not None:
            kinds.append(taken.arrow.kind)
    return current, kinds


TO_APPROVAL: tuple[Input, ...] = (
    DRIFT,
    CapturesSeen(cycle=1, arrived=3, open=0),
    DatasetMade(cycle=1, dataset="fans@2", new=True),
    RunQueued(cycle=1, run="r-1"),
    RunEnded(run="r-1", candidate="k-1"),
)
TO_CAMPAIGN: tuple[Input, ...] = (
    *TO_APPROVAL,
    Decided(candidate="k-1", who="ann", release=2),
    CampaignStarted(cycle=1, campaign="c-1"),
)


def test_a_cycle_goes_from_drift_to_a_new_champion() -> None:
    state, kinds = walk(*TO_CAMPAIGN, CampaignEnded(campaign="c-1", completed=True), Promoted(release=2))
    assert kinds == [
        "crossed", "captures_arrived", "dataset_made", "run_queued", "candidate_made", "approved", "campaign_started",
        "campaign_completed", "promoted",
    ]  # fmt: skip
    assert state.stage is Stage.COOLING
    assert ends_at(SPEC, state) == 8 + 1000
    assert step(SPEC, state, Tick(), 1007.0).state.stage is Stage.COOLING
    assert step(SPEC, state, Tick(), 1008.0).state.stage is Stage.WATCHING


@pytest.mark.parametrize(
    ("events", "stage", "kind"),
    [
        ((DRIFT, CapturesSeen(cycle=1, arrived=1, open=0)), Stage.COOLING, "stalled"),
        ((DRIFT, CapturesSeen(cycle=1, arrived=1, open=1)), Stage.CAPTURING, "crossed"),
        ((*TO_APPROVAL[:2], DatasetMade(cycle=1, dataset="fans@1", new=False)), Stage.COOLING, "nothing_new"),
        ((*TO_APPROVAL[:2], Failed(cycle=1, stage=Stage.ASSEMBLING, detail="leak")), Stage.COOLING, "failed"),
        ((*TO_APPROVAL[:4], RunEnded(run="r-1", detail="gate")), Stage.COOLING, "run_failed"),
        ((*TO_APPROVAL, Decided(candidate="k-1", who="ann", why="no")), Stage.COOLING, "rejected"),
        ((*TO_CAMPAIGN, CampaignEnded(campaign="c-1", completed=False)), Stage.STOPPED, "campaign_failed"),
        ((*TO_CAMPAIGN[:-1], Failed(cycle=1, stage=Stage.ROLLING_OUT, detail="x")), Stage.STOPPED, "campaign_failed"),
    ],
)
def test_what_goes_wrong_ends_the_cycle(events: tuple[Input, ...], stage: Stage, kind: str) -> None:
    state, kinds = walk(*events)
    assert (state.stage, kinds[-1]) == (stage, kind)
    assert step(SPEC, state, DRIFT, 100.0).arrow is None  # nothing begins at once


@pytest.mark.parametrize(("upto", "after"), [(1, Stage.COOLING), (2, Stage.COOLING), (4, Stage.CANCELLING)])
def test_a_stage_that_takes_too_long_ends(upto: int, after: Stage) -> None:
    state, _ = walk(*TO_APPROVAL[:upto])
    end = ends_at(SPEC, state)
    assert end is not None
    assert step(SPEC, state, Tick(), end - 1).arrow is None
    assert step(SPEC, state, Tick(), end).state.stage is after


def test_nobody_approves_in_time() -> None:
    state, _ = walk(*TO_APPROVAL)
    taken = step(SPEC, state, Tick(), ends_at(SPEC, state) or 0.0)
    assert taken.effects == (ExpireCandidate("k-1"),)
    assert taken.state.stage is Stage.COOLING
    assert step(SPEC, taken.state, Decided(candidate="k-1", who="ann", release=2), 1e9).arrow is None


def test_a_campaign_that_never_ends_stops_the_policy_until_a_person_resumes_it() -> None:
    state, _ = walk(*TO_CAMPAIGN)
    stopped = step(SPEC, state, Tick(), ends_at(SPEC, state) or 0.0).state
    assert stopped.stage is Stage.STOPPED
    assert "ROLLING_OUT" in stopped.why
    assert step(SPEC, stopped, Tick(), 1e11).state is stopped
    assert step(SPEC, stopped, Resume(who="ann"), 1e9).state.stage is Stage.WATCHING


def test_a_pause_stops_the_clock_of_its_stage() -> None:
    state, _ = walk(*TO_APPROVAL)
    paused = step(SPEC, state, Pause(who="ann"), 100.0).state
    assert step(SPEC, paused, Tick(), 1e9).state is paused
    assert step(SPEC, paused, Decided(candidate="k-1", who="ann", release=2), 1e9).state is paused
    resumed = step(SPEC, paused, Resume(who="ann"), 1100.0).state
    assert (ends_at(SPEC, resumed) or 0.0) - (ends_at(SPEC, state) or 0.0) == 1000.0


def test_a_budget_that_is_used_up_is_said_once() -> None:
    used = PolicyState(runs_at=(1.0, 2.0, 3.0))
    taken = step(SPEC, used, DRIFT, 100.0)
    assert taken.arrow is not None
    assert taken.arrow.kind == "held"
    assert "3 runs" in taken.arrow.detail
    assert step(SPEC, taken.state, DRIFT, 200.0).arrow is None
    assert step(SPEC, taken.state, DRIFT, BUDGET_SECONDS + 1.5).state.stage is Stage.CAPTURING


def test_devices_that_drift_record_first_and_the_lot_is_another_in_each_cycle() -> None:
    others = [f"fan-{number}" for number in range(50)]
    chosen = choose_devices(["fan-7", "fan-9"], others, 5, "policy 1")
    assert set(chosen[:2]) == {"fan-7", "fan-9"}
    assert chosen == choose_devices(["fan-9", "fan-7"], reversed(others), 5, "policy 1")
    assert len({choose_devices([], others, 5, f"policy {cycle}") for cycle in range(20)}) > 15
    assert derived_id("cmd", "a", 1) != derived_id("cmd", "a1", "")


@dataclass
class World:
    """What the effects of a policy do to the rest: each of them idempotent, as in the service."""

    active_runs: set[str] = field(default_factory=set)
    active_campaigns: set[str] = field(default_factory=set)
    run_times: dict[str, float] = field(default_factory=dict)
    campaign_times: dict[str, float] = field(default_factory=dict)


class PolicyMachine(RuleBasedStateMachine):
    """A policy among events that come late, twice, or of something else, with a service that dies between steps."""

    @initialize()
    def begin(self) -> None:
        self.now = 1000.0
        self.state = PolicyState()
        self.world = World()
        self.records: list[tuple[float, Input]] = []
        self.past: list[Input] = []
        self.ended_at = float("-inf")

    def send(self, event: Input) -> None:
        before = self.state
        taken = step(SPEC, before, event, self.now)
        self.past.append(event)
        if taken.arrow is None:
            assert taken.state == before
            assert not taken.effects
            return
        self.records.append((self.now, event))
        self.state = taken.state
        if taken.state.cycle > before.cycle:
            assert self.now >= self.ended_at + SPEC.cool_down_seconds or before.stage is Stage.WATCHING
        if taken.state.stage is Stage.COOLING and before.stage is not Stage.COOLING:
            self.ended_at = self.now
        for effect in taken.effects:
            self.do(effect)

    def do(self, effect: Effect) -> None:
        cycle = self.state.cycle
        if isinstance(effect, QueueRun):
            run = f"r-{cycle}"
            assert self.world.active_runs <= {run}, "two runs at once"
            if run not in self.world.run_times:
                self.world.active_runs.add(run)
                self.world.run_times[run] = self.now
        elif isinstance(effect, RollOut):
            campaign = f"c-{cycle}"
            assert self.world.active_campaigns <= {campaign}, "two campaigns at once"
            if campaign not in self.world.campaign_times:
                self.world.active_campaigns.add(campaign)
                self.world.campaign_times[campaign] = self.now
        elif isinstance(effect, AskCaptures):
            assert 0 < len(effect.devices) <= min(SPEC.captures.devices, SPEC.budget.captures)

    @rule(seconds=st.sampled_from([1.0, 60.0, 700.0, 1e5, 1.3e6]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.send(Tick())

    @rule()
    def drift(self) -> None:
        self.send(DRIFT)

    @rule(arrived=st.integers(0, 3), cycle_before=st.integers(0, 1))
    def captures(self, arrived: int, cycle_before: int) -> None:
        self.send(CapturesSeen(cycle=self.state.cycle - cycle_before, arrived=arrived, open=0))

    @rule(new=st.booleans())
    def dataset(self, new: bool) -> None:
        self.send(DatasetMade(cycle=self.state.cycle, dataset=f"fans@{self.state.cycle}", new=new))

    @precondition(lambda self: f"r-{self.state.cycle}" in self.world.run_times)
    @rule()
    def queued(self) -> None:
        self.send(RunQueued(cycle=self.state.cycle, run=f"r-{self.state.cycle}"))

    @rule(good=st.booleans(), data=st.data())
    def run_ends(self, good: bool, data: st.DataObject) -> None:
        if self.world.active_runs:
            run = data.draw(st.sampled_from(sorted(self.world.active_runs)))
            self.world.active_runs.discard(run)
            if self.state.run == run or self.state.stage is not Stage.TRAINING:
                self.send(RunEnded(run=run, candidate="k" if good else ""))
            else:  # it ended before anybody wrote down that it is there
                self.send(RunQueued(cycle=self.state.cycle, run=run))
                self.send(RunEnded(run=run, candidate="k" if good else ""))

    @rule(release=st.integers(0, 3))
    def decided(self, release: int) -> None:
        self.send(Decided(candidate=self.state.candidate, who="ann", release=release))

    @precondition(lambda self: f"c-{self.state.cycle}" in self.world.campaign_times)
    @rule()
    def campaign_begins(self) -> None:
        self.send(CampaignStarted(cycle=self.state.cycle, campaign=f"c-{self.state.cycle}"))

    @rule(good=st.booleans())
    def campaign_ends(self, good: bool) -> None:
        if self.state.campaign in self.world.active_campaigns:
            self.world.active_campaigns.discard(self.state.campaign)
            self.send(CampaignEnded(campaign=self.state.campaign, completed=good))

    @rule()
    def promoted(self) -> None:
        self.send(Promoted(release=self.state.release))

    @rule(stage=st.sampled_from(Stage))
    def refused(self, stage: Stage) -> None:
        if stage not in (Stage.TRAINING, Stage.ROLLING_OUT) or not (self.state.run or self.state.campaign):
            self.send(Failed(cycle=self.state.cycle, stage=stage, detail="it cannot be"))

    @rule(pause=st.booleans())
    def a_person(self, pause: bool) -> None:
        if self.world.active_campaigns and self.state.stage is Stage.STOPPED:
            self.world.active_campaigns.clear()  # who resumes has looked at the campaign
        self.send(Pause(who="ann") if pause else Resume(who="ann"))

    @rule(data=st.data())
    def again(self, data: st.DataObject) -> None:
        """An event comes once more, late."""
        if self.past:
            self.send(data.draw(st.sampled_from(self.past)))

    @rule()
    def restart(self) -> None:
        """The service was killed; what the state wants is done again."""
        effect = wanted(SPEC, self.state, self.now)
        if effect is not None:
            assert isinstance(effect, Assemble | QueueRun | CancelRun | RollOut | Promote)
            self.do(effect)

    @invariant()
    def within_the_budget(self) -> None:
        for times, most in (
            (self.world.run_times, SPEC.budget.runs),
            (self.world.campaign_times, SPEC.budget.campaigns),
        ):
            for end in times.values():
                assert sum(end - BUDGET_SECONDS < each <= end for each in times.values()) <= most

    @invariant()
    def replayed_from_its_records(self) -> None:
        state = PolicyState()
        for at, event in self.records:
            written = msgspec.json.decode(msgspec.json.encode(event), type=Input)
            state = step(SPEC, state, written, at).state
        assert state == msgspec.json.decode(msgspec.json.encode(self.state), type=PolicyState)


TestPolicyMachine = PolicyMachine.TestCase
TestPolicyMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

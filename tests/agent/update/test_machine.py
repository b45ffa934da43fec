"""The pure parts of the update: the table, resuming after a restart, deadlines, the rules for assignments."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.agent.repository import Repository
from wheeltapper_agent.update.deadline import Moment, allowed_seconds, downtime_seconds
from wheeltapper_agent.update.machine import ENTRY_EFFECTS, TABLE, Effect, Event, IllegalTransitionError, step
from wheeltapper_agent.update.resume import MAX_RESUMES, max_resumes, resume, resume_uncounted
from wheeltapper_agent.update.trust import IGNORED, Accepted, RefusedError, TrustState, check_assignment, is_known
from wheeltapper_protocols.wire.assignment import PipelineTarget
from wheeltapper_protocols.wire.messages import ExecutionState as S

_ENDS = {S.FAILED, S.REJECTED, S.SUPERSEDED, S.CANCELLED, S.ROLLED_BACK, S.COMMITTED}


@pytest.mark.parametrize("state", list(S))
@pytest.mark.parametrize("event", list(Event))
def test_every_pair_is_in_the_table_or_raises(state: S, event: Event) -> None:
    if (state, event) in TABLE:
        following = step(state, event)
        assert following.effect is ENTRY_EFFECTS[following.state]
        assert (following.effect is Effect.FINISH) == following.state.terminal
    else:
        with pytest.raises(IllegalTransitionError):
            step(state, event)


def test_the_shape_of_the_machine() -> None:
    assert set(ENTRY_EFFECTS) == set(S)
    for state in S:
        followers = {following for (before, _), following in TABLE.items() if before is state}
        assert bool(followers) != state.terminal
    activated = {S.ACTIVATING, S.PROBATION, S.ROLLING_BACK}
    for (state, event), following in TABLE.items():
        if state in activated:
            assert event not in (Event.CANCEL, Event.SUPERSEDE)
            assert following in activated | {S.COMMITTED, S.ROLLED_BACK, S.FAILED}
        if following is S.ACTIVATING:
            assert state is S.SHADOW


def test_every_state_can_reach_an_end_and_is_reached() -> None:
    for state in S:
        seen, todo = {state}, [state]
        while todo:
            at = todo.pop()
            for following in {end for (begin, _), end in TABLE.items() if begin is at} - seen:
                seen.add(following)
                todo.append(following)
        assert seen & _ENDS
        if state is S.ASSIGNED:
            assert seen == set(S)
    for state in set(S) - _ENDS:  # GIVE_UP alone does it
        while not state.terminal:
            state = step(state, Event.GIVE_UP).state


def test_what_ends_an_execution_from_outside_does_so_before_activation_only() -> None:
    before = {S.ASSIGNED, S.WAITING, S.FETCHING, S.VERIFYING, S.STAGED, S.SELF_TEST, S.SHADOW}
    ends = {Event.CANCEL: S.CANCELLED, Event.SUPERSEDE: S.SUPERSEDED, Event.EXPIRED: S.FAILED}
    for state in S:
        for event, end in ends.items():
            assert TABLE.get((state, event)) is (end if state in before else None)


def test_what_is_withdrawn_ends_before_activation_and_goes_back_after_it() -> None:
    for state in S:
        end = S.CANCELLED
        if state in (S.ACTIVATING, S.PROBATION):
            end = S.ROLLING_BACK
        assert TABLE.get((state, Event.WITHDRAW)) is (None if state in _ENDS | {S.ROLLING_BACK} else end)


def test_the_documented_table_is_the_table() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs/agent/updates.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.count("|") == 4 and "`" in line.split("|")[1]]
    cells = [tuple(cell.strip().strip("`") for cell in row) for row in rows]
    listed = {(S(state), Event[event]): S(end) for state, event, end in cells if state in {one.value for one in S}}
    assert listed == TABLE


@given(st.one_of(st.sampled_from([state.value for state in S]), st.text()), st.integers(0, 300), st.integers(0, 9))
def test_resume_always_has_a_way_to_an_end(state: str, resumes: int, deaths: int) -> None:
    plan = resume(state, resumes, deaths)
    if plan is None:
        assert S(state) in _ENDS
    elif plan.event is not None:
        assert resumes >= max_resumes(plan.state, deaths)
        assert (plan.state, plan.event) in TABLE
    else:
        assert plan.effect is ENTRY_EFFECTS[plan.state]


def test_resume_of_the_unknown_rolls_back() -> None:
    plan = resume("DANCING", 0)
    assert plan is not None
    assert (plan.state, plan.effect, plan.reason) == (S.ROLLING_BACK, Effect.ROLL_BACK, "journal.unknown_state")
    assert resume(None, 0) is None


@pytest.mark.parametrize("state", [state for state in S if not state.terminal])
def test_a_restart_that_cannot_be_counted_runs_nothing_new(state: S) -> None:
    plan = resume(state.value, 0)
    assert plan is not None
    found = resume_uncounted(plan, "storage.read_only")
    touched = state in (S.ACTIVATING, S.PROBATION)
    assert (found.event is Event.BROKE) == touched
    if touched:
        assert step(found.state, Event.BROKE).state is S.ROLLING_BACK


def test_what_passed_between_two_lives() -> None:
    """Within a boot by the seconds since it; over one by the wall clock, where that was right when it was noted."""
    now, verified = 1.8e9, 1.7e9
    assert downtime_seconds(Moment(now, "a", 100.0), Moment(60.0, "a", 130.0), verified) == 30.0
    assert downtime_seconds(Moment(60.0, "a", 100.0), Moment(now, "a", 101.0), verified) == 1.0
    assert downtime_seconds(Moment(60.0, "a", 100.0), Moment(now, "b", 20.0), verified) == 0.0
    assert downtime_seconds(Moment(now, "a", 100.0), Moment(now + 86_400.0, "b", 20.0), verified) == 86_400.0
    assert downtime_seconds(Moment(now, "a", 100.0), Moment(60.0, "b", 20.0), verified) == 0.0
    assert downtime_seconds(Moment(now), Moment(now + 5.0), verified) == 5.0
    assert downtime_seconds(Moment(0.0), Moment(now), 0.0) == 0.0


def test_the_nearer_of_two_deadlines_counts() -> None:
    assert allowed_seconds(100.0, None, 1e9) == 100.0
    assert allowed_seconds(100.0, 1e9 + 40.0, 1e9) == 40.0
    assert allowed_seconds(100.0, 1e9 + 400.0, 1e9) == 100.0
    assert allowed_seconds(0.0, 1e9 + 400.0, 1e9) == 400.0
    assert 0.0 < allowed_seconds(0.0, 1e9 - 400.0, 1e9) < 0.1


def test_a_loop_in_probation_is_a_crash_loop_and_a_wait_is_patient() -> None:
    plan = resume(S.PROBATION.value, 2, probation_deaths=2)
    assert plan is not None
    assert (plan.event, plan.reason) == (Event.GIVE_UP, "probation.crash_loop")
    waiting = resume(S.WAITING.value, MAX_RESUMES * 10)
    assert waiting is not None
    assert waiting.event is None


class Machine(RuleBasedStateMachine):
    """Random events, and restarts at any moment: the machine never leaves the table and always ends."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.resumes, self.deaths = S.ASSIGNED, 0, 2

    def _go(self, state: S) -> None:
        self.resumes = self.resumes if state is self.state else 0
        self.state = state

    @rule(data=st.data())
    def event(self, data: Any) -> None:
        possible = [event for (state, event) in TABLE if state is self.state]
        if possible:
            self._go(step(self.state, data.draw(st.sampled_from(possible))).state)

    @rule(unclean=st.booleans(), counted=st.booleans())
    def restart(self, unclean: bool, counted: bool) -> None:
        plan = resume(self.state.value, self.resumes + unclean, self.deaths)
        if plan is None:
            assert self.state.terminal
            return
        if counted:
            self.resumes += unclean
        else:
            plan = resume_uncounted(plan, "storage.full")
        self._go(step(plan.state, plan.event).state if plan.event else plan.state)

    @invariant()
    def the_cap_holds(self) -> None:
        assert self.state.terminal or self.resumes < max_resumes(self.state, self.deaths)

    def teardown(self) -> None:
        """Nothing but crashes from now on: it ends all the same."""
        for _ in range(sum(max_resumes(state) for state in S)):
            self.restart(unclean=True, counted=True)
        assert self.state.terminal


TestMachine = Machine.TestCase


@pytest.fixture(scope="module")
def repository() -> Repository:
    return Repository()


TARGET = PipelineTarget(model="bearing", release=1, path="releases/bearing/1/manifest.json", length=10, sha256="0" * 64)
TRUST_STATE = TrustState("device-1", counter=3)


def _check(repository: Repository, raw: bytes, trust_state: TrustState = TRUST_STATE, now: float | None = None) -> Any:
    from tuf.api.exceptions import UnsignedMetadataError
    from tuf.api.metadata import Metadata, Targets

    targets = Metadata[Targets].from_bytes(repository.metadata[f"{repository.version}.targets.json"]).signed

    def verify(payload: bytes, signatures: dict[str, Any]) -> None:
        try:
            targets.verify_delegate("director", payload, signatures)
        except UnsignedMetadataError as error:
            raise ValueError(str(error)) from error

    return check_assignment(raw, trust_state, verify, time.time() if now is None else now)


def test_an_assignment_is_accepted_and_then_ignored(repository: Repository) -> None:
    raw = repository.assign(TARGET, 4)
    found = _check(repository, raw)
    assert isinstance(found, Accepted)
    assert found.trust_state.counter == 4
    assert _check(repository, raw, found.trust_state) is IGNORED


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("assignment.device", {"device": "device-2"}),
        ("assignment.counter", {"counter": 3}),
        ("assignment.counter", {"counter": 1}),
        ("assignment.expired", {"expires_at": 1.0}),
    ],
)
def test_a_signed_assignment_that_is_refused(repository: Repository, code: str, changes: dict[str, Any]) -> None:
    with pytest.raises(RefusedError) as refused:
        _check(repository, repository.assign(TARGET, **({"counter": 4} | changes)))
    assert refused.value.code == code
    assert refused.value.executions == (f"e{changes.get('counter', 4)}",)


def test_the_same_counter_with_other_bytes_is_refused(repository: Repository) -> None:
    found = _check(repository, repository.assign(TARGET, 4))
    with pytest.raises(RefusedError) as refused:
        _check(repository, repository.assign(TARGET, 4, execution="other"), found.trust_state)
    assert refused.value.code == "assignment.counter"


def test_another_key_is_refused_before_anything_is_read(repository: Repository) -> None:
    with pytest.raises(RefusedError) as refused:
        _check(repository, repository.assign(TARGET, 4, key=repository.signers["bearing"]))
    assert (refused.value.code, refused.value.executions) == ("assignment.signature", ())


def test_time_does_not_run_back_past_what_was_verified(repository: Repository) -> None:
    now = time.time()
    trust_state = TrustState("device-1", newest_time_seconds=now + 1000)
    with pytest.raises(RefusedError) as refused:
        _check(repository, repository.assign(TARGET, 1), trust_state, now=now - 1e6)
    assert refused.value.code == "assignment.expired"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00\xff",
        b"{}",
        b"[]",
        b"x" * 10_000_000,
        b"[" * 60_000,
        b'{"payload":' * 5000,
        b'{"payload":"%","payloadType":"a","signatures":[]}',
    ],
)
def test_garbage_is_refused_with_a_code(repository: Repository, raw: bytes) -> None:
    with pytest.raises(RefusedError) as refused:
        _check(repository, raw)
    assert refused.value.code == "assignment.malformed"


@given(st.binary(max_size=400))
def test_no_bytes_do_more_than_be_refused(raw: bytes) -> None:
    def verify(_payload: bytes, _signatures: dict[str, Any]) -> None:
        raise ValueError("no")

    with pytest.raises(RefusedError):
        check_assignment(raw, TRUST_STATE, verify, 0.0)


def test_a_known_assignment_needs_no_verifying(repository: Repository) -> None:
    raw = repository.assign(TARGET, 4)
    trust_state = _check(repository, raw).trust_state
    assert is_known(raw, trust_state)
    assert not is_known(raw, TRUST_STATE)
    assert not is_known(raw, replace(trust_state, execution_lost=True))
    assert not is_known(repository.assign(TARGET, 5), trust_state)
    for garbage in (b"", b"{}", raw[:-5], b"x" * 100_000, raw.replace(b'"payload": "', b'"payload": "!')):
        assert not is_known(garbage, trust_state)

"""The pure core: the table, resume, trust rules."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.agent.repository import Repository
from wheeltapper_agent.core.resume import MAX_RESUMES, resume
from wheeltapper_agent.core.trust import IGNORED, Accepted, RefusedError, Standing, check_assignment, is_known
from wheeltapper_agent.core.update import ENTRY_EFFECTS, TABLE, Effect, Event, IllegalTransitionError, step
from wheeltapper_protocols.assignment import PipelineTarget
from wheeltapper_protocols.messages import ExecutionState as S

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


@given(st.one_of(st.sampled_from([state.value for state in S]), st.text()), st.integers(0, 10))
def test_resume_always_has_a_way_to_an_end(state: str, resumes: int) -> None:
    plan = resume(state, resumes)
    if plan is None:
        assert S(state) in _ENDS
    elif plan.event is not None:
        assert resumes >= MAX_RESUMES
        assert (plan.state, plan.event) in TABLE
    else:
        assert plan.effect is ENTRY_EFFECTS[plan.state]


def test_resume_of_the_unknown_rolls_back() -> None:
    plan = resume("DANCING", 0)
    assert plan is not None
    assert (plan.state, plan.effect, plan.reason) == (S.ROLLING_BACK, Effect.ROLL_BACK, "journal.unknown_state")
    assert resume(None, 0) is None


class Machine(RuleBasedStateMachine):
    """Random events, and restarts at any moment: the machine never leaves the table and always ends."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.resumes = S.ASSIGNED, 0

    @rule(data=st.data())
    def event(self, data: Any) -> None:
        possible = [event for (state, event) in TABLE if state is self.state]
        if possible:
            self.state = step(self.state, data.draw(st.sampled_from(possible))).state

    @rule()
    def restart(self) -> None:
        plan = resume(self.state.value, self.resumes)
        self.resumes += 1
        if plan is not None:
            self.state = step(plan.state, plan.event).state if plan.event else plan.state

    @invariant()
    def ends_by_the_cap(self) -> None:
        assert self.state.terminal or self.resumes <= MAX_RESUMES + 2


TestMachine = Machine.TestCase


@pytest.fixture(scope="module")
def repository() -> Repository:
    return Repository()


TARGET = PipelineTarget(model="bearing", release=1, path="releases/bearing/1/manifest.json", length=10, sha256="0" * 64)
STANDING = Standing("device-1", counter=3)


def _check(repository: Repository, raw: bytes, standing: Standing = STANDING, now: float | None = None) -> Any:
    from tuf.api.exceptions import UnsignedMetadataError
    from tuf.api.metadata import Metadata, Targets

    targets = Metadata[Targets].from_bytes(repository.metadata[f"{repository.version}.targets.json"]).signed

    def verify(payload: bytes, signatures: dict[str, Any]) -> None:
        try:
            targets.verify_delegate("director", payload, signatures)
        except UnsignedMetadataError as error:
            raise ValueError(str(error)) from error

    return check_assignment(raw, standing, verify, time.time() if now is None else now)


def test_an_assignment_is_accepted_and_then_ignored(repository: Repository) -> None:
    raw = repository.assign(TARGET, 4)
    found = _check(repository, raw)
    assert isinstance(found, Accepted)
    assert found.standing.counter == 4
    assert _check(repository, raw, found.standing) is IGNORED


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
    assert refused.value.execution == f"e{changes.get('counter', 4)}" or refused.value.execution == "e4"


def test_the_same_counter_with_other_bytes_is_refused(repository: Repository) -> None:
    found = _check(repository, repository.assign(TARGET, 4))
    with pytest.raises(RefusedError) as refused:
        _check(repository, repository.assign(TARGET, 4, execution="other"), found.standing)
    assert refused.value.code == "assignment.counter"


def test_another_key_is_refused_before_anything_is_read(repository: Repository) -> None:
    with pytest.raises(RefusedError) as refused:
        _check(repository, repository.assign(TARGET, 4, key=repository.signers["bearing"]))
    assert (refused.value.code, refused.value.execution) == ("assignment.signature", None)


def test_time_does_not_run_back_past_what_was_verified(repository: Repository) -> None:
    now = time.time()
    standing = Standing("device-1", newest_time_seconds=now + 1000)
    with pytest.raises(RefusedError) as refused:
        _check(repository, repository.assign(TARGET, 1), standing, now=now - 1e6)
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
        check_assignment(raw, STANDING, verify, 0.0)


def test_a_known_assignment_needs_no_verifying(repository: Repository) -> None:
    raw = repository.assign(TARGET, 4)
    standing = _check(repository, raw).standing
    assert is_known(raw, standing)
    assert not is_known(raw, STANDING)
    assert not is_known(raw, replace(standing, lost=True))
    assert not is_known(repository.assign(TARGET, 5), standing)
    for garbage in (b"", b"{}", raw[:-5], b"x" * 100_000, raw.replace(b'"payload": "', b'"payload": "!')):
        assert not is_known(garbage, standing)

"""Assignments, outages, refusing disks and kills in any order: what the device comes to in the end.

The updater is the real one, with its journal in memory; what the states do is played, so that anything can happen in
the midst of each of them.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.update.effect_result import EffectResult
from wheeltapper_agent.update.floors import FloorStore
from wheeltapper_agent.update.inbox import MAX_WAITING, RETRY_CAP_SECONDS, Inbox
from wheeltapper_agent.update.interruption import ExecutionWait, Interrupted
from wheeltapper_agent.update.journal import Execution, Journal, JournalEntry
from wheeltapper_agent.update.machine import Effect, Event
from wheeltapper_agent.update.metadata import VerifiedView
from wheeltapper_agent.update.slots import model_and_release, slot_name
from wheeltapper_agent.update.updater import Updater
from wheeltapper_protocols.wire.assignment import (
    PAYLOAD_TYPE,
    Assignment,
    ExecutionOrder,
    PipelineTarget,
    decode_assignment,
    encode_assignment,
)
from wheeltapper_protocols.wire.ids import manifest_path
from wheeltapper_protocols.wire.messages import ExecutionReport, ExecutionState

PIPELINES = ("one", "two")
UNFIT, UNHEALTHY = 8, 9
"""Releases that do not pass their self-test, and their probation."""
PASSING = {
    Effect.AWAIT_CONDITIONS: Event.CONDITIONS_MET,
    Effect.FETCH: Event.FETCHED,
    Effect.VERIFY_AND_STAGE: Event.VERIFIED,
    Effect.BEGIN_SELF_TEST: Event.TEST_STARTED,
    Effect.SHADOW: Event.SHADOWED,
}


@pytest.fixture(scope="module", autouse=True)
def _impatient() -> Iterator[None]:
    """A commit that the disk refuses is tried again at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wheeltapper_agent.update.updater._REPORT_RETRY_SECONDS", 0.001)
        yield


class Killed(BaseException):
    """The process is gone."""


def target(release: int) -> PipelineTarget:
    path = manifest_path("bearing", release)
    return PipelineTarget(model="bearing", release=release, path=path, length=10, sha256=f"{release:064x}")


def envelope(assignment: Assignment) -> bytes:
    payload = base64.b64encode(encode_assignment(assignment)).decode()
    return json.dumps(
        {"payload": payload, "payloadType": PAYLOAD_TYPE, "signatures": [{"keyid": "a", "sig": "AAAA"}]}
    ).encode()


def ignore(*_args: Any, **_options: Any) -> None:
    return


class Steps:
    """A clock that never stands still, so that whatever waits comes soon."""

    def __init__(self) -> None:
        self.seconds = 1e6

    def now(self) -> float:
        return 1.7e9

    def monotonic(self) -> float:
        self.seconds += RETRY_CAP_SECONDS
        return self.seconds


class MemoryJournal(Journal):
    """Keeps its bytes in the world, and looks at each commit."""

    def __init__(self, world: World) -> None:
        super().__init__(Path("nowhere"))
        self._world = world

    def read(self) -> JournalEntry:
        return msgspec.json.decode(self._world.journal, type=JournalEntry)

    def write(self, entry: JournalEntry) -> None:
        world = self._world
        if world.refusals:
            world.refusals -= 1
            raise AgentError("storage.full", "planted")
        world.writes_left -= 1
        dies = world.writes_left == 0
        if dies and world.kill_before:
            raise Killed
        execution, before = entry.execution, self.read().execution
        if execution is not None and execution.state == "COMMITTED" and (before is None or not before.ended):
            assert execution.id in world.named(entry.counter), "a withdrawn release was committed"
        world.accepted.add(entry.counter)
        world.journal = msgspec.json.encode(entry)
        if dies:
            raise Killed


class World:
    """A device, its disk, its broker and its fleet's web server."""

    def __init__(self, happenings: list[Callable[[World], None]]) -> None:
        self.happenings = happenings
        self.assignments: list[Assignment] = []
        self.accepted: set[int] = set()
        self.journal = msgspec.json.encode(JournalEntry())
        self.floors = FloorStore(())
        self.runs: dict[str, int | None] = dict.fromkeys(PIPELINES, None)
        self.before = dict(self.runs)
        """By pipeline: what was committed last."""
        self.reports: list[ExecutionReport] = []
        self.metadata_down = self.spool_full = False
        self.refusals = 0
        """So many writes of the journal the disk still refuses."""
        self.writes_left, self.kill_before = 0, False
        """The process is killed at so many writes of the journal from now, before or after it; 0: at none."""
        self.start()

    def named(self, counter: int) -> set[str]:
        found = [one for one in self.assignments if one.counter == counter]
        return {order.execution for one in found for order in one.executions}

    # --- what the updater is given ------------------------------------------------------------------------------------

    def start(self) -> None:
        clock = Steps()
        self.wait = ExecutionWait(clock)
        running = SimpleNamespace(
            running_slots=lambda targets: {name: self._slot(self.runs[name]) for name in targets},
            baseline=lambda _targets: {},
            exclude=ignore,
            exclude_if_unfinished=ignore,
            finish_rolling_back=ignore,
            raise_floors=self._committed,
        )
        config = SimpleNamespace(deadline_seconds=0.0, probation_max_deaths=100)
        effects = SimpleNamespace(
            running=running, config=config, wait=self.wait, do=self.do, finish=ignore, report=ignore
        )
        self.updater = Updater(
            "device-1",
            MemoryJournal(self),
            cast(Any, self),
            cast(Any, effects),
            self.floors,
            cast(Any, self),
            clock,
            0.001,
            lambda: None,
        )
        if self.assignments:  # what the broker retained
            self.updater.assign(envelope(self.assignments[-1]))

    def refresh(self, *_args: Any) -> VerifiedView:
        if self.metadata_down:
            raise AgentError("fetch.unreachable", "planted")
        view = SimpleNamespace(expires_at_seconds=math.inf, verify_director=lambda *_args: None)
        return cast(VerifiedView, view)

    def append(self, *items: Any) -> None:
        if self.spool_full:
            raise OSError("planted")
        self.reports += [item.body for item in items if isinstance(item.body, ExecutionReport)]

    # --- what the states do -------------------------------------------------------------------------------------------

    def do(self, effect: Effect, execution: Execution, _now_seconds: float) -> EffectResult:
        if self.happenings:
            self.happenings.pop(0)(self)
        if effect not in (Effect.ACTIVATE, Effect.ROLL_BACK) and self.wait.interrupted(execution):
            raise Interrupted
        targets = {name: one.release for name, one in execution.targets.items()}
        event = PASSING.get(effect)
        if effect is Effect.ACCEPT:
            active = all(self.runs[name] == release for name, release in targets.items())
            event = Event.ALREADY_ACTIVE if active else Event.ACCEPTED
        elif effect is Effect.SELF_TEST:
            event = Event.REFUSED if UNFIT in targets.values() else Event.TEST_PASSED
        elif effect is Effect.ACTIVATE:
            self.runs |= targets
            event = Event.ACTIVATED
        elif effect is Effect.OBSERVE:
            active = all(self.runs[name] == release for name, release in targets.items())
            event = Event.HEALTHY if active and UNHEALTHY not in targets.values() else Event.BROKE
        elif effect is Effect.ROLL_BACK:
            self.runs |= {name: self._release(slot) for name, slot in execution.before.items()}
            return EffectResult(Event.RESTORED, execution.code, execution.detail)
        assert event is not None
        return EffectResult(event)

    @staticmethod
    def _slot(release: int | None) -> str | None:
        return None if release is None else slot_name(target(release))

    @staticmethod
    def _release(slot: str | None) -> int | None:
        return None if slot is None else model_and_release(slot)[1]

    def _committed(self, execution: Execution) -> None:
        self.before |= {name: one.release for name, one in execution.targets.items()}

    # --- what happens -------------------------------------------------------------------------------------------------

    def assign(self, orders: Mapping[str, tuple[str, ...]], releases: Mapping[str, int]) -> None:
        executions = [
            ExecutionOrder(execution=one, campaign="c1", pipelines=list(names)) for one, names in orders.items()
        ]
        assignment = Assignment(
            device="device-1",
            counter=len(self.assignments) + 1,
            issued_at=1.7e9,
            expires_at=1.8e9,
            pipelines={name: target(release) for name, release in releases.items()},
            executions=executions,
        )
        assert decode_assignment(encode_assignment(assignment)) == assignment
        self.assignments.append(assignment)
        self.updater.assign(envelope(assignment))

    def run(self, resume: bool) -> None:
        """Let the updater work until it has nothing to do, or is killed and starts again, as often as that comes."""
        while True:
            try:
                if resume:
                    self.updater._resume()
                self.updater.work()
                return
            except Killed:
                while True:
                    try:
                        self.start()
                        break
                    except Killed:
                        pass
                resume = True


# --- happenings -------------------------------------------------------------------------------------------------------


@st.composite
def assigned(draw: st.DrawFn) -> Callable[[World], None]:
    """A newer assignment: names again what the one before named, or calls it off, and may bring something new."""
    kept = draw(st.booleans())
    new = draw(st.lists(st.sampled_from([("one",), ("two",), ("one", "two")]), max_size=2, unique=True))
    wanted = draw(st.sampled_from([2, 3, 4, UNFIT, UNHEALTHY]))
    order = draw(st.booleans())

    def happen(world: World) -> None:
        before = world.assignments[-1] if world.assignments else None
        orders: dict[str, tuple[str, ...]] = {}
        releases = dict.fromkeys(PIPELINES, 2)
        if before is not None:
            releases = {name: one.release for name, one in before.pipelines.items() if one is not None}
        taken: set[str] = set()
        for number, names in enumerate(new):
            if not taken & set(names):
                orders[f"e{len(world.assignments) + 1}-{number}"] = names
                releases |= dict.fromkeys(names, wanted)
                taken |= set(names)
        if kept and before is not None:
            again = {each.execution: tuple(each.pipelines) for each in before.executions}
            again = {one: names for one, names in again.items() if not taken & set(names)}
            orders = orders | again if order else again | orders
        world.assign(orders, releases)

    return happen


def repeated(index: int) -> Callable[[World], None]:
    def happen(world: World) -> None:
        if world.assignments:
            world.updater.assign(envelope(world.assignments[index % len(world.assignments)]))

    return happen


def switched(name: str) -> Callable[[World], None]:
    def happen(world: World) -> None:
        setattr(world, name, not getattr(world, name))

    return happen


def refused(count: int) -> Callable[[World], None]:
    def happen(world: World) -> None:
        world.refusals = count

    return happen


def later(steps: int) -> Callable[[World], None]:
    """Nothing, for some states, so that what comes then comes late in an execution."""

    def happen(world: World) -> None:
        world.happenings = [ignore] * steps + world.happenings

    return happen


def killed(_world: World) -> None:
    raise Killed


def killed_in_write(when: tuple[int, bool]) -> Callable[[World], None]:
    def happen(world: World) -> None:
        world.writes_left, world.kill_before = when

    return happen


COMMON = (
    assigned()
    | st.integers(0, 9).map(repeated)
    | st.just(switched("metadata_down"))
    | st.just(switched("spool_full"))
    | st.integers(1, 9).map(later)
)
KILLS = st.just(killed) | st.tuples(st.integers(1, 6), st.booleans()).map(killed_in_write)


def played(happenings: list[Callable[[World], None]]) -> World:
    """The world after all of ``happenings`` and some quiet time in which everything works."""
    world = World([])
    world.updater._resume()
    while happenings:
        world.happenings = happenings[1:]
        try:
            happenings[0](world)
        except Killed:
            world.start()
            world.run(resume=True)
        else:
            world.run(resume=False)
        happenings = world.happenings
    world.metadata_down = world.spool_full = False
    world.refusals = world.writes_left = 0
    for _ in range(3):
        world.run(resume=False)
    return world


def check(world: World) -> None:
    entry = world.updater.entry
    assert entry.counter == len(world.assignments), "the newest assignment was lost"
    assert world.runs == world.before, "a pipeline runs what was not committed"
    named = {one for counter in world.accepted for one in world.named(counter)}
    ends: dict[str, set[str]] = {one: set() for one in named}
    for report in world.reports:
        if report.state.terminal:
            ends[report.execution].add(report.state.value)
    assert all(len(states) == 1 for states in ends.values()), ends
    last = {report.execution: report.state for report in world.reports}
    assert all(state.terminal for state in last.values()), last
    newest = world.assignments[-1] if world.assignments else None
    for order in newest.executions if newest else []:
        if ends[order.execution] == {ExecutionState.COMMITTED.value}:
            continue
        assert newest is not None
        unfit = any(one.release in (UNFIT, UNHEALTHY) for one in newest.targets(order).values())
        called_off = any(
            order.execution not in world.named(counter)
            for counter in world.accepted
            if any(order.execution in world.named(before) for before in world.accepted if before < counter)
        )
        assert unfit or called_off, f"{order.execution} was not carried out: {ends[order.execution]}"


@settings(max_examples=200, deadline=None)
@given(st.lists(COMMON | KILLS, max_size=25))
def test_any_order_of_assignments_outages_and_kills(happenings: list[Callable[[World], None]]) -> None:
    check(played(happenings))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 8).map(refused) | COMMON, max_size=20))
def test_any_order_with_a_disk_that_refuses(happenings: list[Callable[[World], None]]) -> None:
    """What is accepted while the disk refuses is written later; executions may fail for it, but none is left."""
    world = played(happenings)
    assert world.updater.entry.counter == len(world.assignments)
    assert MemoryJournal(world).read() == world.updater.entry, "the journal is behind"
    assert world.runs == world.before
    ends = [report.execution for report in world.reports if report.state.terminal]
    assert {report.execution for report in world.reports} == set(ends)


# --- the inbox alone --------------------------------------------------------------------------------------------------


class InboxModel(RuleBasedStateMachine):
    """Whatever happens, an assignment that was not judged has a time at which it is."""

    def __init__(self) -> None:
        super().__init__()
        self.inbox, self.now = Inbox(2.0), 0.0
        self.left: list[bytes] = []

    @rule(number=st.integers(0, 12))
    def put(self, number: int) -> None:
        envelope = str(number).encode()
        self.inbox.put(envelope)
        self.left = ([one for one in self.left if one != envelope] + [envelope])[-MAX_WAITING:]
        assert self.inbox.due(self.now) == envelope

    @rule(seconds=st.floats(0.0, 200.0))
    def later(self, seconds: float) -> None:
        self.now += seconds

    @rule(postponed=st.booleans(), uniform=st.floats(0.0, 1.0))
    def judge(self, postponed: bool, uniform: float) -> None:
        envelope = self.inbox.due(self.now)
        if envelope is None:
            return
        if postponed:
            self.inbox.postpone(envelope, self.now, uniform)
        else:
            self.inbox.remove(envelope)
            self.left.remove(envelope)

    @invariant()
    def each_has_its_time(self) -> None:
        due = self.inbox.next_due_seconds
        assert (due is not None) == bool(self.left)
        assert due is None or due <= self.now + 1.5 * RETRY_CAP_SECONDS

    def teardown(self) -> None:
        """None was lost."""
        found: list[bytes] = []
        while (envelope := self.inbox.due(self.now + 1.5 * RETRY_CAP_SECONDS)) is not None:
            found.append(envelope)
            self.inbox.remove(envelope)
        assert sorted(found) == sorted(self.left)


TestInbox = InboxModel.TestCase

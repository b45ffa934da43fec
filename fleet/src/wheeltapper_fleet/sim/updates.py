"""The executions of one simulated device: what its assignment says, carried out with the faults of its updates. Pure.

Invariants:
    * An assignment replaces the one before whole: what it does not name is called off.
    * One execution is under way at a time, in the order of the assignment; each ends once.

What this module does not do: judge signatures (:mod:`assignments`), send reports (:mod:`device`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Protocol

from msgspec import Struct

from wheeltapper_fleet.sim import faults as f
from wheeltapper_fleet.sim.assignments import RefusedError
from wheeltapper_fleet.sim.behaviour import Behaviour
from wheeltapper_fleet.sim.update import Execution, step_seconds
from wheeltapper_protocols.wire.assignment import Assignment, PipelineTarget
from wheeltapper_protocols.wire.messages import ExecutionReport, ExecutionState

__all__ = ["Host", "Memory", "Metadata", "Updates"]

_MAX_ENDED: Final = 128
_LOOK_AGAIN_SECONDS: Final = 0.5
_WITHDRAWN: Final = "update.withdrawn"


class Memory(Struct, kw_only=True):
    """What a device remembers from one run of the simulator to the next."""

    life: int = 0
    """How many runs it has been part of; each begins a new epoch of its spool."""
    counter: int = 0
    payload_sha256: str = ""
    running: dict[str, tuple[str, int]] = {}
    """By pipeline: model and release."""
    ended: dict[str, str] = {}
    """The newest executions that ended, by id: their states."""


class Metadata(Protocol):
    """The verified TUF metadata, as :mod:`trust` shares them among all devices."""

    def verify_director(self, payload: bytes, signatures: dict[str, Any]) -> None:
        """Raises ValueError."""

    def disagreement(self, target: PipelineTarget) -> str | None:
        """Why the release is not one that its team signed; empty: it is; None: that is being found out."""


class Host(Protocol):
    """What the executions of a device need from it."""

    def report(self, body: ExecutionReport, now: float, later_seconds: float = 0.0) -> None:
        """Write a report into the spool, now or later."""

    def changed(self, now: float) -> None:
        """What a status shows is another now."""

    def hang_up(self, seconds: float | None) -> None:
        """Cut the connection, for so long or for good."""

    def die(self, until: float) -> None:
        """Be without a process until then."""


class Updates:
    """The executions of one device.

    Args:
        device: its name.
        behaviour: what all devices have in common.
        faults: its own.
        memory: what it remembers.
        metadata: the verified TUF metadata.
        host: the device.
    """

    def __init__(
        self,
        device: str,
        behaviour: Behaviour,
        faults: Sequence[f.Fault],
        memory: Memory,
        metadata: Metadata,
        host: Host,
    ) -> None:
        self._device, self._behaviour, self._host = device, behaviour, host
        self._faults = [each for each in faults if isinstance(each, f.UPDATE_FAULTS)]
        self._memory, self._metadata = memory, metadata
        self._executions: list[Execution] = []
        self._dead = False
        self.ends: list[tuple[int, str]] = []
        """Executions that ended in this run: the release and the state, as the device sees it."""

    @property
    def newest(self) -> tuple[str, ExecutionState | None] | None:
        """The execution under way, else the one that ended last, with its state."""
        if self._executions:
            return self._executions[0].order.execution, self._executions[0].state
        last = next(reversed(self._memory.ended), None)
        return None if last is None else (last, ExecutionState(self._memory.ended[last]))

    def next_at(self) -> float:
        """Unix time at which :meth:`carry_out` has something to do."""
        if not self._executions:
            return math.inf
        return min(self._executions[0].until, self._deadline(self._executions[0]))

    def check_willing(self, assignment: Assignment) -> None:
        """Raise RefusedError where the fault ``refuse`` concerns a new execution."""
        known = {each.order.execution for each in self._executions} | set(self._memory.ended)
        for order in assignment.executions:
            targets = assignment.targets(order)
            release = next(iter(targets.values())).release
            fault = self._update_fault(release)
            if isinstance(fault, f.Refuse) and order.execution not in known:
                executions = tuple(each.execution for each in assignment.executions)
                raise RefusedError(
                    fault.code, f"assignment {assignment.counter} is refused by a fault", executions, release
                )

    def take_over(self, assignment: Assignment, now: float) -> None:
        """Do what ``assignment`` says from now on; its signature holds."""
        named = {order.execution for order in assignment.executions}
        taken = {pipeline for order in assignment.executions for pipeline in order.pipelines}
        for execution in [each for each in self._executions if each.order.execution not in named]:
            if execution.activated:
                self._end(execution, ExecutionState.ROLLED_BACK, _WITHDRAWN, now)
            elif execution.state is None and taken & set(execution.order.pipelines):
                self._end(execution, ExecutionState.SUPERSEDED, "update.superseded", now)
            else:
                self._end(execution, ExecutionState.CANCELLED, _WITHDRAWN, now)
        known = {each.order.execution for each in self._executions}
        for order in assignment.executions:
            ended = self._memory.ended.get(order.execution)
            if ended is not None:
                self._host.report(ExecutionReport(execution=order.execution, state=ExecutionState(ended)), now)
            elif order.execution not in known:
                self._executions.append(Execution(order, assignment.targets(order), until=now))

    def cancel(self, name: str, now: float) -> None:
        """End an execution that is not active yet, because a command says so."""
        for execution in [each for each in self._executions if each.order.execution == name]:
            if not execution.activated:
                self._end(execution, ExecutionState.CANCELLED, "update.cancelled", now)

    def carry_out(self, now: float) -> None:
        """Bring the executions as far as they are at ``now``, one after the other."""
        while self._executions and not self._dead:
            execution = self._executions[0]
            if now >= self._deadline(execution):
                self._end(execution, ExecutionState.FAILED, "update.deadline", now)
            elif execution.until > now:
                return
            else:
                self._step(execution, now)

    def _deadline(self, execution: Execution) -> float:
        deadline = execution.order.deadline
        hanging = execution.until == math.inf
        return deadline if isinstance(deadline, float) and not (execution.activated or hanging) else math.inf

    def _step(self, execution: Execution, now: float) -> None:
        """The work of the execution's state is done."""
        fault, state = self._update_fault(execution.release), execution.state
        if isinstance(fault, f.Kill) and fault.side == "after" and self._killed(execution, fault, now):
            return
        match state, fault:
            case ExecutionState.FETCHING, f.DiskFull():
                self._end(execution, ExecutionState.FAILED, "storage.full", now)
                return
            case ExecutionState.SELF_TEST, f.FailSelfTest():
                self._end(execution, ExecutionState.REJECTED, "self_test.golden", now)
                return
            case ExecutionState.PROBATION, f.RollBack():
                self._end(execution, ExecutionState.ROLLED_BACK, "probation.score_shift", now)
                return
        if state is ExecutionState.VERIFYING and not self._verified(execution, now):
            return
        if state is ExecutionState.ACTIVATING and not isinstance(fault, f.Lie):
            execution.before = {name: self._memory.running.get(name) for name in execution.targets}
            for name, target in execution.targets.items():
                self._memory.running[name] = (target.model, target.release)
            self._host.changed(now)
        following = execution.following(shadow=any(name in self._memory.running for name in execution.targets))
        if following.terminal:
            self._end(execution, following, "", now)
        else:
            self._enter(execution, following, now)

    def _enter(self, execution: Execution, state: ExecutionState, now: float) -> None:
        execution.state = state
        behaviour, fault = self._behaviour, self._update_fault(execution.release)
        name = execution.order.execution
        execution.until = now + step_seconds(behaviour.seed, self._device, name, state, behaviour.update_seconds)
        self._host.report(ExecutionReport(execution=name, state=state), now)
        match fault:
            case f.Hang(state=where, seconds=seconds) if where == state.value:
                execution.until = math.inf if seconds is None else execution.until + seconds
            case f.Vanish(state=where, seconds=seconds) if where == state.value:
                self._host.hang_up(seconds)
                if seconds is None:
                    execution.until = math.inf
            case f.Kill(side="before"):
                self._killed(execution, fault, now)

    def _killed(self, execution: Execution, fault: f.Kill, now: float) -> bool:
        """Kill the process once, if the execution is where the fault wants it; returns whether it was."""
        if execution.killed or execution.state is None or execution.state.value != fault.state:
            return False
        execution.killed = True
        self._dead = True
        self._host.die(now + fault.seconds)
        self._host.hang_up(fault.seconds)
        return True

    def resume(self, now: float) -> None:
        """The process starts again, from its journal, in which the state's work counts as not done."""
        self._dead = False
        if self._executions and self._executions[0].state is not None:
            self._enter(self._executions[0], self._executions[0].state, now)

    def _verified(self, execution: Execution, now: float) -> bool:
        """Whether the team's metadata name what the assignment names; if not, or not yet, the execution is told so."""
        for target in execution.targets.values():
            reason = self._metadata.disagreement(target)
            if reason is None:
                execution.until = now + _LOOK_AGAIN_SECONDS
                return False
            if reason:
                self._end(execution, ExecutionState.REJECTED, reason, now)
                return False
        return True

    def _end(self, execution: Execution, state: ExecutionState, code: str, now: float) -> None:
        self._executions.remove(execution)
        name, fault = execution.order.execution, self._update_fault(execution.release)
        if state is ExecutionState.ROLLED_BACK:
            for pipeline, before in execution.before.items():
                if before is None:
                    self._memory.running.pop(pipeline, None)
                else:
                    self._memory.running[pipeline] = before
            self._host.report(ExecutionReport(execution=name, state=ExecutionState.ROLLING_BACK, code=code), now)
        ended = self._memory.ended
        ended[name] = state.value
        for oldest in list(ended)[: max(0, len(ended) - _MAX_ENDED)]:
            del ended[oldest]
        self.ends.append((execution.release, state.value))
        report = ExecutionReport(execution=name, state=state, code=code)
        self._host.report(report, now, fault.seconds if isinstance(fault, f.AnswerLate) else 0.0)
        self._host.changed(now)

    def _update_fault(self, release: int) -> f.Fault | None:
        return next((each for each in self._faults if each.concerns(release)), None)

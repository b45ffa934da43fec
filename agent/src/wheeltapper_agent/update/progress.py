"""Where the device stands with its executions: in memory, in the journal and in the reports to the fleet.

Invariants:
    * A state is journalled before its effect is begun and before it is reported. An end that was journalled but perhaps
      not reported is reported again after a restart.
    * An assignment that was accepted holds at once, also where the disk refuses the journal.
    * What the disk refused is written with the next change, or by :meth:`ExecutionProgress.settle`.
    * Where the disk refuses the journal, states of the way back (ROLLING_BACK and the terminal ones but COMMITTED) are
      entered all the same: a restart that finds the state before comes to the same end. Every other state is not
      entered, and the caller is told.
    * Counter, newest time and rollback floors outlive the journal (:mod:`wheeltapper_agent.update.floors`).
    * The deadline counts seconds since the assignment, by the monotonic clock while the agent runs; for the time
      between two lives of the agent see :mod:`wheeltapper_agent.update.deadline`.

What this module does not do: decide which state comes next (:mod:`wheeltapper_agent.update.updater`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.system_clock import since_boot
from wheeltapper_agent.update import desired
from wheeltapper_agent.update.deadline import Moment, allowed_seconds, downtime_seconds
from wheeltapper_agent.update.effect_result import EffectResult
from wheeltapper_agent.update.floors import Floors, FloorStore
from wheeltapper_agent.update.journal import Execution, Journal, JournalEntry, PlannedExecution
from wheeltapper_agent.update.reports import ReportQueue
from wheeltapper_agent.update.trust import Accepted, TrustState, effective_now
from wheeltapper_protocols.errors import brief
from wheeltapper_protocols.wire.messages import ExecutionReport, ExecutionState

__all__ = ["ExecutionProgress"]

_LOG = logging.getLogger(__name__)
_JOURNAL_ATTEMPTS: Final = 3
_STATES: Final = frozenset(state.value for state in ExecutionState)


def _floors_of(entry: JournalEntry) -> Floors:
    return Floors(
        counter=entry.counter, payload_sha256=entry.payload_sha256, newest_time_seconds=entry.newest_time_seconds
    )


class ExecutionProgress:
    """The journal's entry as it stands, and the only place that changes it. Used by the updater's thread.

    Args:
        device: id of this device.
        journal: where the entry is kept over restarts.
        floors: what outlives the journal.
        reports: where reports go.
        clock: time.
        retry_seconds: how long to wait before a journal that the disk refused is written again; at most a second.
        stopping: set when the agent stops; no wait goes on then.
        on_change: called after each state that was reported.
    """

    def __init__(
        self,
        device: str,
        journal: Journal,
        floors: FloorStore,
        reports: ReportQueue,
        clock: Clock,
        retry_seconds: float,
        stopping: threading.Event,
        on_change: Callable[[], None],
    ) -> None:
        self._device = device
        self._journal = journal
        self._floors = floors
        self._reports = reports
        self._clock = clock
        self._retry_seconds = retry_seconds
        self._stopping = stopping
        self._on_change = on_change
        entry = journal.read()
        self._execution_lost = entry.counter < floors.current.counter
        """The journal lost the newest assignment, which the floors remember."""
        floors.raise_to(_floors_of(entry))
        self._entry = msgspec.structs.replace(
            entry,
            counter=floors.current.counter,
            payload_sha256=floors.current.payload_sha256,
            newest_time_seconds=floors.current.newest_time_seconds,
            planned=[] if self._execution_lost else entry.planned,
        )
        execution = entry.execution
        if execution is not None and execution.ended and execution.id not in {one.id for one in entry.ended}:
            # written by an earlier version, which remembered the newest only
            self._entry = desired.end(self._entry, ExecutionState(execution.state), execution.code, execution.detail)
        self._unsaved = False
        """The disk refused what is in memory."""
        self._in_queue: set[str] = set()
        """Ids of executions whose ends are reported, but not yet noted as such."""
        self._since_seconds = clock.monotonic()
        """Monotonic time at which the execution's ``spent_seconds`` were last brought up to date."""

    # --- reading ------------------------------------------------------------------------------------------------------

    @property
    def entry(self) -> JournalEntry:
        """The journal's entry as it stands."""
        return self._entry

    @property
    def execution(self) -> Execution | None:
        """The execution that is under way or ended last; None before the first one."""
        return self._entry.execution

    @property
    def under_way(self) -> Execution | None:
        """The execution that has begun and has not ended."""
        return desired.under_way(self._entry)

    @property
    def planned(self) -> PlannedExecution | None:
        """The execution that is begun next."""
        return next(iter(self._entry.planned), None)

    @property
    def unsaved(self) -> bool:
        """Whether the disk refused what :meth:`settle` shall write."""
        return self._unsaved

    def trust_state(self) -> TrustState:
        """What the rules for assignments need to know of those that were accepted before."""
        return desired.accepted_before(self._entry, self._device, self._execution_lost)

    def now_seconds(self) -> float:
        """Unix time to judge expiry by: the clock's, but never before the newest verified time."""
        return effective_now(self._clock.now(), self.trust_state())

    def expired(self, execution: Execution) -> bool:
        """Whether the deadline of ``execution`` passed."""
        allowed = execution.deadline_seconds
        return allowed > 0 and self._spent_seconds(execution) >= allowed

    def downtime_seconds(self, execution: Execution) -> float:
        """Seconds from the last write of ``execution`` to now, in which the agent did not run."""
        then = Moment(execution.at, execution.boot, execution.boot_seconds)
        return downtime_seconds(then, self._moment(), self._entry.newest_time_seconds)

    def _moment(self) -> Moment:
        return Moment(self._clock.now(), *since_boot())

    def _spent_seconds(self, execution: Execution) -> float:
        return execution.spent_seconds + self._clock.monotonic() - self._since_seconds

    # --- changing -----------------------------------------------------------------------------------------------------

    def accept(self, accepted: Accepted) -> None:
        """Take over an accepted assignment, and report the ends that it leads to or asks for."""
        self._entry = desired.take_over(self._entry, accepted)
        self._execution_lost = False
        self._unsaved = True
        self.settle()
        self._on_change()

    def begin(self, deadline_seconds: float) -> None:
        """Begin the next planned execution, in memory only; :meth:`enter` journals it.

        Args:
            deadline_seconds: what the device allows from now to the activation; 0: no limit.
        """
        allowed = allowed_seconds(deadline_seconds, self._entry.planned[0].deadline, self.now_seconds())
        self._entry = desired.begin_next(self._entry, allowed)
        self._since_seconds = self._clock.monotonic()

    def enter(self, state: ExecutionState, result: EffectResult) -> None:
        """Journal ``state``, then report it.

        Raises:
            AgentError: ``storage.*``: the disk refused the journal, and the state must not be begun without it.
                Nothing changed.
        """
        code, detail = result.code[:80], brief(result.detail, 1000)
        changes: dict[str, object] = {"code": code, "detail": detail}
        if self._entry.execution is not None and self._entry.execution.state != state.value:
            changes |= {"state": state.value, "resumes": 0}
        since_seconds = self._clock.monotonic()
        entry = self._changed(since_seconds, changes)
        if state.terminal:
            entry = desired.end(entry, state, code, detail)
        try:
            self._write(entry, since_seconds)
        except AgentError as error:
            if not (state.terminal or state is ExecutionState.ROLLING_BACK) or state is ExecutionState.COMMITTED:
                raise
            _LOG.error("updater: %s is entered although it cannot be journalled: %s", state.value, error)
            self._entry, self._since_seconds, self._unsaved = entry, since_seconds, True
        if state.terminal:
            self._in_queue.add(entry.ended[-1].id)
        self._report(state, result)

    def _report(self, state: ExecutionState, result: EffectResult) -> None:
        execution = self._entry.execution
        assert execution is not None
        log = _LOG.warning if result.code else _LOG.info
        log("execution %s: %s %s %s", execution.id, state.value, result.code, result.detail)
        self._reports.add(
            ExecutionReport(
                execution=execution.id,
                state=state,
                code=result.code[:80],
                detail=brief(result.detail, 1000),
                metrics=result.metrics,
            )
        )
        self._note_reported()
        self._on_change()

    def settle(self) -> None:
        """Try again to write what the disk refused, and to report the ends that were not reported."""
        if self._unsaved:
            try:
                self._write(self._entry, self._since_seconds, attempts=1)
            except AgentError as error:
                _LOG.info("updater: the journal is behind what holds in memory, and is written again: %s", error)
        for one in self._entry.ended:
            if not one.reported and one.id not in self._in_queue and one.end in _STATES:
                _LOG.info("execution %s: ended as %s %s %s", one.id, one.end, one.code, one.detail)
                self._in_queue.add(one.id)
                self._reports.add(
                    ExecutionReport(execution=one.id, state=ExecutionState(one.end), code=one.code, detail=one.detail)
                )
        self._note_reported()

    def _note_reported(self) -> None:
        """Journal which ends were reported, if no report waits."""
        if self._reports.pending or not self._in_queue:
            return
        entry = desired.reported(self._entry, self._in_queue)
        self._in_queue.clear()
        try:
            self._write(entry, self._since_seconds)
        except AgentError as error:
            _LOG.error("updater: an end will be reported again after a restart: %s", error)
            self._entry, self._unsaved = entry, True

    def change(self, **changes: object) -> None:
        """Change fields of the execution in the journal, then in memory. Time is brought up to date with them.

        Raises:
            AgentError: ``storage.*``: the disk refused several times. Nothing changed.
        """
        since_seconds = self._clock.monotonic()
        self._write(self._changed(since_seconds, changes), since_seconds)

    def _changed(self, since_seconds: float, changes: Mapping[str, object]) -> JournalEntry:
        """The entry with other fields of the execution, and the time up to the monotonic ``since_seconds``."""
        execution = self._entry.execution
        assert execution is not None
        now = self._moment()
        passed: dict[str, object] = {"at": now.wall_seconds, "boot": now.boot, "boot_seconds": now.boot_seconds}
        passed |= {"spent_seconds": execution.spent_seconds + since_seconds - self._since_seconds}
        execution = msgspec.structs.replace(execution, **(passed | dict(changes)))
        return msgspec.structs.replace(self._entry, execution=execution)

    def _write(self, entry: JournalEntry, since_seconds: float, attempts: int = _JOURNAL_ATTEMPTS) -> None:
        """Write ``entry``, which then holds, and raise the floors to it.

        The floors come after the journal: killed in between, the journal has the higher counter and its executions.

        Raises:
            AgentError: ``storage.*``: the disk refused as often as ``attempts`` says. Nothing changed.
        """
        before = self._entry, self._since_seconds
        self._entry, self._since_seconds = entry, since_seconds
        for attempt in range(attempts):
            try:
                self._journal.write(entry)
            except AgentError:
                if attempt == attempts - 1:
                    self._entry, self._since_seconds = before
                    raise
                self._stopping.wait(min(self._retry_seconds, 1.0) * 2**attempt)
            else:
                break
        self._unsaved = False
        if entry.counter > self._floors.current.counter:
            self._floors.raise_to(_floors_of(entry))

    def remember(self, **changes: object) -> None:
        """Change fields of the execution in memory only."""
        assert self._entry.execution is not None
        execution = msgspec.structs.replace(self._entry.execution, **changes)
        self._entry = msgspec.structs.replace(self._entry, execution=execution)

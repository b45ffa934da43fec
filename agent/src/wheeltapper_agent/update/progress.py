"""Where the device stands with its execution: in memory, in the journal and in the reports to the fleet.

Invariants:
    * A state is journalled before its effect is begun and before it is reported. A terminal state that was journalled
      but perhaps not reported is reported again after a restart.
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
from collections.abc import Callable
from typing import Final

import msgspec

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.system_clock import since_boot
from wheeltapper_agent.update.deadline import Moment, allowed_seconds, downtime_seconds
from wheeltapper_agent.update.effect_result import EffectResult
from wheeltapper_agent.update.floors import Floors, FloorStore
from wheeltapper_agent.update.journal import Execution, Journal, JournalEntry
from wheeltapper_agent.update.reports import ReportQueue
from wheeltapper_agent.update.trust import Accepted, TrustState, effective_now
from wheeltapper_protocols.errors import brief
from wheeltapper_protocols.wire.messages import ExecutionReport, ExecutionState

__all__ = ["ExecutionProgress"]

_LOG = logging.getLogger(__name__)
_JOURNAL_ATTEMPTS: Final = 3


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
        )
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

    def trust_state(self) -> TrustState:
        """What the rules for assignments need to know of those that were accepted before."""
        entry = self._entry
        return TrustState(
            self._device,
            entry.counter,
            entry.payload_sha256,
            entry.newest_time_seconds,
            execution_lost=self._execution_lost,
        )

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

    def begin(self, accepted: Accepted, deadline_seconds: float) -> None:
        """Take over an accepted assignment, in memory only; :meth:`enter` journals it.

        Args:
            accepted: the assignment, and what to remember of it.
            deadline_seconds: what the device allows from the assignment to the activation; 0: no limit.
        """
        assignment, trust_state = accepted.assignment, accepted.trust_state
        order = assignment.executions[0]
        self._entry = JournalEntry(
            counter=trust_state.counter,
            payload_sha256=trust_state.payload_sha256,
            newest_time_seconds=trust_state.newest_time_seconds,
            execution=Execution(
                id=order.execution,
                campaign=order.campaign,
                state=ExecutionState.ASSIGNED.value,
                targets=assignment.targets(order),
                deadline_seconds=allowed_seconds(
                    deadline_seconds,
                    order.deadline if isinstance(order.deadline, float) else None,
                    effective_now(self._clock.now(), trust_state),
                ),
            ),
        )
        self._since_seconds = self._clock.monotonic()
        self._execution_lost = False

    def raise_floors(self) -> None:
        """Raise counter and newest time in the floors to those of the entry, which is journalled already."""
        self._floors.raise_to(_floors_of(self._entry))

    def enter(self, state: ExecutionState, result: EffectResult) -> None:
        """Journal ``state``, then report it.

        Raises:
            AgentError: ``storage.*``: the disk refused the journal, and the state must not be begun without it.
                Nothing changed.
        """
        changes: dict[str, object] = {"code": result.code[:80], "detail": brief(result.detail, 1000)}
        if self._entry.execution is not None and self._entry.execution.state != state.value:
            changes |= {"state": state.value, "resumes": 0}
        try:
            self.change(**changes, reported=not state.terminal)
        except AgentError as error:
            if not (state.terminal or state is ExecutionState.ROLLING_BACK) or state is ExecutionState.COMMITTED:
                raise
            _LOG.error("updater: %s is entered although it cannot be journalled: %s", state.value, error)
            self.remember(**changes)
        self.report(state, result)

    def report(self, state: ExecutionState, result: EffectResult) -> None:
        """Report that the execution is in ``state``, and journal that a terminal state was reported."""
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
        if state.terminal and not self._reports.pending:
            try:
                self.change(reported=True)
            except AgentError as error:
                _LOG.error("updater: %s will be reported again after a restart: %s", state.value, error)
        self._on_change()

    def change(self, **changes: object) -> None:
        """Change fields of the execution in the journal, then in memory. Time is brought up to date with them.

        Raises:
            AgentError: ``storage.*``: the disk refused several times. Nothing changed.
        """
        before, since_seconds = self._entry, self._since_seconds
        execution = before.execution
        assert execution is not None
        now = self._moment()
        passed: dict[str, object] = {"spent_seconds": self._spent_seconds(execution), "at": now.wall_seconds}
        passed |= {"boot": now.boot, "boot_seconds": now.boot_seconds}
        self.remember(**(passed | changes))
        self._since_seconds = self._clock.monotonic()
        for attempt in range(_JOURNAL_ATTEMPTS):
            try:
                self._journal.write(self._entry)
            except AgentError:
                if attempt == _JOURNAL_ATTEMPTS - 1:
                    self._entry, self._since_seconds = before, since_seconds
                    raise
                self._stopping.wait(min(self._retry_seconds, 1.0) * 2**attempt)
            else:
                break

    def remember(self, **changes: object) -> None:
        """Change fields of the execution in memory only."""
        assert self._entry.execution is not None
        execution = msgspec.structs.replace(self._entry.execution, **changes)
        self._entry = msgspec.structs.replace(self._entry, execution=execution)

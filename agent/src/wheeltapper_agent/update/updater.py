"""The updater: takes assignments and carries out their executions, one after the other, state by state, as the table of
the update machine says.

To follow a release through an update, read this module, then :mod:`~wheeltapper_agent.update.obtaining`, then
:mod:`~wheeltapper_agent.update.running`.

Invariants:
    * A state is entered (journalled, then reported; see :mod:`~wheeltapper_agent.update.progress`) before its effect is
      begun. Every effect may be done twice. Every execution reaches a terminal state.
    * Where the disk refuses the journal, an execution that did not touch the active model yet ends as FAILED. One that
      did goes back to the release before, by renames and unlinks, which need no room. Only a commit waits until it is
      journalled, so that no restart can undo it.
    * A restart is counted in the journal before any model is loaded. Where it cannot be counted, no release runs that
      is not committed. A clean end of the agent is no restart.
    * A way back that the disk refused is finished before anything else is accepted.
    * A refused assignment changes nothing. Neither it nor a known one disturbs what is under way. One that cannot be
      judged now is judged again later, also while an execution is under way.
    * The newest assignment that was accepted holds at once. What it does not name any more is not committed.
    * Whatever could not be done has a next time: after a fault the thread goes on by itself.

What this module does not do: the rules for assignments (:mod:`~wheeltapper_agent.update.trust`), the table
(:mod:`~wheeltapper_agent.update.machine`), what follows a restart (:mod:`~wheeltapper_agent.update.resume`).
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import Final

from wheeltapper_agent.ground.backoff import retry_delay_seconds
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError, storage_error
from wheeltapper_agent.records.port import Records
from wheeltapper_agent.update.effect_result import EffectResult
from wheeltapper_agent.update.effects import Effects
from wheeltapper_agent.update.floors import FloorStore
from wheeltapper_agent.update.inbox import RETRY_CAP_SECONDS, Inbox
from wheeltapper_agent.update.interruption import Interrupted
from wheeltapper_agent.update.journal import Execution, Journal, JournalEntry
from wheeltapper_agent.update.judging import AssignmentJudge
from wheeltapper_agent.update.machine import ENTRY_EFFECTS, TABLE, Effect, Event, Step, step
from wheeltapper_agent.update.metadata import MetadataClient
from wheeltapper_agent.update.progress import ExecutionProgress
from wheeltapper_agent.update.reports import ReportQueue
from wheeltapper_agent.update.resume import ResumePlan, resume, resume_uncounted, resume_withdrawn
from wheeltapper_agent.update.trust import Accepted, is_known
from wheeltapper_protocols.errors import ProtocolError, brief
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["Updater"]

_LOG = logging.getLogger(__name__)
_REPORT_RETRY_SECONDS: Final = 2.0
_DEVICE_FAULTS: Final = ("storage.", "source.", "recording.")
"""Prefixes of codes that say something of the device and nothing of the release."""
_BEFORE_ACTIVATION: Final = frozenset(state for (state, _), end in TABLE.items() if end is ExecutionState.FAILED) - {
    ExecutionState.ROLLING_BACK
}
"""States that can end as FAILED because the active model was not touched yet."""


class Updater:
    """Runs in a thread of its own; :meth:`assign` and :meth:`cancel` may be called from any.

    Args:
        device: id of this device.
        journal: where the execution is remembered over restarts.
        metadata: the verified view of the repository.
        effects: what the states do.
        floors: what outlives the journal.
        records: where reports go.
        clock: time.
        retry_seconds: mean delay before an assignment whose metadata could not be had is judged again; doubles up to a
            minute.
        on_change: called after each change of state.
    """

    def __init__(
        self,
        device: str,
        journal: Journal,
        metadata: MetadataClient,
        effects: Effects,
        floors: FloorStore,
        records: Records,
        clock: Clock,
        retry_seconds: float,
        on_change: Callable[[], None],
    ) -> None:
        self._effects = effects
        self._clock = clock
        self._retry_seconds = retry_seconds
        self._stopping = threading.Event()
        self._reports = ReportQueue(records, clock)
        self._progress = ExecutionProgress(
            device, journal, floors, self._reports, clock, retry_seconds, self._stopping, on_change
        )
        self._judge = AssignmentJudge(metadata, self._reports, clock, self._stopping)
        self._inbox = Inbox(retry_seconds)
        self._interrupted_for: EffectResult | None = None
        """What the effect under way was interrupted for; None: the agent stops."""
        self._way_back_waits = False
        """The disk refused the way back of the execution that ended last."""
        self._thread = threading.Thread(target=self._run, name="updater", daemon=True)
        effects.wait.interrupted = self._interrupted
        effects.report = self._reports.add
        self._plan = self._count_restart()

    @property
    def entry(self) -> JournalEntry:
        """The journal's entry as it stands."""
        return self._progress.entry

    def alive(self) -> bool:
        """Whether the thread runs, or was stopped on purpose."""
        return self._thread.is_alive() or self._stopping.is_set()

    def start(self) -> None:
        """Resume what was under way, then wait for assignments."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """End after the effect under way; what is unfinished is resumed at the next start."""
        self._stopping.set()
        self._inbox.close()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        execution = self._progress.execution
        if not self._thread.is_alive() and execution is not None and not execution.ended:
            try:
                self._progress.change(stopped=True)
            except AgentError as error:
                _LOG.error("updater: this end will count as an unclean one, since it cannot be journalled: %s", error)

    def assign(self, envelope: bytes) -> None:
        """Take an assignment that came in. Of those that are accepted only the newest one counts.

        The broker repeats the newest one at every connection; that one is left out here.
        """
        if not is_known(envelope, self._progress.trust_state()):
            self._inbox.put(envelope)

    def cancel(self, execution: str) -> None:
        """End ``execution``, unless its release is being activated or is active already."""
        self._inbox.cancel(execution)

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        try:
            self._resume()
        except Exception:  # noqa: BLE001  # the agent must outlive a fault here
            _LOG.exception("updater: the execution under way could not be resumed; it is tried again")
        while not self._stopping.is_set():
            try:
                complete = self.work()
            except Exception:  # noqa: BLE001  # the agent must outlive a fault here
                _LOG.exception("updater: an execution could not be carried on; it is tried again")
                complete = False
            failures = 0 if complete else failures + 1
            self._inbox.wait(self._idle_seconds(failures))

    def work(self) -> bool:
        """Judge what came in, and carry out all executions; False if something is left that must be tried again."""
        while not self._stopping.is_set():
            self._take_in()
            if not self._carry_on():
                break
        self._reports.send()
        self._progress.settle()
        progress = self._progress
        return not (progress.planned or progress.under_way or progress.unsaved or self._way_back_waits)

    def _idle_seconds(self, failures: int) -> float | None:
        """How long to wait for something to come; None: without a limit."""
        waits = [_REPORT_RETRY_SECONDS] if self._reports.pending else []
        if failures:
            waits.append(retry_delay_seconds(failures, _jitter(), self._retry_seconds, RETRY_CAP_SECONDS))
        if (due_seconds := self._inbox.next_due_seconds) is not None:
            waits.append(max(0.0, due_seconds - self._clock.monotonic()))
        return min(waits, default=None)

    def _take_in(self) -> None:
        """Judge the assignments whose time has come, the newest first, and take over what is accepted."""
        now_seconds = self._clock.monotonic()
        while (envelope := self._inbox.due(now_seconds)) is not None and not self._stopping.is_set():
            try:
                outdated = self._inbox.may_be_outdated(envelope)
                judged = self._judge.judge(envelope, self._progress.trust_state(), outdated)
                if isinstance(judged, Accepted):
                    orders = judged.assignment.executions
                    named = ", ".join(order.execution for order in orders) or "nothing to do"
                    _LOG.info("updater: assignment %d: %s", judged.assignment.counter, named)
                    self._progress.accept(judged)
                    self._inbox.accepted()
            except Exception:  # noqa: BLE001  # what is under way must outlive it
                _LOG.exception("updater: an assignment could not be judged; it is tried again")
                judged = True
            if judged is True:
                self._inbox.postpone(envelope, self._clock.monotonic(), _jitter())
            else:
                self._inbox.remove(envelope)

    def _carry_on(self) -> bool:
        """Carry out the execution under way, or else the next one; False if there is none, or it must wait."""
        under_way = self._progress.under_way
        if under_way is not None:  # a fault interrupted it
            self._follow(under_way, resume(under_way.state, 0))
            return True
        if not self._finish_way_back() or self._progress.planned is None:
            return False
        self._progress.begin(self._effects.config.deadline_seconds)
        try:
            self._progress.enter(ExecutionState.ASSIGNED, EffectResult(Event.ACCEPTED))
        except AgentError as error:
            self._advance(ExecutionState.ASSIGNED, EffectResult(Event.GIVE_UP, error.code, error.message))
        else:
            self._walk(ExecutionState.ASSIGNED, Effect.ACCEPT)
        return True

    def _finish_way_back(self) -> bool:
        """Whether the execution that ended last is done with; a way back that the disk refused is tried again."""
        ended, planned = self._progress.execution, self._progress.planned
        self._way_back_waits = False
        if ended is None:
            return True
        try:  # the next execution would forget this one
            self._effects.running.finish_rolling_back(ended)
        except AgentError as error:
            _LOG.info("execution %s: the disk still refuses the way back: %s", ended.id, error)
            if planned is not None:
                self._judge.refuse(planned.id.encode(), error.code, error.message)
            self._way_back_waits = True
        return not self._way_back_waits

    # --- after a restart ----------------------------------------------------------------------------------------------

    def _count_restart(self) -> ResumePlan | None:
        """Count an unclean end, before any model is loaded; return the plan for what was under way, if anything."""
        execution = self._progress.execution
        if execution is None:
            return None
        if execution.ended:
            self._effects.running.exclude_if_unfinished(execution)
            return None
        resumes = execution.resumes + (0 if execution.stopped else 1)
        spent_seconds = execution.spent_seconds + self._progress.downtime_seconds(execution)
        plan = resume(execution.state, resumes, self._effects.config.probation_max_deaths)
        assert plan is not None
        try:
            self._progress.change(resumes=resumes, stopped=False, spent_seconds=spent_seconds)
        except AgentError as error:
            _LOG.error("execution %s: its restart cannot be counted in the journal: %s", execution.id, error)
            plan = resume_uncounted(plan, error.code)
        if execution.withdrawn:
            plan = resume_withdrawn(plan)
        if plan.event is not None or plan.state is ExecutionState.ROLLING_BACK:
            self._effects.running.exclude(execution)
        return plan

    def _resume(self) -> None:
        """Report what ended before the agent did, then go on with what was under way."""
        self._progress.settle()
        execution, plan = self._progress.execution, self._plan
        if execution is None:
            self._effects.finish()
            return
        if plan is None:
            self._complete_ended(execution)
            return
        self._follow(execution, plan)

    def _follow(self, execution: Execution, plan: ResumePlan | None) -> None:
        """Go on with ``execution`` as ``plan`` says."""
        if plan is None:
            return
        _LOG.info("execution %s: resumed in %s", execution.id, plan.state.value)
        if plan.event is not None:
            text = f"found in {execution.state} after {execution.resumes} unclean ends"
            if plan.event is Event.WITHDRAW:
                text = f"by {execution.superseded_by or 'a newer assignment'}"
            self._advance(plan.state, EffectResult(plan.event, plan.reason, text))
            return
        if plan.reason:
            text = f"the journal said {execution.state[:80]!r}"
            self._progress.enter(plan.state, EffectResult(Event.BROKE, plan.reason, text))
        if plan.effect is not None:
            self._walk(plan.state, plan.effect)

    def _complete_ended(self, execution: Execution) -> None:
        """Do again what a kill may have left out between the end of ``execution`` and the cleaning up."""
        if execution.state == ExecutionState.COMMITTED.value:
            self._effects.running.raise_floors(execution)
        try:
            self._effects.running.finish_rolling_back(execution)
        except AgentError as error:
            _LOG.error("execution %s: the disk still refuses the way back: %s", execution.id, error)
        else:
            self._effects.finish(keep_fetched=execution.state == ExecutionState.SUPERSEDED.value)

    # --- the walk through the table -----------------------------------------------------------------------------------

    def _walk(self, state: ExecutionState, effect: Effect) -> None:
        """Do ``effect`` and what follows from it, until the execution ended or the agent stops."""
        while effect is not Effect.FINISH and not self._stopping.is_set():
            result = self._end_requested(state) or self._do(effect)
            if result is None:
                return
            state, effect = self._transition(state, result)
        if effect is Effect.FINISH:
            if self._progress.execution is not None:
                self._inbox.forget_cancel(self._progress.execution.id)
            self._effects.finish(keep_fetched=state is ExecutionState.SUPERSEDED)

    def _advance(self, state: ExecutionState, result: EffectResult) -> None:
        """Take the event of ``result`` from ``state``, and walk on from there."""
        following, effect = self._transition(state, result)
        self._walk(following, effect)

    def _transition(self, state: ExecutionState, result: EffectResult) -> Step:
        """Enter the state that follows; where the disk refuses its journal entry, the one that giving up leads to."""
        following = step(state, result.event)
        if following.state is ExecutionState.COMMITTED:
            return following if self._commit(result) else Step(state, ENTRY_EFFECTS[state])
        if following.state is ExecutionState.ACTIVATING:
            execution = self._progress.execution
            if execution is not None and not execution.before:
                running = self._effects.running
                before, baseline = running.running_slots(execution.targets), running.baseline(execution.targets)
                self._progress.remember(before=before, baseline=baseline)
        try:
            self._progress.enter(following.state, result)
        except AgentError as error:
            following = step(state, Event.GIVE_UP)
            self._progress.enter(following.state, EffectResult(Event.GIVE_UP, error.code, error.message))
        return following

    def _commit(self, result: EffectResult) -> bool:
        """Enter COMMITTED, however long the disk refuses that; False if the agent stopped before."""
        wait_seconds = max(self._retry_seconds, _REPORT_RETRY_SECONDS)
        while True:
            try:
                self._progress.enter(ExecutionState.COMMITTED, result)
            except AgentError as error:
                _LOG.error("updater: COMMITTED waits until it can be journalled: %s", error)
                if self._stopping.wait(wait_seconds):
                    return False
                wait_seconds = min(wait_seconds * 2, RETRY_CAP_SECONDS)
            else:
                assert self._progress.execution is not None
                self._effects.running.raise_floors(self._progress.execution)
                return True

    def _do(self, effect: Effect) -> EffectResult | None:
        """The event that ``effect`` leads to; None if the agent is stopping."""
        execution = self._progress.execution
        assert execution is not None
        try:
            while not self._stopping.is_set():
                try:
                    return self._effects.do(effect, execution, self._progress.now_seconds())
                except Interrupted:
                    result, self._interrupted_for = self._interrupted_for, None
                    if result is not None:
                        return result
            return None
        except Exception as error:  # every execution must end
            _LOG.exception("execution %s: %s failed", execution.id, effect.name)
            result = _failure(error, effect, ExecutionState(execution.state))
            if result is None:
                raise
            return result

    # --- what may end an execution early ------------------------------------------------------------------------------

    def _end_requested(self, state: ExecutionState) -> EffectResult | None:
        """The event that ends the execution early, if there is reason for one and ``state`` still allows it."""
        if (state, Event.WITHDRAW) in TABLE:  # nothing may hold up the way back
            self._take_in()
        execution = self._progress.execution
        assert execution is not None
        by = f"by {execution.superseded_by or 'a newer assignment'}"
        if execution.superseded_by and (state, Event.SUPERSEDE) in TABLE:
            return EffectResult(Event.SUPERSEDE, "update.superseded", by)
        if execution.withdrawn and (state, Event.WITHDRAW) in TABLE:
            return EffectResult(Event.WITHDRAW, "update.withdrawn", by)
        if execution.id in self._inbox.cancels and (state, Event.CANCEL) in TABLE:
            return EffectResult(Event.CANCEL, "update.cancelled", "cancelled by the fleet")
        if (state, Event.EXPIRED) in TABLE and self._progress.expired(execution):
            text = f"not active within {execution.deadline_seconds:.0f} s"
            waited_for = f"; it waited: {execution.detail}" if execution.code.startswith("update.waiting") else ""
            return EffectResult(Event.EXPIRED, "update.deadline", text + waited_for)
        return None

    def _interrupted(self, execution: Execution) -> bool:
        """Whether a long effect shall stop early. An assignment that is refused interrupts nothing."""
        stopping = self._stopping.is_set()
        self._interrupted_for = None if stopping else self._end_requested(ExecutionState(execution.state))
        return stopping or self._interrupted_for is not None


def _jitter() -> float:
    """A random number from 0 to 1, so that many devices do not ask at the same moment."""
    return random.random()  # noqa: S311  # no secret


def _failure(error: Exception, effect: Effect, state: ExecutionState) -> EffectResult | None:
    """How an effect that raised ``error`` ends the execution; None if no row of the table fits.

    A full disk or a missing sensor says nothing of the release, so before the activation it leads to FAILED and not to
    REJECTED.
    """
    if isinstance(error, OSError):
        error = storage_error(error, effect.name)
    code = error.code if isinstance(error, AgentError | ProtocolError) else "update.internal"
    events = (Event.REFUSED, Event.BROKE, Event.GIVE_UP)
    if code.startswith(_DEVICE_FAULTS) and state in _BEFORE_ACTIVATION:
        events = (Event.GIVE_UP, Event.BROKE, Event.REFUSED)
    for event in events:
        if (state, event) in TABLE:
            return EffectResult(event, code, brief(error, 1000))
    return None

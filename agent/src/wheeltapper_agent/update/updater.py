"""The service of the update machine: hears assignments, walks :data:`core.update.TABLE`, journals, reports, does the
effects.

Invariants:
    * A state is journalled before its effect is begun and before it is reported; a terminal state that was journalled
      but perhaps not reported is reported again after a restart. Where the disk refuses the journal, an execution that
      did not touch the active model yet ends as FAILED, and one that did goes back to the release before: by renames
      and unlinks, which need no room. Only a commit waits until it is journalled, so that no restart can undo it.
    * A restart is counted in the journal before any model is loaded; where it cannot be counted, no release runs that
      is not committed. A clean end is no restart.
    * The deadline counts seconds since the assignment, of the monotonic clock while the agent runs; for the time
      between two lives of the agent see :mod:`core.deadline`.
    * A way back that the disk refused is finished before anything else is accepted.
    * The counter, the newest time and the floors outlive the journal (:mod:`adapters.marks`).
    * Every effect may be done twice. Every execution reaches a terminal state.
    * A refused assignment changes nothing and is reported once per distinct envelope and reason; neither it nor a known
      one disturbs what is under way.

What this module does not do: rules (:mod:`core.trust`), what follows a restart (:mod:`core.resume`), bytes over the
network (adapters).
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from typing import Final

import msgspec

from wheeltapper_agent.ground.clock import Clock, since_boot
from wheeltapper_agent.ground.errors import AgentError, storage_error
from wheeltapper_agent.records.port import Records
from wheeltapper_agent.update.deadline import Moment, allowed_seconds, away_seconds
from wheeltapper_agent.update.effect_result import Interrupted, Outcome
from wheeltapper_agent.update.effects import Effects
from wheeltapper_agent.update.floors import Marks, MarkStore
from wheeltapper_agent.update.inbox import Inbox
from wheeltapper_agent.update.journal import Entry, Execution, Journal
from wheeltapper_agent.update.machine import ENTRY_EFFECTS, TABLE, Effect, Event, Step, step
from wheeltapper_agent.update.metadata import MetadataClient
from wheeltapper_agent.update.reports import Reports
from wheeltapper_agent.update.resume import Plan, resume, uncounted
from wheeltapper_agent.update.trust import (
    IGNORED,
    Accepted,
    RefusedError,
    Standing,
    check_assignment,
    effective_now,
    is_known,
)
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.wire.messages import AssignmentRefused, ExecutionReport, ExecutionState

__all__ = ["Updater"]

_LOG = logging.getLogger(__name__)
_RETRY_CAP_SECONDS: Final = 60.0
_MAX_REMEMBERED_REFUSALS: Final = 256
_UNSENT_SECONDS: Final = 2.0
_JOURNAL_ATTEMPTS: Final = 3
_OF_THE_DEVICE: Final = ("storage.", "source.", "recording.")
_UNTOUCHED: Final = frozenset(state for (state, _), end in TABLE.items() if end is ExecutionState.FAILED) - {
    ExecutionState.ROLLING_BACK
}
"""States that can end as FAILED because the active model was not touched yet."""


def _marks(entry: Entry) -> Marks:
    return Marks(
        counter=entry.counter, payload_sha256=entry.payload_sha256, newest_time_seconds=entry.newest_time_seconds
    )


class Updater:
    """Runs in a thread of its own; :meth:`assign` and :meth:`cancel` may be called from any.

    Args:
        device: id of this device.
        journal: where the execution is remembered.
        metadata: the verified view of the repository.
        effects: what the states do.
        marks: what outlives the journal.
        records: where reports go.
        clock: time.
        retry_seconds: before metadata that could not be had are asked for again; doubles up to a minute.
        on_change: called after each change of state.
    """

    def __init__(
        self,
        device: str,
        journal: Journal,
        metadata: MetadataClient,
        effects: Effects,
        marks: MarkStore,
        records: Records,
        clock: Clock,
        retry_seconds: float,
        on_change: Callable[[], None],
    ) -> None:
        self._device = device
        self._journal = journal
        self._metadata = metadata
        self._effects = effects
        self._marks = marks
        self._reports = Reports(records, clock)
        self._clock = clock
        self._retry_seconds = retry_seconds
        self._on_change = on_change
        self._entry = self._raised(journal.read())
        self._inbox = Inbox()
        self._asked: Outcome | None = None
        """What the effect under way was interrupted for."""
        self._refused: set[tuple[str, str]] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="updater", daemon=True)
        self._since_seconds = clock.monotonic()
        effects.interrupted = self._interrupted
        effects.report = self._reports.add
        self._plan = self._count_restart()

    @property
    def entry(self) -> Entry:
        """The journal as it stands."""
        return self._entry

    def alive(self) -> bool:
        """Whether the thread runs, or was stopped."""
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
        execution = self._entry.execution
        if not self._thread.is_alive() and execution is not None and not execution.over:
            try:
                self._change(stopped=True)
            except AgentError as error:
                _LOG.error("updater: this end will count as an unclean one: %s", error)

    def assign(self, envelope: bytes) -> None:
        """An assignment came in; only the newest one counts. The broker says the one under way at every connection."""
        if not is_known(envelope, self._standing()):
            self._inbox.put(envelope)

    def cancel(self, execution: str) -> None:
        """End ``execution`` if it is not active yet."""
        self._inbox.cancel(execution)

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        wait_seconds = 0.0
        try:
            self._resume()
        except Exception:  # noqa: BLE001  # the agent must outlive a fault here
            _LOG.exception("updater: resuming failed")
        while not self._stopping.is_set():
            envelope = self._inbox.take(wait_seconds, _UNSENT_SECONDS if self._reports.waiting else None)
            self._reports.send()
            if self._stopping.is_set() or envelope is None:
                continue
            try:
                retry = self._consider(envelope)
            except Exception:  # noqa: BLE001  # as above
                _LOG.exception("updater: an assignment could not be handled")
                retry = True
            held = retry and self._inbox.put_back(envelope)
            wait_seconds = min(max(self._retry_seconds, wait_seconds * 2), _RETRY_CAP_SECONDS) if held else 0.0

    def _raised(self, entry: Entry) -> Entry:
        """``entry`` with the higher of its marks and those of the store, which then has them too."""
        self._lost = entry.counter < self._marks.marks.counter
        self._marks.rise(_marks(entry))
        marks = self._marks.marks
        return msgspec.structs.replace(
            entry,
            counter=marks.counter,
            payload_sha256=marks.payload_sha256,
            newest_time_seconds=marks.newest_time_seconds,
        )

    def _standing(self) -> Standing:
        entry = self._entry
        return Standing(self._device, entry.counter, entry.payload_sha256, entry.newest_time_seconds, lost=self._lost)

    def _consider(self, envelope: bytes) -> bool:
        """Judge an envelope and, where accepted, carry it out; True if it shall be tried again later."""
        accepted = self._judge(envelope)
        if isinstance(accepted, bool):
            return accepted
        if self._entry.execution is not None:
            try:  # the next execution's journal entry would forget it
                self._effects.finish_rolling_back(self._entry.execution)
            except AgentError as error:
                self._refuse(hashlib.sha256(envelope).hexdigest(), error.code, error.message, None)
                return True
        self._accept(accepted)
        return False

    def _judge(self, envelope: bytes) -> Accepted | bool:
        """The accepted assignment; or whether a later try may do better."""
        digest = hashlib.sha256(envelope).hexdigest()
        standing = self._standing()
        if is_known(envelope, standing):
            return False
        now = self._clock.now()
        try:
            verified = self._metadata.refresh(effective_now(now, standing), self._unless_stopping)
            found = check_assignment(envelope, standing, verified.verify_director, now, verified.expires_at_seconds)
        except RefusedError as error:
            self._refuse(digest, error.code, error.message, error.execution)
            return False
        except Interrupted:
            return True
        except AgentError as error:
            if error.code.startswith(("trust.", "storage.")):
                self._refuse(digest, error.code, error.message, None)
            else:
                _LOG.info("updater: metadata: %s", error)
            return True
        if found is IGNORED or not isinstance(found, Accepted):
            return False
        return found

    def _unless_stopping(self, _seconds: float) -> None:
        if self._stopping.is_set():
            raise Interrupted

    def _refuse(self, digest: str, code: str, message: str, execution: str | None) -> None:
        if (digest, code) in self._refused:
            return
        if len(self._refused) >= _MAX_REMEMBERED_REFUSALS:
            self._refused.clear()
        self._refused.add((digest, code))
        _LOG.warning("assignment refused: %s [%s]", message, code)
        self._reports.add(AssignmentRefused(code=code, detail=message[:2000], execution=execution))

    def _accept(self, accepted: Accepted) -> None:
        assignment, standing = accepted.assignment, accepted.standing
        _LOG.info("execution %s: assigned (counter %d)", assignment.execution, assignment.counter)
        self._entry = Entry(
            counter=standing.counter,
            payload_sha256=standing.payload_sha256,
            newest_time_seconds=standing.newest_time_seconds,
            execution=Execution(
                id=assignment.execution,
                campaign=assignment.campaign,
                state=ExecutionState.ASSIGNED.value,
                targets=dict(assignment.pipelines),
                deadline_seconds=allowed_seconds(
                    self._effects.config.deadline_seconds,
                    assignment.deadline if isinstance(assignment.deadline, float) else None,
                    effective_now(self._clock.now(), standing),
                ),
            ),
        )
        self._since_seconds = self._clock.monotonic()
        self._lost = False
        try:
            self._enter(ExecutionState.ASSIGNED, Outcome(Event.ACCEPTED))
        except AgentError as error:
            self._advance(ExecutionState.ASSIGNED, Outcome(Event.GIVE_UP, error.code, error.message))
            return
        # After the journal: killed in between, the journal has the higher counter and the execution.
        self._marks.rise(_marks(self._entry))
        self._walk(ExecutionState.ASSIGNED, Effect.ACCEPT)

    # --- the walk through the table -----------------------------------------------------------------------------------

    def _count_restart(self) -> Plan | None:
        """Count an unclean end, before anything is loaded; the plan for what was under way."""
        execution = self._entry.execution
        if execution is None:
            return None
        if execution.over:
            self._effects.distrust_unfinished(execution)
            return None
        resumes = execution.resumes + (0 if execution.stopped else 1)
        then = Moment(execution.at, execution.boot, execution.boot_seconds)
        away = away_seconds(then, self._moment(), self._entry.newest_time_seconds)
        plan = resume(execution.state, resumes, self._effects.config.probation_max_deaths)
        assert plan is not None
        try:
            self._change(resumes=resumes, stopped=False, spent_seconds=execution.spent_seconds + away)
        except AgentError as error:
            _LOG.error("execution %s: its restart cannot be counted: %s", execution.id, error)
            plan = uncounted(plan, error.code)
        if plan.event is not None or plan.state is ExecutionState.ROLLING_BACK:
            self._effects.distrust(execution)
        return plan

    def _resume(self) -> None:
        execution, plan = self._entry.execution, self._plan
        if execution is None:
            self._effects.finish()
            return
        if plan is None:
            if execution.state == ExecutionState.COMMITTED.value:
                self._effects.raise_floors(execution)
            try:
                self._effects.finish_rolling_back(execution)
            except AgentError as error:
                _LOG.error("execution %s: still not gone back: %s", execution.id, error)
            else:  # a kill may have come between the end and the cleaning up
                self._effects.finish(keep_fetched=execution.state == ExecutionState.SUPERSEDED.value)
            if not execution.reported:
                self._tell(ExecutionState(execution.state), Outcome(Event.ACCEPTED, execution.code, execution.detail))
            return
        _LOG.info("execution %s: resumed in %s", execution.id, plan.state.value)
        if plan.event is not None:
            text = f"found in {execution.state} after {execution.resumes} unclean ends"
            self._advance(plan.state, Outcome(plan.event, plan.reason, text))
            return
        if plan.reason:
            self._enter(plan.state, Outcome(Event.BROKE, plan.reason, f"the journal said {execution.state[:80]!r}"))
        if plan.effect is not None:
            self._walk(plan.state, plan.effect)

    def _moment(self) -> Moment:
        return Moment(self._clock.now(), *since_boot())

    def _spent_seconds(self, execution: Execution) -> float:
        return execution.spent_seconds + self._clock.monotonic() - self._since_seconds

    def _expired(self, execution: Execution) -> bool:
        allowed = execution.deadline_seconds
        return allowed > 0 and self._spent_seconds(execution) >= allowed

    def _walk(self, state: ExecutionState, effect: Effect) -> None:
        """Do ``effect`` and what follows from it, until the execution is over or the agent stops."""
        while effect is not Effect.FINISH and not self._stopping.is_set():
            execution = self._entry.execution
            if execution is None:
                return
            outcome = self._asked_to_end(state, execution) or self._do(effect, execution)
            if outcome is None:
                return
            state, effect = self._transition(state, outcome)
        if effect is Effect.FINISH:
            if self._entry.execution is not None:
                self._inbox.forget_cancel(self._entry.execution.id)
            self._effects.finish(keep_fetched=state is ExecutionState.SUPERSEDED)

    def _advance(self, state: ExecutionState, outcome: Outcome) -> None:
        following, effect = self._transition(state, outcome)
        self._walk(following, effect)

    def _transition(self, state: ExecutionState, outcome: Outcome) -> Step:
        following = step(state, outcome.event)
        if following.state is ExecutionState.COMMITTED:
            return following if self._commit(outcome) else Step(state, ENTRY_EFFECTS[state])
        if following.state is ExecutionState.ACTIVATING:
            execution = self._entry.execution
            if execution is not None and not execution.before:
                before, baseline = self._effects.active(execution.targets), self._effects.baseline(execution.targets)
                self._remember(before=before, baseline=baseline)
        try:
            self._enter(following.state, outcome)
        except AgentError as error:
            given_up = Outcome(Event.GIVE_UP, error.code, error.message)
            following = step(state, Event.GIVE_UP)
            self._enter(following.state, given_up)
        return following

    def _commit(self, outcome: Outcome) -> bool:
        """Enter COMMITTED, however long the disk refuses that; False if the agent stopped before."""
        wait_seconds = max(self._retry_seconds, _UNSENT_SECONDS)
        while True:
            try:
                self._enter(ExecutionState.COMMITTED, outcome)
            except AgentError as error:
                _LOG.error("updater: COMMITTED waits for the journal: %s", error)
                if self._stopping.wait(wait_seconds):
                    return False
                wait_seconds = min(wait_seconds * 2, _RETRY_CAP_SECONDS)
            else:
                assert self._entry.execution is not None
                self._effects.raise_floors(self._entry.execution)
                return True

    def _enter(self, state: ExecutionState, outcome: Outcome) -> None:
        """Journal ``state``, then report it.

        Raises:
            AgentError: ``storage.*``, where the state must not be begun without the journal; nothing changed.
        """
        changes: dict[str, object] = {"code": outcome.code[:80], "detail": outcome.detail[:1000]}
        if self._entry.execution is not None and self._entry.execution.state != state.value:
            changes |= {"state": state.value, "resumes": 0}
        try:
            self._change(**changes, reported=not state.terminal)
        except AgentError as error:
            if not (state.terminal or state is ExecutionState.ROLLING_BACK) or state is ExecutionState.COMMITTED:
                raise
            # The way back needs no journal: a restart that finds the state before comes to the same.
            _LOG.error("updater: %s goes on unjournalled: %s", state.value, error)
            self._remember(**changes)
        self._tell(state, outcome)

    def _tell(self, state: ExecutionState, outcome: Outcome) -> None:
        execution = self._entry.execution
        assert execution is not None
        log = _LOG.warning if outcome.code else _LOG.info
        log("execution %s: %s %s %s", execution.id, state.value, outcome.code, outcome.detail)
        self._reports.add(
            ExecutionReport(
                execution=execution.id,
                state=state,
                code=outcome.code[:80],
                detail=outcome.detail[:1000],
                metrics=outcome.metrics,
            )
        )
        if state.terminal and not self._reports.waiting:
            try:
                self._change(reported=True)
            except AgentError as error:
                _LOG.error("updater: %s will be reported again: %s", state.value, error)
        self._on_change()

    def _change(self, **changes: object) -> Execution:
        """Change the execution on the disk, then here."""
        before, since_seconds = self._entry, self._since_seconds
        execution = before.execution
        assert execution is not None
        now = self._moment()
        passed: dict[str, object] = {"spent_seconds": self._spent_seconds(execution), "at": now.wall_seconds}
        passed |= {"boot": now.boot, "boot_seconds": now.boot_seconds}
        execution = self._remember(**(passed | changes))
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
        return execution

    def _remember(self, **changes: object) -> Execution:
        assert self._entry.execution is not None
        execution = msgspec.structs.replace(self._entry.execution, **changes)
        self._entry = msgspec.structs.replace(self._entry, execution=execution)
        return execution

    def _do(self, effect: Effect, execution: Execution) -> Outcome | None:
        """The event that ``effect`` leads to; None if the agent is stopping."""
        try:
            while not self._stopping.is_set():
                try:
                    return self._effects.do(effect, execution, effective_now(self._clock.now(), self._standing()))
                except Interrupted:
                    asked, self._asked = self._asked, None
                    if asked is not None:
                        return asked
            return None
        except Exception as error:  # every execution must end
            _LOG.exception("execution %s: %s failed", execution.id, effect.name)
            state = ExecutionState(execution.state)
            if isinstance(error, OSError):
                error = storage_error(error, effect.name)
            code = error.code if isinstance(error, AgentError | ProtocolError) else "update.internal"
            order = (Event.REFUSED, Event.BROKE, Event.GIVE_UP)
            # A full disk says nothing about the release, and neither does a sensor that is not there.
            for event in reversed(order) if code.startswith(_OF_THE_DEVICE) and state in _UNTOUCHED else order:
                if (state, event) in TABLE:
                    return Outcome(event, code, str(error)[:1000])
            raise

    def _asked_to_end(self, state: ExecutionState, execution: Execution) -> Outcome | None:
        """SUPERSEDE or CANCEL, if somebody asked for it and the state still allows it."""
        envelope = self._inbox.envelope
        if execution.id in self._inbox.cancels and (state, Event.CANCEL) in TABLE:
            return Outcome(Event.CANCEL, "update.cancelled", "cancelled by the fleet")
        if (state, Event.EXPIRED) in TABLE and self._expired(execution):
            text = f"not active within {execution.deadline_seconds:.0f} s"
            waited_for = f"; it waited: {execution.detail}" if execution.code.startswith("update.waiting") else ""
            return Outcome(Event.EXPIRED, "update.deadline", text + waited_for)
        if envelope is None or (state, Event.SUPERSEDE) not in TABLE:
            return None
        judged = self._judge(envelope)
        if isinstance(judged, Accepted):
            # The envelope stays in the inbox: it is judged again, and carried out, when this execution has ended.
            return Outcome(Event.SUPERSEDE, "update.superseded", f"by {judged.assignment.execution}")
        self._inbox.drop(envelope, later=judged)
        return None

    def _interrupted(self, execution: Execution) -> bool:
        """Whether a long effect shall stop early: for what counts, not for whatever came in."""
        stopping = self._stopping.is_set()
        self._asked = None if stopping else self._asked_to_end(ExecutionState(execution.state), execution)
        return stopping or self._asked is not None

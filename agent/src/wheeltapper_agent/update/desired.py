"""How the newest assignment, which is the whole desired state, meets what the device does and did. Pure.

Invariants:
    * An execution that the newest assignment does not name is withdrawn, for good: one under way ends as soon as the
      table of the update machine allows it, one that had not begun ends as CANCELLED, or as SUPERSEDED where another
      takes one of its pipelines.
    * One that is named again goes on undisturbed. One that ended before is not begun again; that it ended is reported
      anew, since the fleet asks.
    * Every execution that was accepted ends exactly once.

What this module does not do: judge an assignment (:mod:`wheeltapper_agent.update.trust`), carry anything out
(:mod:`wheeltapper_agent.update.updater`).

Example::

    entry = take_over(entry, accepted)
    entry = begin_next(entry, deadline_seconds)
    entry = end(entry, ExecutionState.COMMITTED, "", "")
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from msgspec.structs import replace

from wheeltapper_agent.update.journal_entry import EndedExecution, Execution, JournalEntry, PlannedExecution
from wheeltapper_agent.update.trust import Accepted, TrustState
from wheeltapper_protocols.wire.assignment import Assignment, PipelineTarget
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["MAX_ENDED", "accepted_before", "begin_next", "end", "reported", "take_over", "under_way"]

MAX_ENDED: Final = 128
"""So many ends are remembered: twice as many as one assignment can name."""


def under_way(entry: JournalEntry) -> Execution | None:
    """The execution that has begun and has not ended."""
    return None if entry.execution is None or entry.execution.ended else entry.execution


def accepted_before(entry: JournalEntry, device: str, execution_lost: bool) -> TrustState:
    """What the rules for assignments need to know of those that were accepted before.

    Args:
        entry: of the journal.
        device: id of this device.
        execution_lost: the journal lost the executions of the newest assignment.
    """
    execution = under_way(entry)
    targets = {planned.id: planned.targets for planned in entry.planned}
    if execution is not None:
        targets[execution.id] = execution.targets
    return TrustState(
        device,
        entry.counter,
        entry.payload_sha256,
        entry.newest_time_seconds,
        execution_lost=execution_lost,
        targets=targets,
        ended=frozenset(ended.id for ended in entry.ended),
    )


def take_over(entry: JournalEntry, accepted: Accepted) -> JournalEntry:
    """The entry once ``accepted`` has replaced what was assigned before."""
    assignment, trust_state = accepted.assignment, accepted.trust_state
    wanted = {order.execution for order in assignment.executions}
    execution = under_way(entry)
    if execution is not None and execution.id not in wanted and not execution.withdrawn:
        execution = replace(execution, withdrawn=True, superseded_by=_successor(assignment, execution.targets))
    ended = [one for one in entry.ended if one.id not in wanted]
    ended += [_withdrawn(assignment, planned) for planned in entry.planned if planned.id not in wanted]
    ended += [replace(one, reported=False) for one in entry.ended if one.id in wanted]
    begun = {one.id for one in ended} | ({execution.id} if execution is not None else set())
    return replace(
        entry,
        counter=trust_state.counter,
        payload_sha256=trust_state.payload_sha256,
        newest_time_seconds=trust_state.newest_time_seconds,
        execution=execution or entry.execution,
        planned=_planned(assignment, begun),
        ended=ended[-MAX_ENDED:],
    )


def _planned(assignment: Assignment, begun: Collection[str]) -> list[PlannedExecution]:
    return [
        PlannedExecution(
            id=order.execution,
            campaign=order.campaign,
            targets=assignment.targets(order),
            deadline=order.deadline if isinstance(order.deadline, float) else None,
        )
        for order in assignment.executions
        if order.execution not in begun
    ]


def _successor(assignment: Assignment, targets: Mapping[str, PipelineTarget]) -> str:
    """The first execution of ``assignment`` that takes one of the pipelines of ``targets``; empty if none does."""
    return next(
        (order.execution for order in assignment.executions if not targets.keys().isdisjoint(order.pipelines)), ""
    )


def _withdrawn(assignment: Assignment, planned: PlannedExecution) -> EndedExecution:
    """The end of an execution that was called off before it began."""
    successor = _successor(assignment, planned.targets)
    state = ExecutionState.SUPERSEDED if successor else ExecutionState.CANCELLED
    code = "update.superseded" if successor else "update.withdrawn"
    detail = f"by {successor}, before it began" if successor else "by a newer assignment, before it began"
    return EndedExecution(id=planned.id, end=state.value, code=code, detail=detail)


def begin_next(entry: JournalEntry, deadline_seconds: float) -> JournalEntry:
    """The entry in which the first of the planned executions is ASSIGNED.

    Args:
        entry: with at least one planned execution.
        deadline_seconds: allowed from now to the activation; 0: no limit.
    """
    first = entry.planned[0]
    execution = Execution(
        id=first.id,
        campaign=first.campaign,
        state=ExecutionState.ASSIGNED.value,
        targets=first.targets,
        deadline_seconds=deadline_seconds,
    )
    return replace(entry, execution=execution, planned=entry.planned[1:])


def end(entry: JournalEntry, state: ExecutionState, code: str, detail: str) -> JournalEntry:
    """The entry in which the execution under way ended in the terminal ``state``."""
    execution = entry.execution
    assert execution is not None
    one = EndedExecution(id=execution.id, end=state.value, code=code, detail=detail)
    others = [other for other in entry.ended if other.id != execution.id]
    return replace(entry, ended=[*others, one][-MAX_ENDED:])


def reported(entry: JournalEntry, ids: Collection[str]) -> JournalEntry:
    """The entry in which the ends of the executions ``ids`` were reported. Their explanation is not needed any more."""
    ended = [replace(one, reported=True, detail="") if one.id in ids else one for one in entry.ended]
    return replace(entry, ended=ended)

"""What to do after a restart of the agent, as a function of what the journal says. Pure.

Invariants:
    * An execution that ended, or none, asks for nothing. A state that this version does not know is rolled back.
    * Only unclean ends count, each for the state in which it happened. A state that was found too often is given up, so
      that a model that kills the process cannot restart it for ever: after :data:`MAX_RESUMES`, and in PROBATION after
      as many as the device is configured for.
    * In WAITING and FETCHING nothing of the release runs, and a device whose power is cut every day must still get its
      update. There the cap is :data:`MAX_RESUMES_BEFORE_STAGING`, and the deadline ends what never comes to an end.
    * Where the disk refused to count the restart, no release runs that is not committed. Neither does one whose
      execution was withdrawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wheeltapper_agent.update.machine import ENTRY_EFFECTS, Effect, Event
from wheeltapper_protocols.wire.messages import ExecutionState as S

__all__ = [
    "MAX_RESUMES",
    "MAX_RESUMES_BEFORE_STAGING",
    "ResumePlan",
    "max_resumes",
    "resume",
    "resume_uncounted",
    "resume_withdrawn",
]

MAX_RESUMES: Final = 5
MAX_RESUMES_BEFORE_STAGING: Final = 200
_BEFORE_STAGING: Final = frozenset({S.WAITING, S.FETCHING})
_NOT_COMMITTED: Final = frozenset({S.ACTIVATING, S.PROBATION})
"""States in which the pipelines may run a release that is not committed."""


@dataclass(frozen=True, slots=True)
class ResumePlan:
    """How to go on.

    Attributes:
        state: enter this state again, and do ``effect``.
        effect: of that state; None where ``event`` is set.
        event: if set, take this event from ``state`` instead.
        reason: stable code, where the plan is not simply to go on.
    """

    state: S
    effect: Effect | None
    event: Event | None = None
    reason: str = ""


def max_resumes(state: S, probation_deaths: int = MAX_RESUMES) -> int:
    """How many unclean ends in ``state`` are allowed before it is given up."""
    if state is S.PROBATION:
        return max(1, probation_deaths)
    return MAX_RESUMES_BEFORE_STAGING if state in _BEFORE_STAGING else MAX_RESUMES


def resume(state: str | None, resumes: int, probation_deaths: int = MAX_RESUMES) -> ResumePlan | None:
    """The plan for an execution that the journal says is in ``state``.

    Every effect may be done twice, so resuming means to enter the state again and do its effect.

    Args:
        state: as journalled; None: there was no execution.
        resumes: unclean ends that happened in this state, the one just found included.
        probation_deaths: how many unclean ends PROBATION may see before the release goes back.

    Returns:
        The plan; None if there is nothing to resume.

    Example::

        resume("FETCHING", resumes=1)  # ResumePlan(FETCHING, Effect.FETCH)
        resume("PROBATION", resumes=5)  # ResumePlan(PROBATION, None, Event.GIVE_UP, "probation.crash_loop")
    """
    if state is None:
        return None
    try:
        known = S(state)
    except ValueError:
        return ResumePlan(S.ROLLING_BACK, Effect.ROLL_BACK, reason="journal.unknown_state")
    if known.terminal:
        return None
    if resumes >= max_resumes(known, probation_deaths):
        return ResumePlan(known, None, Event.GIVE_UP, "probation.crash_loop" if known is S.PROBATION else "update.loop")
    return ResumePlan(known, ENTRY_EFFECTS[known])


def resume_uncounted(plan: ResumePlan, reason: str) -> ResumePlan:
    """The plan to follow instead of ``plan`` where the restart could not be counted in the journal.

    A loop of restarts could not be noticed then. So a release that is not committed goes back at once; an execution
    that runs no new model goes on.

    Args:
        plan: what :func:`resume` says.
        reason: code of the error that the journal gave.
    """
    if plan.event is None and plan.state in _NOT_COMMITTED:
        return ResumePlan(plan.state, None, Event.BROKE, reason)
    return plan


def resume_withdrawn(plan: ResumePlan) -> ResumePlan:
    """The plan to follow instead of ``plan`` where the execution was withdrawn: no release of it is loaded again."""
    if plan.event is None and plan.state in _NOT_COMMITTED:
        return ResumePlan(plan.state, None, Event.WITHDRAW, "update.withdrawn")
    return plan

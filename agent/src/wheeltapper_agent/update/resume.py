"""What to do after a restart, as one pure function of what the journal says.

Invariants:
    * A terminal state or none asks for nothing; a state that this version does not know is rolled back.
    * Only unclean ends count, each for the state in which it happened. A state that was found too often is given up, so
      that a model that kills the process cannot keep it flapping: :data:`MAX_RESUMES`, and for PROBATION what the
      device is set to. In WAITING and FETCHING nothing of the release runs, and a device whose power is cut every day
      must still get its update: there the caps are high, and the deadline ends what never comes to an end.
    * Where the restart could not be counted for want of a disk, nothing that was not committed runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wheeltapper_agent.update.machine import ENTRY_EFFECTS, Effect, Event
from wheeltapper_protocols.wire.messages import ExecutionState as S

__all__ = ["MAX_RESUMES", "PATIENT_RESUMES", "Plan", "max_resumes", "resume", "uncounted"]

MAX_RESUMES: Final = 5
PATIENT_RESUMES: Final = 200
_PATIENT: Final = frozenset({S.WAITING, S.FETCHING})
_TOUCHED: Final = frozenset({S.ACTIVATING, S.PROBATION})


@dataclass(frozen=True, slots=True)
class Plan:
    """Enter ``state`` again and do ``effect``; or, where ``event`` is set, take that event from ``state``."""

    state: S
    effect: Effect | None
    event: Event | None = None
    reason: str = ""


def max_resumes(state: S, probation_deaths: int = MAX_RESUMES) -> int:
    """How many unclean ends ``state`` may see."""
    if state is S.PROBATION:
        return max(1, probation_deaths)
    return PATIENT_RESUMES if state in _PATIENT else MAX_RESUMES


def resume(state: str | None, resumes: int, probation_deaths: int = MAX_RESUMES) -> Plan | None:
    """The plan for an execution that the journal says is in ``state``.

    Every effect is written so that doing it twice is the same as doing it once; so resuming is entering the state
    again.

    Args:
        state: as journalled; None: there is no execution.
        resumes: unclean ends that happened in this state, with the one just found.
        probation_deaths: how many of them PROBATION may see before the release goes back.
    """
    if state is None:
        return None
    try:
        known = S(state)
    except ValueError:
        return Plan(S.ROLLING_BACK, Effect.ROLL_BACK, reason="journal.unknown_state")
    if known.terminal:
        return None
    if resumes >= max_resumes(known, probation_deaths):
        return Plan(known, None, Event.GIVE_UP, "probation.crash_loop" if known is S.PROBATION else "update.loop")
    return Plan(known, ENTRY_EFFECTS[known])


def uncounted(plan: Plan, reason: str) -> Plan:
    """The plan where the journal refused to count the restart for ``reason``.

    A loop could not be noticed, so what is not committed goes back at once; what runs no new model goes on.
    """
    if plan.event is None and plan.state in _TOUCHED:
        return Plan(plan.state, None, Event.BROKE, reason)
    return plan

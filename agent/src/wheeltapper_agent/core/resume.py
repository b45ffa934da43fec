"""What to do after a restart, as one pure function of what the journal says.

Invariants: a terminal state or none asks for nothing; a state that this version does not know is rolled back; an
execution that was
resumed more than :data:`MAX_RESUMES` times is given up, so that a model that kills the process cannot keep it flapping.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wheeltapper_agent.core.update import ENTRY_EFFECTS, Effect, Event
from wheeltapper_protocols.messages import ExecutionState as S

__all__ = ["MAX_RESUMES", "Plan", "resume"]

MAX_RESUMES: Final = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """Enter ``state`` again and do ``effect``; or, where ``event`` is set, take that event from ``state``."""

    state: S
    effect: Effect | None
    event: Event | None = None
    reason: str = ""


def resume(state: str | None, resumes: int) -> Plan | None:
    """The plan for an execution that the journal says is in ``state`` and that has been resumed ``resumes`` times
    before.

    Every effect is written so that doing it twice is the same as doing it once; so resuming is entering the state
    again.
    """
    if state is None:
        return None
    try:
        known = S(state)
    except ValueError:
        return Plan(S.ROLLING_BACK, Effect.ROLL_BACK, reason="journal.unknown_state")
    if known.terminal:
        return None
    if resumes >= MAX_RESUMES:
        return Plan(known, None, Event.GIVE_UP, reason="update.loop")
    return Plan(known, ENTRY_EFFECTS[known])

"""The update machine of one execution: its states, events and effects, and the table that joins them. Pure.

Invariants:
    * Every change of state is a row of :data:`TABLE`. A pair of state and event that is not there raises.
    * Before activation an execution can end as FAILED, REJECTED, SUPERSEDED or CANCELLED without touching the active
      model; from ACTIVATING on it ends as COMMITTED, or goes back through ROLLING_BACK.
    * A cancel, another execution for the same pipeline or the deadline ends an execution before ACTIVATING only. From
      then on a cancel and the deadline have no effect; an execution that a newer assignment does not name any more
      goes back, unless it is COMMITTED already.
    * From every state that is not terminal, a terminal one can be reached by GIVE_UP alone.

What this module does not do: the effects (:mod:`wheeltapper_agent.update.effects`), the journal
(:mod:`wheeltapper_agent.update.progress`), what follows a restart (:mod:`wheeltapper_agent.update.resume`).

Example::

    step(ExecutionState.FETCHING, Event.FETCHED)  # Step(VERIFYING, Effect.VERIFY_AND_STAGE)
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, NamedTuple

from wheeltapper_protocols.wire.messages import ExecutionState as S

__all__ = ["ENTRY_EFFECTS", "TABLE", "Effect", "Event", "IllegalTransitionError", "Step", "step"]


class Event(Enum):
    """What can happen to an execution."""

    ACCEPTED = auto()
    """This device can run what is assigned."""
    ALREADY_ACTIVE = auto()
    """The pipelines run what is assigned already."""
    CONDITIONS_MET = auto()
    FETCHED = auto()
    FETCH_FAILED = auto()
    """The files could not be had in as many attempts as are allowed."""
    VERIFIED = auto()
    REFUSED = auto()
    """The release is not fit to run here; the code says why."""
    TEST_STARTED = auto()
    TEST_PASSED = auto()
    SHADOWED = auto()
    """The shadow run ended and nothing speaks against the release."""
    ACTIVATED = auto()
    HEALTHY = auto()
    """The release passed its probation."""
    BROKE = auto()
    """The release failed while or after it was activated."""
    RESTORED = auto()
    """The pipelines run again what they ran before."""
    SUPERSEDE = auto()
    """A newer assignment replaced the execution by another one for one of its pipelines."""
    WITHDRAW = auto()
    """A newer assignment does not name the execution any more."""
    CANCEL = auto()
    """The fleet cancelled the execution."""
    EXPIRED = auto()
    """The release was not active by the deadline."""
    GIVE_UP = auto()
    """The execution cannot go on, through no fault of the release."""


class Effect(Enum):
    """What the updater must do in a state, after it was journalled."""

    ACCEPT = auto()
    AWAIT_CONDITIONS = auto()
    FETCH = auto()
    VERIFY_AND_STAGE = auto()
    BEGIN_SELF_TEST = auto()
    SELF_TEST = auto()
    SHADOW = auto()
    ACTIVATE = auto()
    OBSERVE = auto()
    ROLL_BACK = auto()
    FINISH = auto()


class Step(NamedTuple):
    """The state to enter, and the effect to do there."""

    state: S
    effect: Effect


class IllegalTransitionError(Exception):
    """An event that cannot happen in this state: a fault in the program."""


ENTRY_EFFECTS: Final[dict[S, Effect]] = {
    S.ASSIGNED: Effect.ACCEPT,
    S.WAITING: Effect.AWAIT_CONDITIONS,
    S.FETCHING: Effect.FETCH,
    S.VERIFYING: Effect.VERIFY_AND_STAGE,
    S.STAGED: Effect.BEGIN_SELF_TEST,
    S.SELF_TEST: Effect.SELF_TEST,
    S.SHADOW: Effect.SHADOW,
    S.ACTIVATING: Effect.ACTIVATE,
    S.PROBATION: Effect.OBSERVE,
    S.ROLLING_BACK: Effect.ROLL_BACK,
    S.COMMITTED: Effect.FINISH,
    S.FAILED: Effect.FINISH,
    S.REJECTED: Effect.FINISH,
    S.SUPERSEDED: Effect.FINISH,
    S.CANCELLED: Effect.FINISH,
    S.ROLLED_BACK: Effect.FINISH,
}
"""The effect of each state."""

# fmt: off
TABLE: Final[dict[tuple[S, Event], S]] = {
    (S.ASSIGNED,     Event.ACCEPTED):       S.WAITING,
    (S.ASSIGNED,     Event.ALREADY_ACTIVE): S.COMMITTED,
    (S.ASSIGNED,     Event.REFUSED):        S.REJECTED,
    (S.ASSIGNED,     Event.SUPERSEDE):      S.SUPERSEDED,
    (S.ASSIGNED,     Event.WITHDRAW):       S.CANCELLED,
    (S.ASSIGNED,     Event.CANCEL):         S.CANCELLED,
    (S.ASSIGNED,     Event.EXPIRED):        S.FAILED,
    (S.ASSIGNED,     Event.GIVE_UP):        S.FAILED,
    (S.WAITING,      Event.CONDITIONS_MET): S.FETCHING,
    (S.WAITING,      Event.SUPERSEDE):      S.SUPERSEDED,
    (S.WAITING,      Event.WITHDRAW):       S.CANCELLED,
    (S.WAITING,      Event.CANCEL):         S.CANCELLED,
    (S.WAITING,      Event.EXPIRED):        S.FAILED,
    (S.WAITING,      Event.GIVE_UP):        S.FAILED,
    (S.FETCHING,     Event.FETCHED):        S.VERIFYING,
    (S.FETCHING,     Event.FETCH_FAILED):   S.FAILED,
    (S.FETCHING,     Event.REFUSED):        S.REJECTED,
    (S.FETCHING,     Event.SUPERSEDE):      S.SUPERSEDED,
    (S.FETCHING,     Event.WITHDRAW):       S.CANCELLED,
    (S.FETCHING,     Event.CANCEL):         S.CANCELLED,
    (S.FETCHING,     Event.EXPIRED):        S.FAILED,
    (S.FETCHING,     Event.GIVE_UP):        S.FAILED,
    (S.VERIFYING,    Event.VERIFIED):       S.STAGED,
    (S.VERIFYING,    Event.REFUSED):        S.REJECTED,
    (S.VERIFYING,    Event.SUPERSEDE):      S.SUPERSEDED,
    (S.VERIFYING,    Event.WITHDRAW):       S.CANCELLED,
    (S.VERIFYING,    Event.CANCEL):         S.CANCELLED,
    (S.VERIFYING,    Event.EXPIRED):        S.FAILED,
    (S.VERIFYING,    Event.GIVE_UP):        S.FAILED,
    (S.STAGED,       Event.TEST_STARTED):   S.SELF_TEST,
    (S.STAGED,       Event.REFUSED):        S.REJECTED,
    (S.STAGED,       Event.SUPERSEDE):      S.SUPERSEDED,
    (S.STAGED,       Event.WITHDRAW):       S.CANCELLED,
    (S.STAGED,       Event.CANCEL):         S.CANCELLED,
    (S.STAGED,       Event.EXPIRED):        S.FAILED,
    (S.STAGED,       Event.GIVE_UP):        S.FAILED,
    (S.SELF_TEST,    Event.TEST_PASSED):    S.SHADOW,
    (S.SELF_TEST,    Event.REFUSED):        S.REJECTED,
    (S.SELF_TEST,    Event.SUPERSEDE):      S.SUPERSEDED,
    (S.SELF_TEST,    Event.WITHDRAW):       S.CANCELLED,
    (S.SELF_TEST,    Event.CANCEL):         S.CANCELLED,
    (S.SELF_TEST,    Event.EXPIRED):        S.FAILED,
    (S.SELF_TEST,    Event.GIVE_UP):        S.FAILED,
    (S.SHADOW,       Event.SHADOWED):       S.ACTIVATING,
    (S.SHADOW,       Event.REFUSED):        S.REJECTED,
    (S.SHADOW,       Event.SUPERSEDE):      S.SUPERSEDED,
    (S.SHADOW,       Event.WITHDRAW):       S.CANCELLED,
    (S.SHADOW,       Event.CANCEL):         S.CANCELLED,
    (S.SHADOW,       Event.EXPIRED):        S.FAILED,
    (S.SHADOW,       Event.GIVE_UP):        S.FAILED,
    (S.ACTIVATING,   Event.ACTIVATED):      S.PROBATION,
    (S.ACTIVATING,   Event.BROKE):          S.ROLLING_BACK,
    (S.ACTIVATING,   Event.WITHDRAW):       S.ROLLING_BACK,
    (S.ACTIVATING,   Event.GIVE_UP):        S.ROLLING_BACK,
    (S.PROBATION,    Event.HEALTHY):        S.COMMITTED,
    (S.PROBATION,    Event.BROKE):          S.ROLLING_BACK,
    (S.PROBATION,    Event.WITHDRAW):       S.ROLLING_BACK,
    (S.PROBATION,    Event.GIVE_UP):        S.ROLLING_BACK,
    (S.ROLLING_BACK, Event.RESTORED):       S.ROLLED_BACK,
    (S.ROLLING_BACK, Event.GIVE_UP):        S.FAILED,
}
# fmt: on
"""The state that follows from a state and an event."""


def step(state: S, event: Event) -> Step:
    """The state that follows ``state`` after ``event``, and its effect.

    Raises:
        IllegalTransitionError: the pair is not in :data:`TABLE`.
    """
    following = TABLE.get((state, event))
    if following is None:
        raise IllegalTransitionError(f"{event.name} cannot happen in {state.value}")
    return Step(following, ENTRY_EFFECTS[following])

"""The states of a run and what moves it from one to the next. Pure.

    QUEUED --claim--> RUNNING --succeed--> SUCCEEDED
       ^                 |------fail-----> FAILED
       |----give back----|-----cancel----> CANCELLED   (a queued run too)
       |-----silence-----|                 (after MOST_SILENCES of them: FAILED)

Invariants:
    * A run ends in exactly one of SUCCEEDED, FAILED and CANCELLED, and nothing moves it from there.
    * Each claim has a number of its own, ``attempt``. Whoever speaks for an older one is refused: a trainer that was
      thought dead cannot overwrite what another one does.
    * A run that succeeded has the bundle that it made; one that failed says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from wheeltapper_fleet.learning.errors import TrainingError

__all__ = ["ENDED", "MOST_SILENCES", "SILENT_SECONDS", "Cause", "Event", "Outcome", "State", "after", "after_silence"]

SILENT_SECONDS: Final = 60.0
"""A trainer that says nothing for so long is taken for dead."""
MOST_SILENCES: Final = 3
"""So many trainers may fall silent over one run: what kills three is taken for the run's own fault."""


class State(StrEnum):
    """Where a run is."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


ENDED: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


class Event(StrEnum):
    """What happens to a run."""

    CLAIM = "claim"
    SUCCEED = "succeed"
    FAIL = "fail"
    GIVE_BACK = "give back"
    SILENCE = "silence"
    CANCEL = "cancel"


_TABLE: Final[Mapping[tuple[State, Event], State]] = {
    (State.QUEUED, Event.CLAIM): State.RUNNING,
    (State.QUEUED, Event.CANCEL): State.CANCELLED,
    (State.RUNNING, Event.SUCCEED): State.SUCCEEDED,
    (State.RUNNING, Event.FAIL): State.FAILED,
    (State.RUNNING, Event.GIVE_BACK): State.QUEUED,
    (State.RUNNING, Event.CANCEL): State.CANCELLED,
}


@dataclass(frozen=True)
class Cause:
    """Why there is a run: ``person``, ``policy`` or ``search``, and which one."""

    kind: str
    id: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an execution ended, as its trainer says it.

    Args:
        state: SUCCEEDED, FAILED, or QUEUED: the trainer stops, and another one may have the run.
        result: SHA-256 of the bundle's manifest.
        metrics: what the recipe measured, by name; the gates' values are added from the manifest.
        digests: SHA-256 of ``data``, ``code``, ``environment``, ``recipe``, ``model``.
        parameters: all of the recipe's, each as JSON.
        plots: SHA-256 of each plot (SVG), by name.
        warnings: what was left out, or what the data cannot show.
        trials: of a search, in the order in which they began.
        error_code, error_detail: why it failed.
    """

    state: State
    result: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    plots: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    trials: Sequence[Mapping[str, Any]] = ()
    error_code: str | None = None
    error_detail: str | None = None

    @property
    def event(self) -> Event:
        """What it does to the run.

        Raises:
            TrainingError: ``run.outcome``: it is no end, or says too little.
        """
        if self.state is State.SUCCEEDED and self.result is None:
            raise TrainingError("run.outcome", "a run that succeeded names its bundle: result", 422)
        if self.state is State.FAILED and not self.error_code:
            raise TrainingError("run.outcome", "a run that failed says why: error_code", 422)
        events = {State.SUCCEEDED: Event.SUCCEED, State.FAILED: Event.FAIL, State.QUEUED: Event.GIVE_BACK}
        if self.state not in events:
            raise TrainingError("run.outcome", f"a trainer does not end a run as {self.state}", 422)
        return events[self.state]


def after(state: State, event: Event, run: str) -> State:
    """The state after an event; for silence see :func:`after_silence`.

    Raises:
        TrainingError: ``run.state`` (409): the run is not where this can happen.
    """
    found = _TABLE.get((state, event))
    if found is None:
        raise TrainingError("run.state", f"the run {run} is {state}: {event} is too late", 409)
    return found


def after_silence(silences: int) -> State:
    """The state of a running run whose trainer fell silent, which makes it so many of them."""
    return State.FAILED if silences >= MOST_SILENCES else State.QUEUED

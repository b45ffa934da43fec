"""One device's attempt at a campaign: a small machine of its own, ``move(execution, event) -> execution``. Pure.

Invariants:
    * A terminal state never changes.
    * A state never goes backwards, so reports may come twice and in any order.
    * An execution that was never assigned (PENDING) does not move, whatever a device reports.
    * An event that comes too late changes nothing; an execution in a state that is not known here never moves.
    * A failure that is to be asked again is no end: the execution waits as RETRYING and goes on under another id
      (:func:`retried`). It is asked a bounded number of times.

Example::

    move(execution, Assign(now=10.0, deadline_at=70.0)).state  # "ASSIGNED"
    advance("ASSIGNED", ExecutionState.COMMITTED)  # "COMMITTED"
    advance("COMMITTED", ExecutionState.FAILED)  # "COMMITTED": it has ended
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from wheeltapper_fleet.campaigns.rules.spec import RetryRule
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = [
    "PENDING",
    "RETRYING",
    "SUCCESS",
    "AskAgain",
    "Assign",
    "Cancel",
    "Deadline",
    "Execution",
    "ExecutionEvent",
    "Fail",
    "Refuse",
    "Report",
    "Retry",
    "Supersede",
    "advance",
    "is_known",
    "is_terminal",
    "move",
    "refuse",
    "retried",
    "tells_device",
]

PENDING: Final = "PENDING"
RETRYING: Final = "RETRYING"
"""It failed, and its device is asked again at its ``deadline_at``."""
SUCCESS: Final = ExecutionState.COMMITTED.value
_ASSIGNED: Final = ExecutionState.ASSIGNED.value
_TERMINAL_RANK: Final = 100
_RANK: Final[dict[str, int]] = {
    PENDING: -1,
    RETRYING: -1,
    **{state.value: _TERMINAL_RANK if state.terminal else rank for rank, state in enumerate(ExecutionState)},
}


@dataclass(frozen=True)
class Execution:
    """One device's attempt within a campaign, as the fleet knows it. ``wave`` counts from 0; times are Unix seconds.

    ``campaign`` is None where a default release asks for it. ``attempt`` counts how often the device was asked, from 1.
    """

    id: str
    device: str
    wave: int
    state: str = PENDING
    code: str = ""
    detail: str = ""
    assigned_at: float | None = None
    deadline_at: float | None = None
    campaign: str | None = None
    attempt: int = 1

    @property
    def terminal(self) -> bool:
        """Whether it has ended."""
        return is_terminal(self.state)

    @property
    def superseded(self) -> bool:
        """Whether another campaign took its device."""
        return self.state == ExecutionState.SUPERSEDED

    @property
    def assigned(self) -> bool:
        """Whether it was ever handed out."""
        return self.assigned_at is not None


@dataclass(frozen=True)
class Assign:
    """It is handed out at ``now``, and must end by ``deadline_at``."""

    now: float
    deadline_at: float


@dataclass(frozen=True)
class Report:
    """Its device reports ``state``."""

    state: ExecutionState
    code: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Refuse:
    """Its device refuses the assignment."""

    code: str
    detail: str = ""


@dataclass(frozen=True)
class Deadline:
    """Its deadline is over."""


@dataclass(frozen=True)
class Cancel:
    """Its campaign ends before it was handed out."""


@dataclass(frozen=True)
class Supersede:
    """The campaign or default release ``by`` takes its device."""

    by: str


@dataclass(frozen=True)
class Fail:
    """The fleet gives it up: its device is gone, or what it asks for does not exist."""

    code: str
    detail: str = ""


@dataclass(frozen=True)
class AskAgain:
    """The device gave it up only because its campaign was paused: it is asked again, under the id ``id``.

    The device remembers the id that it has ended, and would not begin it again.
    """

    id: str


@dataclass(frozen=True)
class Retry:
    """Its time to wait is over: its device is asked again, under the id ``id``, and must end by ``deadline_at``."""

    id: str
    deadline_at: float


ExecutionEvent = Assign | Report | Refuse | Deadline | Cancel | Supersede | Fail | AskAgain | Retry


class _Phase(Enum):
    """What an execution's state means to the fleet."""

    PENDING = "not handed out"
    ASSIGNED = "handed out"
    BEGUN = "the device has begun"
    RETRYING = "failed, and asked again later"
    ENDED = "ended"
    UNKNOWN = "of another version"


_P: Final = _Phase  # short, so that the table below stays aligned


def move(execution: Execution, event: ExecutionEvent) -> Execution:
    """The execution after ``event``; ``execution`` itself where the event changes nothing."""
    action = _TABLE.get((_phase(execution.state), type(event)))
    return execution if action is None else action(execution, event)


def is_terminal(state: str) -> bool:
    """Whether an execution in ``state`` has ended. One in a state that is not known here has not."""
    return _RANK.get(state) == _TERMINAL_RANK


def is_known(state: str) -> bool:
    """Whether this version knows ``state``."""
    return state in _RANK


def advance(current: str, reported: ExecutionState) -> str:
    """The state after a device's report; ``current`` where the report changes nothing."""
    if current in (PENDING, RETRYING) or current not in _RANK or is_terminal(current):
        return current
    return reported.value if _RANK[reported.value] > _RANK[current] else current


def refuse(current: str) -> str:
    """The state after a device refused the assignment: REJECTED, if the device had not begun yet.

    A refusal that comes later is about a repetition of the same assignment and changes nothing.
    """
    return ExecutionState.REJECTED.value if current == _ASSIGNED else current


def retried(execution: Execution, rules: Sequence[RetryRule], now: float) -> Execution:
    """An execution that has just failed at ``now``: RETRYING where the first of ``rules`` that is about it says so."""
    rule = next((each for each in rules if each.covers(execution.state, execution.code)), None)
    if rule is None or execution.attempt > rule.times:
        return execution
    return replace(execution, state=RETRYING, deadline_at=now + rule.waits_seconds(execution.attempt))


def tells_device(before: Execution, after: Execution) -> bool:
    """Whether the device is to be told something else after an execution moved from ``before`` to ``after``."""
    if after.id != before.id:
        return True
    if after.state == before.state or not after.assigned:
        return False
    return after.terminal or after.state == RETRYING or before.state in (PENDING, _ASSIGNED)


def _phase(state: str) -> _Phase:
    if state == PENDING:
        return _Phase.PENDING
    if state == _ASSIGNED:
        return _Phase.ASSIGNED
    if state == RETRYING:
        return _Phase.RETRYING
    if state not in _RANK:
        return _Phase.UNKNOWN
    return _Phase.ENDED if is_terminal(state) else _Phase.BEGUN


def _assign(execution: Execution, event: ExecutionEvent) -> Execution:
    assert isinstance(event, Assign)
    return replace(execution, state=_ASSIGNED, assigned_at=event.now, deadline_at=event.deadline_at)


def _report(execution: Execution, event: ExecutionEvent) -> Execution:
    """The state may stay and only its code change: the device says a new reason why it has not come further
    (``update.waiting_window``, then ``update.waiting_disk``)."""
    assert isinstance(event, Report)
    following = advance(execution.state, event.state)
    new_reason = event.state.value == execution.state and bool(event.code)
    if following == execution.state and not new_reason:
        return execution
    return replace(execution, state=following, code=event.code, detail=event.detail)


def _refuse(execution: Execution, event: ExecutionEvent) -> Execution:
    assert isinstance(event, Refuse)
    return replace(execution, state=refuse(execution.state), code=event.code, detail=event.detail)


def _deadline(execution: Execution, _event: ExecutionEvent) -> Execution:
    return _end(execution, ExecutionState.FAILED, "execution.deadline", f"was {execution.state}")


def _cancel(execution: Execution, _event: ExecutionEvent) -> Execution:
    return _end(execution, ExecutionState.CANCELLED, "execution.cancelled", execution.detail)


def _supersede(execution: Execution, event: ExecutionEvent) -> Execution:
    assert isinstance(event, Supersede)
    return _end(execution, ExecutionState.SUPERSEDED, "execution.superseded", f"by {event.by}")


def _fail(execution: Execution, event: ExecutionEvent) -> Execution:
    assert isinstance(event, Fail)
    return _end(execution, ExecutionState.FAILED, event.code, event.detail)


def _ask_again(execution: Execution, event: ExecutionEvent) -> Execution:
    assert isinstance(event, AskAgain)
    detail = f"withdrawn as {execution.id} while the campaign was paused"
    return replace(execution, id=event.id, state=_ASSIGNED, code="execution.asked_again", detail=detail)


def _retry(execution: Execution, event: ExecutionEvent) -> Execution:
    assert isinstance(event, Retry)
    attempt = execution.attempt + 1
    detail = f"attempt {attempt}; before: {execution.code} {execution.detail}".rstrip()
    return replace(
        execution,
        id=event.id,
        state=_ASSIGNED,
        code="execution.asked_again",
        detail=detail,
        deadline_at=event.deadline_at,
        attempt=attempt,
    )


def _end(execution: Execution, state: ExecutionState, code: str, detail: str) -> Execution:
    return replace(execution, state=state.value, code=code, detail=detail)


_TABLE: Final[dict[tuple[_Phase, type], Callable[[Execution, ExecutionEvent], Execution]]] = {
    (_P.PENDING,  Assign):    _assign,
    (_P.PENDING,  Cancel):    _cancel,
    (_P.PENDING,  Supersede): _supersede,
    (_P.ASSIGNED, Report):    _report,
    (_P.ASSIGNED, Refuse):    _refuse,
    (_P.ASSIGNED, Deadline):  _deadline,
    (_P.ASSIGNED, Supersede): _supersede,
    (_P.ASSIGNED, Fail):      _fail,
    (_P.ASSIGNED, AskAgain):  _ask_again,
    (_P.BEGUN,    Report):    _report,
    (_P.BEGUN,    Deadline):  _deadline,
    (_P.BEGUN,    Supersede): _supersede,
    (_P.BEGUN,    Fail):      _fail,
    (_P.BEGUN,    AskAgain):  _ask_again,
    (_P.RETRYING, Retry):     _retry,
    (_P.RETRYING, Cancel):    _cancel,
    (_P.RETRYING, Supersede): _supersede,
    (_P.RETRYING, Fail):      _fail,
}  # fmt: skip

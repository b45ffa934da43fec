"""One device's attempt at a campaign: which state follows the known one when the device reports.

Invariants:
    * A terminal state never changes.
    * A state never goes backwards, so reports may come twice and in any order.
    * An execution that was never assigned (PENDING) does not move, whatever a device reports.

Example::

    advance("ASSIGNED", ExecutionState.COMMITTED)  # "COMMITTED"
    advance("COMMITTED", ExecutionState.FAILED)  # "COMMITTED": it has ended
"""

from __future__ import annotations

from typing import Final

from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["PENDING", "SUCCESS", "advance", "is_terminal", "refuse"]

PENDING: Final = "PENDING"
SUCCESS: Final = ExecutionState.COMMITTED.value
_TERMINAL_RANK: Final = 100
_RANK: Final[dict[str, int]] = {
    PENDING: -1,
    **{state.value: _TERMINAL_RANK if state.terminal else rank for rank, state in enumerate(ExecutionState)},
}


def is_terminal(state: str) -> bool:
    """Whether an execution in ``state`` has ended. One in a state that is not known here has not."""
    return _RANK.get(state) == _TERMINAL_RANK


def advance(current: str, reported: ExecutionState) -> str:
    """The state after a device's report; ``current`` where the report changes nothing."""
    if current == PENDING or current not in _RANK or is_terminal(current):
        return current
    return reported.value if _RANK[reported.value] > _RANK[current] else current


def refuse(current: str) -> str:
    """The state after a device refused the assignment: REJECTED, if the device had not begun yet.

    A refusal that comes later is about a repetition of the same assignment and changes nothing.
    """
    return ExecutionState.REJECTED.value if current == ExecutionState.ASSIGNED.value else current

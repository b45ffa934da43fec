"""One device's attempt, as the fleet sees it: which reported state may follow which known one.

Invariants: a terminal state never changes; a state never goes backwards, so reports may come twice or out of order; an
execution that was never assigned does not move by what a device says.
"""

from __future__ import annotations

from typing import Final

from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["PENDING", "SUCCESS", "advance", "is_terminal", "refuse"]

PENDING: Final = "PENDING"
SUCCESS: Final = ExecutionState.COMMITTED.value
_RANK: Final[dict[str, int]] = {
    PENDING: -1,
    **{state.value: 100 if state.terminal else rank for rank, state in enumerate(ExecutionState)},
}


def is_terminal(state: str) -> bool:
    """Whether nothing more comes after ``state``."""
    return _RANK[state] == 100


def advance(current: str, reported: ExecutionState) -> str:
    """The state after a device's report; ``current`` where the report changes nothing."""
    if current == PENDING or is_terminal(current):
        return current
    return reported.value if _RANK[reported.value] > _RANK[current] else current


def refuse(current: str) -> str:
    """The state after a device refused the assignment: it ends an attempt that has not begun, nothing else.

    A refusal that comes later is about a repetition of the same assignment and changes nothing.
    """
    return ExecutionState.REJECTED.value if current == ExecutionState.ASSIGNED.value else current

"""How long the trials of a release may take, from the pace of the source that it is tried on. Pure.

A source that gives a window a minute needs three minutes for three windows, one that gives a window an hour three
hours. The times of the configuration are those for a source that is quick; a trial on a slow one may take
:data:`SLACK` times as long as its windows take at the source's pace.
"""

from __future__ import annotations

from typing import Final, Protocol

__all__ = ["SLACK", "deadline_left_seconds", "probation_seconds", "shadow_seconds", "waits_for"]

SLACK: Final = 3.0
"""Sources are irregular, and some windows are incomplete."""
_OWN_STATES: Final = ("running", "waiting", "ended")


class _Deadline(Protocol):
    """The part of an execution that says until when it may take."""

    @property
    def deadline_seconds(self) -> float: ...

    @property
    def spent_seconds(self) -> float: ...


def deadline_left_seconds(execution: _Deadline) -> float | None:
    """Seconds that were left until the deadline of ``execution`` when its trial began; None: it has none."""
    if execution.deadline_seconds <= 0:
        return None
    return max(0.0, execution.deadline_seconds - execution.spent_seconds)


def shadow_seconds(timeout: float, windows: int, interval: float, deadline_left: float | None) -> float:
    """How long a shadow run may take.

    Args:
        timeout: seconds that are configured.
        windows: that it shall score.
        interval: seconds from one window to the next; 0: unknown.
        deadline_left: seconds until the execution must be active; None: it has no deadline.

    Returns:
        Seconds: at least ``timeout``; what follows from the pace beyond that takes no more than half of what is left.
    """
    allowed = SLACK * windows * interval
    if deadline_left is not None:
        allowed = min(allowed, deadline_left / 2)
    return max(timeout, allowed)


def probation_seconds(timeout: float, wait: float, windows: int, interval: float, deadline_left: float | None) -> float:
    """How long probation may take.

    Args:
        timeout: seconds that are configured.
        wait: seconds for a source that gives nothing.
        windows: that the release must score.
        interval: seconds from one window to the next; 0: unknown.
        deadline_left: seconds until the deadline of the execution; None: it has none.

    Returns:
        Seconds: at least ``timeout``; no longer than the deadline beyond that.
    """
    allowed = max(wait, SLACK * windows * interval)
    if deadline_left is not None:
        allowed = min(allowed, deadline_left)
    return max(timeout, allowed)


def waits_for(passed: float, timeout: float, lacking: int, interval: float, state: str) -> tuple[str, str]:
    """What a trial waits for, if that is worth saying.

    Args:
        passed: seconds since it began.
        timeout: seconds that are configured.
        lacking: windows that are still to come.
        interval: seconds from one window to the next; 0: unknown.
        state: of the source.

    Returns:
        The kind of reason, and the reason for a person; both empty where nothing is to be said yet.
    """
    if state not in _OWN_STATES:
        return state, f"its source gives none [{state}]"
    if lacking * interval > timeout:
        return "slow", f"its source gives one in {interval:g} s"
    if passed > timeout:
        return "none", "its source gives too few that are complete"
    return "", ""

"""How long an execution may take until it is active, and how much of that passed while the agent did not run. Pure.

Invariants: what passed is never negative. Within one boot the seconds since it count, sleep included, whatever became
of the wall clock; over a boot there is the wall clock alone, and a moment noted by one that lay before the newest
verified time says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["Moment", "allowed_seconds", "away_seconds"]

_LEAST_ALLOWED_SECONDS: Final = 1e-3
"""Stands for a deadline that is over: 0 would say that there is none."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment by the two clocks that a restart of the agent does not stop."""

    wall_seconds: float
    """Unix time by the device's clock; 0: unknown."""
    boot: str = ""
    """Id of the boot; empty: unknown."""
    boot_seconds: float = 0.0
    """Since that boot."""


def allowed_seconds(own_seconds: float, deadline: float | None, now_seconds: float) -> float:
    """From now to the deadline; 0: there is none.

    Args:
        own_seconds: what the device allows; 0: no limit.
        deadline: Unix time that the assignment says, if it does.
        now_seconds: Unix time, never before what was verified with that assignment.
    """
    if deadline is None:
        return own_seconds
    theirs = max(_LEAST_ALLOWED_SECONDS, deadline - now_seconds)
    return min(own_seconds or theirs, theirs)


def away_seconds(then: Moment, now: Moment, newest_seconds: float) -> float:
    """What passed from ``then`` to ``now``, as far as it can be known.

    Args:
        then: when the agent last wrote.
        now: when it started.
        newest_seconds: newest Unix time that was verified before ``then``.
    """
    if then.boot and then.boot == now.boot:
        return max(0.0, now.boot_seconds - then.boot_seconds)
    if then.wall_seconds <= 0.0 or then.wall_seconds < newest_seconds:
        return 0.0
    return max(0.0, now.wall_seconds - then.wall_seconds)

"""How long an execution may take until it is active, and how much of that passed while the agent did not run. Pure.

Invariants:
    * The time that passed is never negative.
    * Within one boot the seconds since that boot count, sleep included, whatever the wall clock did.
    * Over a reboot there is only the wall clock. A moment that was noted while the clock lay before the newest verified
      time is wrong, and then no time counts as passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["Moment", "allowed_seconds", "downtime_seconds"]

_LEAST_ALLOWED_SECONDS: Final = 1e-3
"""Stands for a deadline that has passed already: 0 would mean that there is none."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment by the two clocks that a restart of the agent does not stop."""

    wall_seconds: float
    """Unix time by the device's clock; 0: unknown."""
    boot: str = ""
    """Id that the kernel gives to each boot; empty: unknown."""
    boot_seconds: float = 0.0
    """Seconds since that boot, sleep included."""


def allowed_seconds(own_seconds: float, deadline: float | None, now_seconds: float) -> float:
    """Seconds from now to the deadline; 0: there is none. The nearer of the device's and the assignment's counts.

    Args:
        own_seconds: seconds that the device allows; 0: no limit.
        deadline: Unix time of the assignment's own deadline; None: it has none.
        now_seconds: present Unix time, never before the newest verified time.
    """
    if deadline is None:
        return own_seconds
    theirs = max(_LEAST_ALLOWED_SECONDS, deadline - now_seconds)
    return min(own_seconds or theirs, theirs)


def downtime_seconds(then: Moment, now: Moment, newest_seconds: float) -> float:
    """Seconds from ``then`` to ``now``; 0 where they cannot be known.

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

"""How the agent's rooms read the time and sleep; what stands behind it is handed in. Pure: it reads no clock itself.

The clock of the operating system is in :mod:`wheeltapper_agent.ground.system_clock`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ["Clock", "InterruptibleSleep", "no_sleep"]

InterruptibleSleep = Callable[[float], None]
"""Sleeps for a number of seconds. Raises an exception of the caller's choice instead where the work that it is part of
shall end, e.g. because an update was cancelled; 0 seconds only asks for that."""


def no_sleep(_seconds: float) -> None:
    """An :data:`InterruptibleSleep` that returns at once and never breaks off."""


class Clock(Protocol):
    """Where the agent reads the time; tests hand in a clock of their own."""

    def now(self) -> float:
        """Unix time in seconds. It may jump when the system's clock is set."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment. It never jumps and never runs backwards."""

"""The agent's clocks, and the two ways in which its threads wait: a sleep that its caller can break off, and an event
that ends every wait when the agent stops."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

__all__ = ["Clock", "InterruptibleSleep", "StopEvent", "SystemClock", "no_sleep", "since_boot"]

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


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


def since_boot() -> tuple[str, float]:
    """The id of the present boot, and the seconds since that boot.

    Returns:
        The kernel's ``boot_id``, empty where the system does not have one; and ``CLOCK_BOOTTIME``, which also counts
        while the system is suspended (``clock_gettime(2)``).
    """
    try:
        boot = _BOOT_ID.read_text(encoding="ascii", errors="replace").strip()[:64]
    except OSError:
        boot = ""
    return boot, time.clock_gettime(time.CLOCK_BOOTTIME)


class SystemClock:
    """The clock of the operating system; implements :class:`Clock`."""

    def now(self) -> float:
        """See :class:`Clock`."""
        return time.time()

    def monotonic(self) -> float:
        """See :class:`Clock`."""
        return time.monotonic()


class StopEvent:
    """Like :class:`threading.Event`, but once set it stays set. For threads that wait once a window.

    It is one lock that is held until :meth:`set`. ``threading.Event.wait`` creates and queues a lock at each call: that
    costs 50 us of a window's CPU time where the processor's cache is cold between two windows.
    """

    def __init__(self) -> None:
        self._held_until_set = threading.Lock()
        self._held_until_set.acquire()
        self._is_set = False

    def is_set(self) -> bool:
        """Whether :meth:`set` was called."""
        return self._is_set

    def set(self) -> None:
        """End every wait, now and later."""
        self._is_set = True
        with contextlib.suppress(RuntimeError):  # another thread released it just now
            self._held_until_set.release()

    def wait(self, seconds: float) -> bool:
        """Wait until :meth:`set` is called, at most ``seconds``.

        Returns:
            Whether :meth:`set` was called; True also at once where it was called before.
        """
        if (
            not self._is_set
            and seconds > 0
            and self._held_until_set.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))
        ):
            self._held_until_set.release()
        return self._is_set

"""The real clock, and how long the system has been up."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

__all__ = ["Clock", "Pause", "StopEvent", "SystemClock", "no_pause", "since_boot"]

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


Pause = Callable[[float], None]
"""Waits for so many seconds (0: only looks whether to go on); raises to break off."""


def no_pause(_seconds: float) -> None:
    """Goes on at once."""


class Clock(Protocol):
    """Time: :meth:`now` may jump, :meth:`monotonic` never does. Both in seconds."""

    def now(self) -> float: ...

    def monotonic(self) -> float: ...


def since_boot() -> tuple[str, float]:
    """The id of this boot (empty where the system does not say), and the seconds since it, those asleep included."""
    try:
        boot = _BOOT_ID.read_text(encoding="ascii", errors="replace").strip()[:64]
    except OSError:
        boot = ""
    return boot, time.clock_gettime(time.CLOCK_BOOTTIME)


class SystemClock:
    """Implements :class:`wheeltapper_agent.ground.clock.Clock`."""

    def now(self) -> float:
        """Unix time in seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment; never jumps."""
        return time.monotonic()


class StopEvent:
    """As :class:`threading.Event`, without a way back."""

    def __init__(self) -> None:
        self._held = threading.Lock()
        self._held.acquire()
        self._over = False

    def is_set(self) -> bool:
        """Whether :meth:`set` was called."""
        return self._over

    def set(self) -> None:
        """End every wait, now and later."""
        self._over = True
        with contextlib.suppress(RuntimeError):  # another thread did it just now
            self._held.release()

    def wait(self, seconds: float) -> bool:
        """Wait for so long at most; True once :meth:`set` was called."""
        if not self._over and seconds > 0 and self._held.acquire(timeout=min(seconds, threading.TIMEOUT_MAX)):
            self._held.release()
        return self._over

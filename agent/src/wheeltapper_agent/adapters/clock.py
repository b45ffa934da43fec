"""The real clock, and how long the system has been up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

__all__ = ["SystemClock", "since_boot"]

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def since_boot() -> tuple[str, float]:
    """The id of this boot (empty where the system does not say), and the seconds since it, those asleep included."""
    try:
        boot = _BOOT_ID.read_text(encoding="ascii", errors="replace").strip()[:64]
    except OSError:
        boot = ""
    return boot, time.clock_gettime(time.CLOCK_BOOTTIME)


class SystemClock:
    """Implements :class:`wheeltapper_agent.ports.Clock`."""

    def now(self) -> float:
        """Unix time in seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment; never jumps."""
        return time.monotonic()

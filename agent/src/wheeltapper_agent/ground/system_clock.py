"""The clock of the operating system, and the time since the device was booted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

__all__ = ["SystemClock", "since_boot"]

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


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
    """The clock of the operating system; implements :class:`~wheeltapper_agent.ground.clock.Clock`."""

    def now(self) -> float:
        """See :class:`~wheeltapper_agent.ground.clock.Clock`."""
        return time.time()

    def monotonic(self) -> float:
        """See :class:`~wheeltapper_agent.ground.clock.Clock`."""
        return time.monotonic()

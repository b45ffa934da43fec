"""How much was uploaded in the present day: over restarts and boots, whatever the clock says.

Invariants:
    * A day is 24 hours from its first upload, by the monotonic clock. A clock that is set, forward or back, begins no
      new day.
    * Between two lives of the agent in one boot the seconds since the boot count. Over a boot there is only the wall
      clock; where it lies before the time that was stored, no time counts as passed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.files import write_atomic
from wheeltapper_agent.ground.system_clock import since_boot

__all__ = ["DayShare"]

_LOG = logging.getLogger(__name__)
_DAY_SECONDS: Final = 86_400.0


class _State(msgspec.Struct, frozen=True):
    """What the file keeps."""

    sent_bytes: int = 0
    elapsed_seconds: float = 0.0
    """Of the day, when this was written."""
    boot: str = ""
    boot_seconds: float = 0.0
    wall_seconds: float = 0.0


class DayShare:
    """Counts uploaded bytes. One thread counts, any may read.

    Args:
        file: keeps the count.
        clock: time.
        booted: gives the id of the present boot, and the seconds since.
    """

    def __init__(self, file: Path, clock: Clock, booted: Callable[[], tuple[str, float]] = since_boot) -> None:
        self._file, self._clock, self._booted = file, clock, booted
        try:
            stored = msgspec.json.decode(file.read_bytes(), type=_State)
        except (OSError, msgspec.DecodeError):
            stored = _State()
        boot, boot_seconds = booted()
        if boot and boot == stored.boot:
            passed = boot_seconds - stored.boot_seconds
        else:
            passed = clock.now() - stored.wall_seconds
        self._sent_bytes = max(0, stored.sent_bytes)
        self._began = clock.monotonic() - max(0.0, stored.elapsed_seconds) - max(0.0, passed)

    @property
    def sent_bytes(self) -> int:
        """Bytes that were uploaded in the present day."""
        return 0 if self._clock.monotonic() - self._began >= _DAY_SECONDS else self._sent_bytes

    def add(self, count: int) -> None:
        """Count ``count`` bytes that were uploaded now."""
        sent = self.sent_bytes
        if not sent:
            self._began = self._clock.monotonic()
        self._sent_bytes = sent + count
        elapsed = self._clock.monotonic() - self._began
        state = _State(self._sent_bytes, elapsed, *self._booted(), self._clock.now())
        try:
            write_atomic(self._file, msgspec.json.encode(state))
        except OSError as error:
            _LOG.warning("captures: how much was sent today cannot be stored: %s", error)

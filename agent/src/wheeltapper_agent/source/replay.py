"""The kind ``replay``: a recording in a file, played once at a steady rate, from where it was left.

The snapshots of an ``.npz`` recording are windows; with ``window_samples`` they are cut into others. WAV, CSV and
Parquet hold one continuous signal, which is cut into windows. Nothing is skipped when the pipeline is slow.

Invariants:
    * Window ``i`` is the same each time that the file is played.
    * A file that disappears while it is played, as on a stick that is pulled out, is tried again with growing pauses
      and goes on where it was.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from collections.abc import Iterator
from typing import Final

from wheeltapper_agent.ground.backoff import retry_delay_seconds
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError, FaultCount
from wheeltapper_agent.ground.stop_event import StopEvent
from wheeltapper_agent.source.base import SourceContext, SourceKind, Window
from wheeltapper_agent.source.recorded import ReplayConfig, open_recorded

__all__ = ["KIND", "ReplayConfig", "ReplaySource"]

_LOG = logging.getLogger(__name__)
_FORMATS: Final = {".wav": "wav", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".npz": "npz"}
_RETRY_FIRST_SECONDS: Final = 1.0
_RETRY_MAX_SECONDS: Final = 60.0
_MAX_WINDOW_VALUES: Final = 2**24


class ReplaySource:
    """A recording, played once at a steady rate; implements :class:`~wheeltapper_agent.source.base.Source`.

    Args:
        config: of the recording.
        clock: the device's.

    Raises:
        AgentError: ``source.unreadable``, ``source.malformed``, ``source.extra``, ``source.mismatch``,
            ``config.invalid``.
        RecordingError: ``recording.*``.
    """

    def __init__(self, config: ReplayConfig, clock: Clock) -> None:
        if not 0 < config.rate_hz <= 1e6:
            raise AgentError("config.invalid", "rate_hz of a replay must be above 0 and at most 1e6")
        self._recording = open_recorded(config)
        self.spec = self._recording.spec
        self._config = config
        self._clock = clock
        self._closed = StopEvent()
        self._begin = threading.Event()
        if not config.hold_until_model:
            self._begin.set()
        self.dropped = 0
        self.state = "waiting" if config.hold_until_model else "running"
        self._next = 0
        """Index of the next window."""
        self._due_s: float | None = None
        """Monotonic time at which window 0 would have been due."""

    room: Final = 10**6
    """A recording loses nothing while it waits."""

    @property
    def pending(self) -> int:
        """Windows that are due already; 0 if the number of windows in the file is not known."""
        if self._recording.count is None or self._due_s is None:
            return 0
        due = math.floor((self._clock.monotonic() - self._due_s) * self._config.rate_hz) + 1
        return max(0, min(due, self._recording.count) - self._next)

    @property
    def interval_seconds(self) -> float:
        """Seconds of the wall clock from one window to the next."""
        return 1 / self._config.rate_hz

    @property
    def malformed_payloads(self) -> int:
        """Rows and cells of the file that could not be read."""
        return self._recording.lost

    @property
    def faults(self) -> list[FaultCount]:
        """What the file lacks, by kind."""
        return self._recording.faults

    def model_ready(self) -> None:
        """Begin, if the source waits for a model."""
        self._begin.set()

    def close(self) -> None:
        """End :meth:`windows` soon."""
        self._closed.set()
        self._begin.set()

    def windows(self, first: int) -> Iterator[Window]:
        """Give the windows ``first``, ``first + 1``, …; none is skipped when the pipeline is slow."""
        self._begin.wait()
        failures, self._next = 0, first
        self._due_s = self._clock.monotonic() - first / self._config.rate_hz
        while not self._closed.is_set():
            try:
                for index, window in enumerate(self._recording.windows(self._closed.is_set)):
                    if index < self._next:
                        continue
                    due_in = self._due_s + self._next / self._config.rate_hz - self._clock.monotonic()
                    if self._closed.is_set() or (due_in > 0 and self._closed.wait(due_in)):
                        return
                    self.state, failures = "running", 0
                    self._next += 1
                    yield window
            except AgentError as error:
                if self.state != error.code:
                    _LOG.warning("the replay stopped: %s; trying again", error)
                self.state = error.code
                failures += 1
                delay = retry_delay_seconds(failures, random.random(), _RETRY_FIRST_SECONDS, _RETRY_MAX_SECONDS)  # noqa: S311  # jitter
                self._closed.wait(delay)
            else:
                if not self._closed.is_set():
                    self.state = "ended"
                return


def _make(config: ReplayConfig, context: SourceContext) -> ReplaySource:
    """Return the source that a configuration describes; ``make`` of :data:`KIND`."""
    return ReplaySource(config, context.clock)


KIND = SourceKind(ReplayConfig, _make)

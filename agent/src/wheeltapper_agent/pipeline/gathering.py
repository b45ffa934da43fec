"""Lets windows that come fast come together, because waking up for each costs more than scoring it."""

from __future__ import annotations

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.stop_event import StopEvent
from wheeltapper_agent.model.bundle import MAX_BATCH
from wheeltapper_agent.source.deferred import DeferredSource

__all__ = ["Gathering"]


class Gathering:
    """The pauses of one pipeline.

    Args:
        seconds: how long windows may wait at most; 0: not at all.
        source: keeps windows while nobody takes them.
        clock: the device's.
        stopping: ends a pause.
    """

    def __init__(self, seconds: float, source: DeferredSource, clock: Clock, stopping: StopEvent) -> None:
        self._seconds, self._source, self._clock, self._stopping = seconds, source, clock, stopping
        self._at = clock.monotonic()

    def pause(self, count: int) -> None:
        """Wait, if that lets several windows come together; ``count`` windows were taken since the last call."""
        if not self._seconds:
            return
        now = self._clock.monotonic()
        interval, self._at = (now - self._at) / count, now
        wait = min(self._seconds, interval * min(MAX_BATCH, self._source.room) / 2)
        if wait > 2 * interval and not self._source.pending:
            self._stopping.wait(wait)

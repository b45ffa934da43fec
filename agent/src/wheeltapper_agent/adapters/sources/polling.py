"""Sampling by asking: when the next sample is due, and which were missed."""

from __future__ import annotations

import math
from typing import Final

from wheeltapper_agent.adapters.sources.stream import Sink
from wheeltapper_agent.adapters.sources.stream_config import StreamConfig

__all__ = ["MAX_POLL_HZ", "Ticks", "check_poll_rate"]

MAX_POLL_HZ: Final = 1000.0


class Ticks:
    """Moments at a steady rate since the connection was made; a moment that passed while the last answer was awaited
    is skipped, and shows as missing samples in the stream.

    Args:
        sink: for its clock.
        rate_hz: of the samples.
    """

    def __init__(self, sink: Sink, rate_hz: float) -> None:
        self._clock = sink.clock
        self._rate_hz = rate_hz
        self._began_s, self._began_at_s = sink.clock.monotonic(), sink.clock.now()
        self._index = -1

    def due_in_seconds(self) -> float:
        """Go to the next moment; returns how long it is until then, at least 0."""
        passed_s = self._clock.monotonic() - self._began_s
        self._index = max(self._index + 1, math.floor(passed_s * self._rate_hz))
        return max(0.0, self._index / self._rate_hz - passed_s)

    @property
    def t_s(self) -> float:
        """Unix time of this moment, as of when the connection was made: a wall clock that is set moves nothing."""
        return max(0.0, self._began_at_s + self._index / self._rate_hz)


def check_poll_rate(config: StreamConfig) -> str:
    """What is wrong with the rate, or nothing: no server is asked more often than :data:`MAX_POLL_HZ`."""
    return "" if config.sample_rate_hz <= MAX_POLL_HZ else f"polling cannot be faster than {MAX_POLL_HZ:g} Hz"

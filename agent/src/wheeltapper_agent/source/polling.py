"""When a source that polls takes its next sample."""

from __future__ import annotations

import math
from typing import Final

from wheeltapper_agent.source.stream import Sink
from wheeltapper_agent.source.stream_config import StreamConfig

__all__ = ["MAX_POLL_HZ", "PollSchedule", "check_poll_rate"]

MAX_POLL_HZ: Final = 1000.0
_CLOCK_SECONDS: Final = 3.0
"""If the wall clock went so much further than the monotonic clock, it was set. A clock that is slewed stays
below this."""


class PollSchedule:
    """Moments at a steady rate since the connection was made.

    A moment that passed while the last answer was awaited is skipped, and is a missing sample in the stream. If the
    wall clock is set, during a connection or between two, the moments and the stream move with it and nothing counts as
    lost.

    Args:
        sink: of the source; its clock is used.
        rate_hz: of the samples.
    """

    def __init__(self, sink: Sink, rate_hz: float) -> None:
        self._sink, self._clock = sink, sink.clock
        self._rate_hz = rate_hz
        self._began_s, self._began_at_s = sink.clock.monotonic(), sink.clock.now()
        self._index = -1
        self._follow_wall_clock()

    def due_in_seconds(self) -> float:
        """Go to the next moment, and return how many seconds it is until then, at least 0."""
        self._follow_wall_clock()
        passed_s = self._clock.monotonic() - self._began_s
        self._index = max(self._index + 1, math.floor(passed_s * self._rate_hz))
        return max(0.0, self._index / self._rate_hz - passed_s)

    @property
    def t_s(self) -> float:
        """Unix time of the present moment."""
        return max(0.0, self._began_at_s + self._index / self._rate_hz)

    def _follow_wall_clock(self) -> None:
        """Move the moments with the wall clock if it was set."""
        ahead_s = self._clock.now() - self._clock.monotonic()
        stamped_s = self._began_at_s - self._began_s
        if abs(ahead_s - stamped_s) > _CLOCK_SECONDS:
            self._began_at_s = self._began_s + ahead_s
            stamped_s = ahead_s
        self._sink.stamp_ahead(stamped_s, _CLOCK_SECONDS)


def check_poll_rate(config: StreamConfig) -> str:
    """Return what is wrong with the sample rate, or an empty text: no server is asked more often than
    :data:`MAX_POLL_HZ`."""
    return (
        ""
        if config.sample_rate_hz <= MAX_POLL_HZ
        else f"sample_rate_hz must be at most {MAX_POLL_HZ:g} Hz for a source that polls"
    )

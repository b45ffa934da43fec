"""A source that is read in a thread of its own: retried when it breaks, dropping whole windows when nobody takes them.

What is different from kind to kind is a :class:`Reader`: it connects, and pushes what comes into a :class:`Sink`.

Invariants:
    * At most ``queue_windows`` windows wait. A further one pushes out the oldest, which is counted in ``dropped``; a
      source that can wait (a pipe) waits instead, and so do, for a while, windows that came in one payload.
    * Windows of a stream whose time stamps show another rate than the declared one are not given: ``state`` is
      ``source.mismatch`` as long as they do.
    * A reader that breaks is started again after a growing, jittered delay, without end; ``state`` is the code of what
      broke it until samples come again. Only the reader's own end ends the stream.
    * A payload that cannot be read is counted, logged (once until a good one comes) and shown in ``state``; it never
      ends the connection.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.backoff import retry_delay_seconds
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_agent.source.framing import Framer
from wheeltapper_agent.source.stream_config import StreamConfig

__all__ = ["Reader", "Sink", "StreamSource"]

_LOG = logging.getLogger(__name__)
_JOIN_SECONDS: Final = 5.0
_PATIENCE_SECONDS: Final = 1.0
_PATIENCE_SHARE: Final = 0.9
"""Of the time that a payload's samples took: its reader stays quicker than its sensor."""


class Reader(Protocol):
    """One kind of source, seen from the thread that reads it."""

    def read(self, sink: Sink) -> None:
        """Connect and push until the stream is over (then return) or broken, looking at ``sink.closed`` every second.

        Raises:
            AgentError: ``source.*``; it is called again later.
        """


class Sink:
    """Where a reader puts samples: scales them, cuts windows, keeps the state."""

    def __init__(self, config: StreamConfig, clock: Clock, take: Callable[[list[Window]], None], name: str) -> None:
        self.clock = clock
        self.closed = threading.Event()
        self.state = "waiting"
        self.heard_at_s: float | None = None
        """Monotonic time of the last samples since the connection was made, or of the connection."""
        self.failures = 0
        self.malformed_payloads = 0
        self.full_scale: tuple[float, ...] = config.full_scale
        """What the configuration or else the device says."""
        self.patience_s = 0.0
        """How long the windows of the payload under way may still wait for room."""
        self._framer = Framer(config.framing)
        self._ahead_s: float | None = None
        self._scale = np.array(config.scale, dtype=np.float64) if config.scale else None
        self._offset = np.array(config.offset, dtype=np.float64) if config.offset else None
        self._take = take
        self._rate_hz = config.sample_rate_hz
        self._hop = config.framing.hop
        self._piece = config.queue_windows * self._hop
        self._name = name

    def connected(self) -> None:
        """The connection stands; samples may follow."""
        self.heard_at_s = self.clock.monotonic()
        if self.state != "running":
            self.state = "waiting"
        _LOG.info("pipeline %s: the source is connected", self._name)

    def push(self, samples: NDArray[Any], t_s: float | None = None) -> None:
        """Take samples that came now, [sample, channel] of any real type, as the sensor gives them; NaN where one is
        missing. ``t_s`` is the time of the first one by the source's clock, if it says."""
        at_s, monotonic_s = self.clock.now(), self.clock.monotonic()
        self._begin_payload(len(samples))
        for first in range(0, len(samples), self._piece):  # so that a payload of many windows never becomes all of them
            part, off_s = self._physical(samples[first : first + self._piece]), first / self._rate_hz
            left_s = (len(samples) - first - len(part)) / self._rate_hz
            begun_s = None if t_s is None else t_s + off_s
            try:
                found = self._framer.push(
                    part, at_s=at_s - left_s, monotonic_s=monotonic_s - left_s, t_s=begun_s, counted=first > 0
                )
            except ValueError as error:
                self.refuse(AgentError("source.payload", str(error)))
                return
            self._took(found, len(part))

    def push_physical(self, samples: NDArray[np.float64], times_s: NDArray[np.float64] | None = None) -> None:
        """Take samples that the reader has scaled itself; with ``times_s`` [sample], each has its time in seconds."""
        now, monotonic_s = self.clock.now(), self.clock.monotonic()
        self._begin_payload(len(samples))
        try:
            if times_s is None:
                found = self._framer.push(samples, at_s=now, monotonic_s=monotonic_s)
            else:
                found = self._framer.push_times(samples, times_s, at_s=now, monotonic_s=monotonic_s)
        except ValueError as error:
            self.refuse(AgentError("source.payload", str(error)))
            return
        self._took(found, len(samples))

    def refuse(self, error: AgentError) -> None:
        """A payload cannot be read: what it held is lost, and so is the tie to what follows without a time stamp."""
        self.malformed_payloads += 1
        if self.state != error.code:
            _LOG.warning("pipeline %s: %s", self._name, error)
        self.state = error.code
        self.broke()

    def broke(self) -> None:
        """Samples may be lost from here on."""
        self._framer.restart()

    def stamp_ahead(self, seconds: float, limit_seconds: float) -> None:
        """The reader's time stamps are so far ahead of the monotonic clock; if that differs by more than
        ``limit_seconds`` from before, the wall clock that they come from was set."""
        if self._ahead_s is not None and abs(seconds - self._ahead_s) > limit_seconds:
            self._framer.shift(seconds - self._ahead_s)
        self._ahead_s = seconds

    def _begin_payload(self, count: int) -> None:
        many = count > self._hop
        self.patience_s = min(_PATIENCE_SECONDS, _PATIENCE_SHARE * count / self._rate_hz) if many else 0.0

    def _physical(self, samples: NDArray[Any]) -> NDArray[np.floating[Any]]:
        if self._scale is None and self._offset is None:
            return samples if samples.dtype.kind == "f" else samples.astype(np.float64)
        moved = samples if self._offset is None else samples + self._offset
        return np.asarray(moved if self._scale is None else moved * self._scale)

    def _took(self, found: list[Window], count: int) -> None:
        if count:
            self.heard_at_s = self.clock.monotonic()
            self.failures = 0
            if (hz := self._framer.wrong_rate_hz) is not None:
                self._mismatched(hz)
                return
            self.state = "running"
        if found:
            self._take(found)

    def _mismatched(self, rate_hz: float) -> None:
        """The model would hear everything at the wrong pitch."""
        if self.state != "source.mismatch":
            _LOG.warning(
                "pipeline %s: source.mismatch: sample_rate_hz is %g, but by their time stamps samples come at %.4g Hz",
                self._name, self._rate_hz, rate_hz,
            )  # fmt: skip
        self.state = "source.mismatch"


class StreamSource:
    """Windows of a :class:`Reader`.

    Args:
        reader: of this kind.
        config: of the signal.
        clock: the device's.
        name: of the pipeline, for the log.
        wait_when_full: make the reader wait instead of dropping windows.
        uniform: random numbers from 0 to 1, for the jitter.
    """

    def __init__(
        self,
        reader: Reader,
        config: StreamConfig,
        clock: Clock,
        name: str,
        *,
        wait_when_full: bool = False,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self.dropped = 0
        self._reader, self._config, self._clock, self._name = reader, config, clock, name
        self._wait_when_full, self._uniform = wait_when_full, uniform
        self._ready: deque[Window] = deque()
        self._blocked = 0
        """Windows that wait for room."""
        self._changed = threading.Condition()
        self._over = False
        self._sink = Sink(config, clock, self._take, name)
        self._thread = threading.Thread(target=self._run, name=f"source-{name}", daemon=True)

    @property
    def spec(self) -> SourceSpec:
        """What the windows look like."""
        return replace(self._config.spec, full_scale=self._sink.full_scale)

    @property
    def state(self) -> str:
        """``waiting``, ``running``, ``ended`` or an error code."""
        sink, limit_s = self._sink, self._config.silent_seconds
        heard_at_s = sink.heard_at_s
        silent = limit_s and heard_at_s is not None and self._clock.monotonic() - heard_at_s > limit_s
        return "source.silent" if silent and sink.state in ("running", "waiting") else sink.state

    @property
    def pending(self) -> int:
        """Windows that are ready, and those that come as soon as there is room."""
        return len(self._ready) + self._blocked

    @property
    def room(self) -> int:
        """Windows that may wait."""
        return self._config.queue_windows

    @property
    def malformed_payloads(self) -> int:
        """Payloads that could not be read."""
        return self._sink.malformed_payloads

    def model_ready(self) -> None:
        """A sensor does not wait for a model."""

    def close(self) -> None:
        """End :meth:`windows` soon."""
        self._sink.closed.set()
        with self._changed:
            self._changed.notify_all()

    def windows(self, first: int) -> Iterator[Window]:
        """Windows from now on; ``first`` only says that some were taken before, in another life of the agent."""
        self._thread.start()
        try:
            while (window := self._next()) is not None:
                yield window
        finally:
            self.close()
            self._thread.join(_JOIN_SECONDS)

    def _next(self) -> Window | None:
        with self._changed:
            while not self._ready and not self._over and not self._sink.closed.is_set():
                self._changed.wait()
            if self._sink.closed.is_set() or not self._ready:
                return None
            window = self._ready.popleft()
            self._changed.notify_all()
            return window

    def _take(self, found: list[Window]) -> None:
        with self._changed:
            for place, window in enumerate(found):
                while len(self._ready) >= self._config.queue_windows:
                    if not self._wait_when_full:
                        if not self._found_room(len(found) - place):
                            self._ready.popleft()
                            self.dropped += 1
                    elif self._sink.closed.is_set():
                        return
                    else:
                        self._changed.wait()
                self._ready.append(window)
                self._changed.notify_all()

    def _found_room(self, count: int) -> bool:
        """Wait for room, with ``count`` windows, as long as the payload under way may; the lock is held."""
        patience_s, began_s = self._sink.patience_s, self._clock.monotonic()
        if patience_s <= 0 or self._sink.closed.is_set():
            return False
        self._blocked = count
        found = self._changed.wait_for(
            lambda: len(self._ready) < self._config.queue_windows or self._sink.closed.is_set(), patience_s
        )
        self._blocked = 0
        self._sink.patience_s = patience_s - (self._clock.monotonic() - began_s) if found else 0.0
        return found

    def _run(self) -> None:
        sink, config = self._sink, self._config
        while not sink.closed.is_set():
            try:
                self._reader.read(sink)
                break
            except AgentError as error:
                self._failed(error)
            except Exception as error:  # noqa: BLE001  # a library's surprise must not end the stream
                _LOG.debug("pipeline %s: the reader failed", self._name, exc_info=True)
                self._failed(AgentError("source.failed", f"{type(error).__name__}: {error}"))
            sink.closed.wait(
                retry_delay_seconds(
                    sink.failures, self._uniform(), config.retry_first_seconds, config.retry_max_seconds
                )
            )
        with self._changed:
            sink.state = "ended"
            sink.heard_at_s = None
            self._over = True
            self._changed.notify_all()

    def _failed(self, error: AgentError) -> None:
        sink = self._sink
        if sink.state != error.code and not sink.closed.is_set():
            _LOG.warning("pipeline %s: %s; trying again", self._name, error)
        sink.state, sink.heard_at_s = error.code, None
        sink.failures += 1
        sink.broke()

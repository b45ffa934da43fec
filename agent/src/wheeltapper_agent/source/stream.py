"""A source that is read in a thread of its own: it is tried again when it breaks, and drops whole windows that nobody
takes.

What differs from kind to kind is a :class:`Reader`: it connects, and pushes samples into a :class:`Sink`. Plug-ins
build on these three classes; see docs/agent/sources.md.

Invariants:
    * At most ``queue_windows`` windows wait. A further one pushes out the oldest, which is counted in ``dropped``. A
      source that can wait, such as a pipe, waits instead. Windows that came in one payload wait for a limited time
      first.
    * While time stamps show a rate that is not the declared one, no windows are given and ``state`` is
      ``source.mismatch``.
    * A reader that fails is started again after a growing delay with jitter, without end. ``state`` is the code of the
      failure until samples come again. Only the reader's own end ends the stream.
    * A payload that cannot be read is counted, logged and shown in ``state``. It never ends the connection.
    * Whatever repeats is logged once and then with a count (:mod:`wheeltapper_agent.ground.repeated`), and stands in
      :attr:`StreamSource.faults`: failures, payloads that cannot be read, values that are missing for a known reason,
      samples that were left out, windows that were dropped.
    * No window holds an infinite value: what float32 cannot hold, or hardly, is a missing sample.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.backoff import retry_delay_seconds
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError, FaultCount
from wheeltapper_agent.ground.repeated import RepeatedFaults
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_agent.source.framing import Framer
from wheeltapper_agent.source.irregular import IrregularFramer
from wheeltapper_agent.source.physical_value import LARGEST_VALUE
from wheeltapper_agent.source.stream_config import StreamConfig

__all__ = ["Reader", "Sink", "StreamSource"]

_LOG = logging.getLogger(__name__)
_JOIN_SECONDS: Final = 5.0
_MAX_WAIT_SECONDS: Final = 1.0
"""How long the windows of one payload wait for room, at most."""
_WAIT_SHARE: Final = 0.9
"""The same, as a share of the time that the payload's samples took: the reader must stay faster than the sensor."""


_LATE: Final = "samples came twice or too late for their place by their time stamps, and are left out"
_COARSE: Final = (
    "samples have the time stamp of those before and are left out: they came twice, or the stamps are coarser than the"
    " samples, which needs tolerance_seconds of their step"
)
_CONNECTED_LOG_SECONDS: Final = 60.0
"""A connection that is made again within this time is not logged again."""


_SILENT_SAMPLES: Final = 3
"""A source is never called silent before so many of its samples were due."""


class Reader(Protocol):
    """The part of a streaming source that differs from kind to kind. It runs in a thread of its own."""

    def read(self, sink: Sink) -> None:
        """Connect, and push samples into ``sink`` until the stream has ended; then return.

        Look at ``sink.closed`` at least once a second, and return when it is set.

        Raises:
            AgentError: ``source.*``: the connection broke. The method is called again later.
        """


class Sink:
    """Takes the samples of a reader, scales them and cuts them into windows; keeps the state of the source.

    Args:
        config: of the signal.
        clock: the device's.
        take: called with complete windows.
        name: of the pipeline, for the log.
    """

    def __init__(self, config: StreamConfig, clock: Clock, take: Callable[[list[Window]], None], name: str) -> None:
        self.clock = clock
        self.closed = threading.Event()
        self.state = "waiting"
        self.heard_at_s: float | None = None
        """Monotonic time of the last samples, or of the connection if none came since; None: not connected."""
        self.failures = 0
        self.malformed_payloads = 0
        self.withheld_windows = 0
        """Windows that were not given because the time stamps showed another rate."""
        self.full_scale: tuple[float, ...] = config.full_scale
        """From the configuration, or else from the device."""
        self.room_wait_s = 0.0
        """How long the windows of the present payload may still wait for room."""
        self.faults = RepeatedFaults(_LOG, clock)
        """Of the source as a whole: they are over as soon as samples come."""
        self._losses = RepeatedFaults(_LOG, clock)
        """Of samples that came: they are over with the next payload of which nothing is left out."""
        self._losing = False
        """Whether something of the present payload was left out."""
        self._value_faults = RepeatedFaults(_LOG, clock)
        self._value_kinds: set[str] = set()
        """Why values of the newest sample are missing."""
        self._connected_at_s: float | None = None
        self._late_samples = 0
        self._stamp_s: float | None = None
        self._stamp_repeats = False
        """Whether the newest samples have the time stamp of those before."""
        self._empty = False
        """Whether all values of the newest sample are missing for reasons that are known."""
        self._framer = IrregularFramer(config.framing) if config.framing.irregular else Framer(config.framing)
        self._irregular = config.framing.irregular
        self._ahead_s: float | None = None
        self._scale = np.array(config.scale, dtype=np.float64) if config.scale else None
        self._offset = np.array(config.offset, dtype=np.float64) if config.offset else None
        self._take = take
        self._rate_hz = config.sample_rate_hz
        self._hop = config.framing.hop
        self._piece_samples = config.queue_windows * self._hop
        self._name = name

    def connected(self) -> None:
        """The connection is made; samples may follow."""
        now_s = self.heard_at_s = self.clock.monotonic()
        if self.state != "running":
            self.state = "waiting"
        if self._connected_at_s is None or now_s - self._connected_at_s > _CONNECTED_LOG_SECONDS:
            _LOG.info("pipeline %s: the source is connected", self._name)
        self._connected_at_s = now_s

    def push(self, samples: NDArray[Any], t_s: float | NDArray[np.float64] | None = None) -> None:
        """Take samples that came now.

        Args:
            samples: [sample, channel] of any real type, as the sensor gives them; NaN where one is missing.
            t_s: time of the first sample by the clock of the source, or [sample] the time of each; None if it does
                not say.
        """
        if isinstance(t_s, np.ndarray):
            self.push_physical(self._physical(samples), t_s)
            return
        self._stamp_repeats = t_s is not None and t_s == self._stamp_s
        self._stamp_s = t_s
        at_s, monotonic_s = self.clock.now(), self.clock.monotonic()
        self._empty = bool(self._value_kinds) and not bool(np.isfinite(samples).any())
        self._begin_payload(len(samples))
        for first in range(
            0, len(samples), self._piece_samples
        ):  # at most a queue of windows at a time: memory is bounded
            part, off_s = self._physical(samples[first : first + self._piece_samples]), first / self._rate_hz
            left_s = (len(samples) - first - len(part)) / self._rate_hz
            begun_s = None if t_s is None else t_s if self._irregular else t_s + off_s
            try:
                found = self._framer.push(
                    part, at_s=at_s - left_s, monotonic_s=monotonic_s - left_s, t_s=begun_s, counted=first > 0
                )
            except ValueError as error:
                self.refuse(AgentError("source.payload", str(error)))
                return
            self._deliver(found, len(part))

    def push_physical(self, samples: NDArray[np.floating[Any]], times_s: NDArray[np.float64] | None = None) -> None:
        """Take samples that the reader has scaled itself.

        Args:
            samples: [sample, channel] in physical units; NaN where one is missing.
            times_s: [sample] in seconds; None: the samples have no time.
        """
        now, monotonic_s = self.clock.now(), self.clock.monotonic()
        samples = self._finite(samples)
        self._stamp_repeats = times_s is not None and bool((np.diff(times_s) == 0).any())
        self._begin_payload(len(samples))
        try:
            if times_s is None:
                found = self._framer.push(samples, at_s=now, monotonic_s=monotonic_s)
            else:
                found = self._framer.push_times(samples, times_s, at_s=now, monotonic_s=monotonic_s)
        except ValueError as error:
            self.refuse(AgentError("source.payload", str(error)))
            return
        self._deliver(found, len(samples))

    def refuse(self, error: AgentError) -> None:
        """A payload cannot be read: its samples are lost, and samples without a time stamp no longer follow on from
        earlier ones."""
        self.malformed_payloads += 1
        self.faults.happened(f"pipeline {self._name}: {error}")
        self.state = error.code
        self.broke()

    def failed(self, error: AgentError) -> None:
        """The reader failed and will be started again."""
        if not self.closed.is_set():
            self.faults.happened(f"pipeline {self._name}: the source failed: {error}; trying again")
        self.state, self.heard_at_s = error.code, None
        self.failures += 1
        self.broke()

    def missing_values(self, reasons: Mapping[str, str]) -> None:
        """Say why values of the sample that is pushed next are missing; called for each sample by readers that know.

        Args:
            reasons: for each kind of fault, such as ``velocity BadSensorFailure``, a text for the log and the status.
                What was a reason for the sample before and is none now is over.
        """
        for kind in self._value_kinds - set(reasons):
            self._value_faults.ended(kind)
        for kind, text in reasons.items():
            self._value_faults.happened(f"pipeline {self._name}: {text}", kind)
        self._value_kinds = set(reasons)

    def lost(self, text: str) -> None:
        """Say that something was left out that is counted elsewhere, such as samples that came twice."""
        self._losing = True
        self._losses.happened(f"pipeline {self._name}: {text}")

    def warn(self, text: str) -> None:
        """Say what is so as long as the source stays as it is, such as a rate that cannot be checked."""
        self._value_faults.happened(f"pipeline {self._name}: {text}")

    @property
    def fault_counts(self) -> list[FaultCount]:
        """Everything that went wrong, by kind."""
        return self.faults.counts() + self._losses.counts() + self._value_faults.counts()

    def broke(self) -> None:
        """The connection broke: samples may be missing from here on."""
        self._framer.restart()

    def stamp_ahead(self, seconds: float, limit_seconds: float) -> None:
        """Tell how far the reader's time stamps are ahead of the monotonic clock.

        If that changes by more than ``limit_seconds``, the wall clock from which the time stamps come was set, and the
        stream moves with it.
        """
        if self._ahead_s is not None and abs(seconds - self._ahead_s) > limit_seconds:
            self._framer.shift(seconds - self._ahead_s)
        self._ahead_s = seconds

    def _begin_payload(self, count: int) -> None:
        """Let the windows of a payload of ``count`` samples wait for room, if it makes several windows."""
        many = count > self._hop
        self.room_wait_s = min(_MAX_WAIT_SECONDS, _WAIT_SHARE * count / self._rate_hz) if many else 0.0

    def _physical(self, samples: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """Return the samples in physical units."""
        if self._scale is None and self._offset is None:
            return self._finite(samples) if samples.dtype.kind == "f" else samples.astype(np.float64)
        moved = self._finite(samples) if samples.dtype.kind == "f" else samples
        moved = moved if self._offset is None else moved + self._offset
        return self._finite(np.asarray(moved if self._scale is None else moved * self._scale))

    def _finite(self, samples: NDArray[Any]) -> NDArray[Any]:
        """Return the samples with NaN in the place of what is infinite, or too large to be a measurement."""
        beyond = np.abs(samples) > LARGEST_VALUE
        if not beyond.any():
            return samples
        self.lost(f"a value is infinite or above {LARGEST_VALUE:g}, and counts as missing")
        return np.where(beyond, np.nan, samples)

    def _deliver(self, found: list[Window], count: int) -> None:
        """Note that ``count`` samples came, and hand on the windows that they completed."""
        if count:
            self.heard_at_s = self.clock.monotonic()
            self.failures = 0
            if self._framer.late_samples > self._late_samples:
                self._late_samples = self._framer.late_samples
                self.lost(_COARSE if self._stamp_repeats else _LATE)
            if (hz := self._framer.wrong_rate_hz) is not None:
                self.withheld_windows += len(found)
                self._report_mismatch(hz)
                return
            if any(window.gap_samples for window in found):
                self.lost("samples are missing between two windows; the status counts them in gap_samples")
            self.state = "source.no_value" if self._empty else "running"
            self.faults.ended()
            if not self._losing:
                self._losses.ended()
            self._losing = False
        if found:
            self._take(found)

    def _report_mismatch(self, rate_hz: float) -> None:
        """Show the wrong rate in the state and, once, in the log. A model would see every frequency shifted."""
        self.faults.happened(
            f"pipeline {self._name}: source.mismatch: sample_rate_hz is {self._rate_hz:g}, but the time stamps show"
            f" {rate_hz:.4g} Hz; correct it"
        )
        self.state = "source.mismatch"


class StreamSource:
    """Windows of a :class:`Reader`; implements :class:`~wheeltapper_agent.source.base.Source`.

    Args:
        reader: connects and pushes samples.
        config: of the signal.
        clock: the device's.
        name: of the pipeline, for the log.
        wait_when_full: make the reader wait instead of dropping windows.
        uniform: returns random numbers from 0 to 1, for the jitter of retries.

    Example:
        >>> source = StreamSource(MyReader(config), config, context.clock, context.pipeline)
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
        self._pushed_out = 0
        """Number of windows that made room for newer ones."""
        self._reader, self._config, self._clock, self._name = reader, config, clock, name
        self._wait_when_full, self._uniform = wait_when_full, uniform
        self._ready: deque[Window] = deque()
        self._blocked = 0
        """Number of windows that wait for room in the queue."""
        self._changed = threading.Condition()
        self._over = False
        self._sink = Sink(config, clock, self._take, name)
        self._thread = threading.Thread(target=self._run, name=f"source-{name}", daemon=True)

    @property
    def spec(self) -> SourceSpec:
        """The form of the windows."""
        return replace(self._config.spec, full_scale=self._sink.full_scale)

    @property
    def state(self) -> str:
        """``waiting``, ``running``, ``ended`` or an error code."""
        sink, limit_s = self._sink, self._config.silent_seconds
        if limit_s:
            limit_s = max(limit_s, _SILENT_SAMPLES / self._config.sample_rate_hz)
        heard_at_s = sink.heard_at_s
        silent = limit_s and heard_at_s is not None and self._clock.monotonic() - heard_at_s > limit_s
        return "source.silent" if silent and sink.state in ("running", "waiting") else sink.state

    @property
    def pending(self) -> int:
        """Windows that are ready, and those that come as soon as there is room."""
        return len(self._ready) + self._blocked

    @property
    def room(self) -> int:
        """Windows that may wait without loss."""
        return self._config.queue_windows

    @property
    def dropped(self) -> int:
        """Windows that nobody got: they made room for newer ones, or their time stamps showed another rate."""
        return self._pushed_out + self._sink.withheld_windows

    @property
    def malformed_payloads(self) -> int:
        """Payloads that could not be read."""
        return self._sink.malformed_payloads

    @property
    def faults(self) -> list[FaultCount]:
        """What went wrong since the source began, by kind."""
        return self._sink.fault_counts

    def model_ready(self) -> None:
        """Does nothing: a sensor does not wait for a model."""

    def close(self) -> None:
        """End :meth:`windows` soon."""
        self._sink.closed.set()
        with self._changed:
            self._changed.notify_all()

    def windows(self, first: int) -> Iterator[Window]:
        """Give windows from now on. ``first`` has no effect: earlier windows of a sensor are gone."""
        self._thread.start()
        try:
            while (window := self._next()) is not None:
                yield window
        finally:
            self.close()
            self._thread.join(_JOIN_SECONDS)

    def _next(self) -> Window | None:
        """Return the next window; None when the stream has ended or the source was closed."""
        with self._changed:
            while not self._ready and not self._over and not self._sink.closed.is_set():
                self._changed.wait()
            if self._sink.closed.is_set() or not self._ready:
                return None
            window = self._ready.popleft()
            self._changed.notify_all()
            return window

    def _take(self, found: list[Window]) -> None:
        """Put windows into the queue; wait for room or drop the oldest where it is full."""
        with self._changed:
            for place, window in enumerate(found):
                while len(self._ready) >= self._config.queue_windows:
                    if not self._wait_when_full:
                        if not self._wait_for_room(len(found) - place):
                            self._ready.popleft()
                            self._pushed_out += 1
                            self._sink.lost("the pipeline takes windows too slowly: a window was dropped")
                    elif self._sink.closed.is_set():
                        return
                    else:
                        self._changed.wait()
                self._ready.append(window)
                self._changed.notify_all()

    def _wait_for_room(self, count: int) -> bool:
        """Let ``count`` windows wait for room as long as their payload may; return whether there is room. The caller
        holds the lock."""
        wait_s, began_s = self._sink.room_wait_s, self._clock.monotonic()
        if wait_s <= 0 or self._sink.closed.is_set():
            return False
        self._blocked = count
        found = self._changed.wait_for(
            lambda: len(self._ready) < self._config.queue_windows or self._sink.closed.is_set(), wait_s
        )
        self._blocked = 0
        self._sink.room_wait_s = wait_s - (self._clock.monotonic() - began_s) if found else 0.0
        return found

    def _run(self) -> None:
        """The reader's thread."""
        sink, config = self._sink, self._config
        while not sink.closed.is_set():
            try:
                self._reader.read(sink)
                break
            except AgentError as error:
                sink.failed(error)
            except BaseException as error:  # noqa: BLE001  # a library may raise anything; the stream goes on
                _LOG.debug("pipeline %s: the reader failed", self._name, exc_info=True)
                sink.failed(AgentError("source.failed", f"{type(error).__name__}: {error}"))
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

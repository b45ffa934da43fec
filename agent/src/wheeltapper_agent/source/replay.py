"""The kind ``replay``: a recording in a file, played once at a steady rate, from where it was left.

The snapshots of an ``.npz`` are windows, or are cut into windows where ``window_samples`` is given; WAV, CSV and
Parquet hold one continuous signal and are cut. Nothing is skipped when the reader is slow.

Invariants: window ``i`` is the same each time that the file is played. A file that goes away while it is played (a
stick that is pulled out) is tried again with backoff and goes on where it was.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from wheeltapper_agent.ground.backoff import retry_delay_seconds
from wheeltapper_agent.ground.clock import Clock, StopEvent
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.base import SourceContext, SourceKind, SourceSpec, Window
from wheeltapper_agent.source.cutter import Framing
from wheeltapper_agent.source.framing import Framer
from wheeltapper_agent.source.recorded import CsvFile, ParquetFile, RecordedFile
from wheeltapper_agent.source.wav import WavFile
from wheeltapper_protocols.signal.recording import Recording, read_recording

__all__ = ["KIND", "ReplayConfig", "ReplaySource"]

_LOG = logging.getLogger(__name__)
_FORMATS: Final = {".wav": "wav", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".npz": "npz"}
_RETRY_FIRST_SECONDS: Final = 1.0
_RETRY_MAX_SECONDS: Final = 60.0
_MAX_WINDOW_VALUES: Final = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayConfig:
    """A recording that is played once.

    What a file says of itself (all of it in ``.npz``; rate and channels in ``.wav``; channels in tables) need not be
    said here; where both do, they must agree.
    """

    kind: Literal["replay"] = "replay"
    path: Path
    format: Literal["auto", "npz", "wav", "csv", "parquet"] = "auto"
    """``auto``: by the ending of the name."""
    rate_hz: float = 1.0
    """Windows a second of the wall clock."""
    hold_until_model: bool = False
    """Wait for the first active model."""
    window_samples: int = 0
    """0: a snapshot of an ``.npz`` is a window; the other formats need it."""
    hop_samples: int = 0
    """From window to window; 0: as ``window_samples``."""
    sample_rate_hz: float = 0.0
    channels: tuple[str, ...] = ()
    """Of a table: its columns, in this order. Of a ``.wav``: names for its channels."""
    units: tuple[str, ...] = ()
    scale: tuple[float, ...] = ()
    """Physical value = number in the file * scale, a channel. A ``.wav``'s numbers are from -1 to 1."""
    full_scale: tuple[float, ...] = ()
    """Largest absolute physical value that the sensor can give, a channel."""
    time_column: str = ""
    """Of a table: the column with the time of each row, in seconds (in Parquet also a time stamp)."""
    tolerance_seconds: float = 0.0
    """How far such a time may be off before samples count as missing; 0: half a sample."""
    delimiter: str = ","
    """Of a ``.csv``."""


class ReplaySource:
    """A recording, played once from window ``first`` on at a steady rate.

    Raises:
        AgentError: ``source.unreadable``, ``source.malformed``, ``source.extra``, ``config.invalid``.
        RecordingError: ``recording.*``.
    """

    def __init__(self, config: ReplayConfig, clock: Clock) -> None:
        if not 0 < config.rate_hz <= 1e6:
            raise AgentError("config.invalid", "rate_hz of a replay must be above 0")
        self._cut: Snapshots | Continuous = Snapshots(config) if _format(config) == "npz" else Continuous(config)
        self.spec = self._cut.spec
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
        """When window 0 would have been due."""

    room: Final = 10**6
    """A recording loses nothing."""

    @property
    def pending(self) -> int:
        """Windows that are due already, where it is known how many there are."""
        if self._cut.count is None or self._due_s is None:
            return 0
        due = math.floor((self._clock.monotonic() - self._due_s) * self._config.rate_hz) + 1
        return max(0, min(due, self._cut.count) - self._next)

    def model_ready(self) -> None:
        """Begin, if the source was holding."""
        self._begin.set()

    def close(self) -> None:
        """End :meth:`windows` soon."""
        self._closed.set()
        self._begin.set()

    def windows(self, first: int) -> Iterator[Window]:
        """Windows ``first``, ``first + 1``, …; nothing is skipped when the reader is slow."""
        self._begin.wait()
        failures, self._next = 0, first
        self._due_s = self._clock.monotonic() - first / self._config.rate_hz
        while not self._closed.is_set():
            try:
                for index, window in enumerate(self._cut.windows(self._closed.is_set)):
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
                    _LOG.warning("%s; trying again", error)
                self.state = error.code
                failures += 1
                delay = retry_delay_seconds(failures, random.random(), _RETRY_FIRST_SECONDS, _RETRY_MAX_SECONDS)  # noqa: S311  # jitter
                self._closed.wait(delay)
            else:
                if not self._closed.is_set():
                    self.state = "ended"
                return


class Snapshots:
    """The windows of an ``.npz`` recording."""

    def __init__(self, config: ReplayConfig) -> None:
        try:
            self._recording = recording = read_recording(config.path)
        except OSError as error:
            raise AgentError(
                "source.unreadable", f"the recording {config.path.name} cannot be read: {error}"
            ) from error
        _agree("sample_rate_hz", config.sample_rate_hz or recording.sample_rate_hz, recording.sample_rate_hz)
        _agree("channels", config.channels or recording.channels, recording.channels)
        _agree("units", config.units or recording.units, recording.units)
        if config.scale:
            raise AgentError("config.invalid", "an .npz recording says its own scale")
        _one_a_channel("full_scale", config.full_scale, len(recording.channels))
        rate_hz, snapshot = float(recording.sample_rate_hz), recording.window_samples
        window = config.window_samples or snapshot
        self._whole = window == snapshot and config.hop_samples in (0, window)
        self.count = recording.snapshots if self._whole else None
        """How many windows there are, if that is known."""
        self._framing = Framing(rate_hz, len(recording.channels), window, config.hop_samples)
        if window > snapshot and not _continuous(recording):
            raise AgentError("config.invalid", f"window_samples is longer than a snapshot of {snapshot} samples")
        _check_window(window, config.hop_samples, len(recording.channels))
        self.spec = SourceSpec(
            rate_hz, window, recording.channels, recording.units, config.full_scale, config.hop_samples
        )

    def windows(self, stopped: Callable[[], bool]) -> Iterator[Window]:
        """All of them, from the first, until ``stopped`` says so."""
        recording = self._recording
        framer, due_s = Framer(self._framing), math.inf
        for index in range(recording.snapshots):
            if stopped():
                return
            t_s = float(recording.t_s[index])
            samples = recording.physical(slice(index, index + 1))[0]
            if self._whole:
                yield Window(samples, t_s)
                continue
            if not _follows(t_s, due_s, self._framing.sample_rate_hz):
                framer = Framer(self._framing)  # what lies between two snapshots was never measured: not a gap
            due_s = t_s + len(samples) / self._framing.sample_rate_hz
            yield from framer.push(samples, at_s=t_s, monotonic_s=t_s, t_s=max(0.0, t_s))


class Continuous:
    """The windows of a WAV, CSV or Parquet file."""

    count: int | None = None
    """How many there are: known only when all were read."""

    def __init__(self, config: ReplayConfig) -> None:
        self._config = config
        if len(config.delimiter) != 1 or config.delimiter in '\r\n"':
            raise AgentError("config.invalid", "delimiter must be one character")
        file = self._open()
        rate_hz = config.sample_rate_hz or file.sample_rate_hz
        _agree("sample_rate_hz", rate_hz, file.sample_rate_hz or rate_hz)
        if not 0 < rate_hz <= 1e7:
            raise AgentError("config.invalid", f"sample_rate_hz of {config.path.name} must be said, above 0")
        channels = config.channels or file.channels
        count = len(file.channels)
        for name in ("channels", "units", "scale", "full_scale"):
            _one_a_channel(name, getattr(config, name), count)
        if any(scale == 0 for scale in config.scale) or any(limit <= 0 for limit in config.full_scale):
            raise AgentError("config.invalid", "scale must not be 0, and full_scale must be above 0")
        _check_window(config.window_samples, config.hop_samples, count)
        self._first = file
        self._scale = np.array(config.scale or (1.0,) * count)
        full_scale = config.full_scale
        if not full_scale and file.full_scale:
            full_scale = tuple(float(abs(scale) * file.full_scale) for scale in self._scale)
        self._framing = Framing(rate_hz, count, config.window_samples, config.hop_samples, config.tolerance_seconds)
        self.spec = SourceSpec(
            rate_hz, config.window_samples, channels, config.units or ("",) * count, full_scale, config.hop_samples
        )

    def windows(self, stopped: Callable[[], bool]) -> Iterator[Window]:
        """All of them, from the first, until ``stopped`` says so."""
        framer, count = Framer(self._framing), 0
        file = self._open()
        if (file.sample_rate_hz, file.channels) != (self._first.sample_rate_hz, self._first.channels):
            raise AgentError("source.mismatch", f"{self._config.path.name} was replaced: rate or channels are others")
        for samples, times_s in file.chunks():
            if stopped():
                return
            try:
                physical = samples * self._scale
                if times_s is None:
                    t_s = count / self._framing.sample_rate_hz
                    found = framer.push(physical, at_s=t_s, monotonic_s=t_s, t_s=t_s)
                else:
                    found = framer.push_times(physical, times_s, at_s=0.0, monotonic_s=None)
            except ValueError as error:
                raise AgentError("source.malformed", f"{self._config.path.name}: {error}") from error
            if (hz := framer.wrong_rate_hz) is not None:
                text = f"sample_rate_hz is {self._framing.sample_rate_hz:g}, but by its times it has {hz:.4g} Hz"
                raise AgentError("source.mismatch", f"{self._config.path.name}: {text}")
            count += len(samples)
            yield from found

    def _open(self) -> RecordedFile:
        config = self._config
        match _format(config):
            case "wav":
                return WavFile.open(config.path)
            case "csv":
                return CsvFile.open(config.path, config.channels, config.time_column, config.delimiter)
            case _:
                return ParquetFile.open(config.path, config.channels, config.time_column)


def _format(config: ReplayConfig) -> str:
    if config.format != "auto":
        return config.format
    return _FORMATS.get(config.path.suffix.lower(), "npz")


def _follows(t_s: float, due_s: float, rate_hz: float) -> bool:
    """Whether a snapshot begins where the one before ended, to half a sample or what float64 seconds can say."""
    return abs(t_s - due_s) <= max(0.5 / rate_hz, 1e-6)


def _continuous(recording: Recording) -> bool:
    ends_s = recording.t_s[:-1] + recording.window_samples / recording.sample_rate_hz
    return bool(np.all(np.abs(recording.t_s[1:] - ends_s) <= max(0.5 / recording.sample_rate_hz, 1e-6)))


def _agree(what: str, said: object, found: object) -> None:
    if said != found:
        raise AgentError("source.mismatch", f"{what}: the configuration says {said}, the recording {found}")


def _one_a_channel(what: str, entries: tuple[object, ...], count: int) -> None:
    if entries and len(entries) != count:
        raise AgentError("config.invalid", f"{what} must have one entry a channel: {count}")


def _check_window(window: int, hop: int, count: int) -> None:
    if not 0 < window * count <= _MAX_WINDOW_VALUES or hop < 0:
        raise AgentError("config.invalid", "window_samples must be above 0 for this format, and hop_samples not below")


def _make(config: ReplayConfig, context: SourceContext) -> ReplaySource:
    return ReplaySource(config, context.clock)


KIND = SourceKind(ReplayConfig, _make)

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from wheeltapper_agent.ground.backoff import retry_delay_seconds
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.stop_event import StopEvent
from wheeltapper_agent.source.base import SourceContext, SourceKind, SourceSpec, Window
from wheeltapper_agent.source.cutter import Framing
from wheeltapper_agent.source.framing import Framer
from wheeltapper_agent.source.recording_files import CsvFile, ParquetFile, RecordingFile
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

    What a file says about itself need not be configured: everything in ``.npz``, rate and channels in ``.wav``,
    channels in tables. If both say it, they must agree.
    """

    kind: Literal["replay"] = "replay"
    path: Path
    format: Literal["auto", "npz", "wav", "csv", "parquet"] = "auto"
    """``auto``: by the ending of the file name."""
    rate_hz: float = 1.0
    """Windows a second of the wall clock."""
    hold_until_model: bool = False
    """Whether to wait for the first active model."""
    window_samples: int = 0
    """0: a snapshot of an ``.npz`` recording is a window; the other formats need a length."""
    hop_samples: int = 0
    """From the start of a window to the start of the next; 0: the same as ``window_samples``."""
    sample_rate_hz: float = 0.0
    channels: tuple[str, ...] = ()
    """Of a table: its columns, in this order. Of a ``.wav``: names for its channels."""
    units: tuple[str, ...] = ()
    scale: tuple[float, ...] = ()
    """Physical value = number in the file * scale, for each channel. The numbers of a ``.wav`` are from -1 to 1."""
    full_scale: tuple[float, ...] = ()
    """Largest absolute physical value that the sensor can give, for each channel."""
    time_column: str = ""
    """Of a table: the column with the time of each row, in seconds (in Parquet also a time stamp)."""
    tolerance_seconds: float = 0.0
    """How far such a time may be off before samples count as missing; 0: half a sample."""
    delimiter: str = ","
    """Of a ``.csv``."""


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
        self._recording: SnapshotRecording | ContinuousRecording = (
            SnapshotRecording(config) if _format(config) == "npz" else ContinuousRecording(config)
        )
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


class SnapshotRecording:
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
            raise AgentError(
                "config.invalid", "an .npz recording has its own scale; remove scale from the configuration"
            )
        _check_entries("full_scale", config.full_scale, len(recording.channels))
        rate_hz, snapshot = float(recording.sample_rate_hz), recording.window_samples
        window = config.window_samples or snapshot
        self._whole = window == snapshot and config.hop_samples in (0, window)
        self.count = recording.snapshots if self._whole else None
        """Number of windows, if it is known."""
        self._framing = Framing(rate_hz, len(recording.channels), window, config.hop_samples)
        if window > snapshot and not _continuous(recording):
            raise AgentError("config.invalid", f"window_samples is longer than a snapshot of {snapshot} samples")
        _check_window(window, config.hop_samples, len(recording.channels))
        self.spec = SourceSpec(
            rate_hz, window, recording.channels, recording.units, config.full_scale, config.hop_samples
        )

    def windows(self, stopped: Callable[[], bool]) -> Iterator[Window]:
        """Give all windows from the first, until ``stopped`` returns True."""
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
                framer = Framer(self._framing)  # what lies between two snapshots was never measured and is not a gap
            due_s = t_s + len(samples) / self._framing.sample_rate_hz
            yield from framer.push(samples, at_s=t_s, monotonic_s=t_s, t_s=max(0.0, t_s))


class ContinuousRecording:
    """The windows of a WAV, CSV or Parquet file."""

    count: int | None = None
    """Number of windows: not known before all are read."""

    def __init__(self, config: ReplayConfig) -> None:
        self._config = config
        if len(config.delimiter) != 1 or config.delimiter in '\r\n"':
            raise AgentError("config.invalid", "delimiter must be one character")
        file = self._open()
        rate_hz = config.sample_rate_hz or file.sample_rate_hz
        _agree("sample_rate_hz", rate_hz, file.sample_rate_hz or rate_hz)
        if not 0 < rate_hz <= 1e7:
            raise AgentError(
                "config.invalid", f"sample_rate_hz of {config.path.name} must be given, above 0 and at most 1e7"
            )
        channels = config.channels or file.channels
        count = len(file.channels)
        for name in ("channels", "units", "scale", "full_scale"):
            _check_entries(name, getattr(config, name), count)
        if any(scale == 0 for scale in config.scale) or any(limit <= 0 for limit in config.full_scale):
            raise AgentError("config.invalid", "scale must not be 0, and full_scale must be above 0")
        _check_window(config.window_samples, config.hop_samples, count)
        self._first_open = file
        self._scale = np.array(config.scale or (1.0,) * count)
        full_scale = config.full_scale
        if not full_scale and file.full_scale:
            full_scale = tuple(float(abs(scale) * file.full_scale) for scale in self._scale)
        self._framing = Framing(rate_hz, count, config.window_samples, config.hop_samples, config.tolerance_seconds)
        self.spec = SourceSpec(
            rate_hz, config.window_samples, channels, config.units or ("",) * count, full_scale, config.hop_samples
        )

    def windows(self, stopped: Callable[[], bool]) -> Iterator[Window]:
        """Give all windows from the first, until ``stopped`` returns True."""
        framer, count = Framer(self._framing), 0
        file = self._open()
        if (file.sample_rate_hz, file.channels) != (self._first_open.sample_rate_hz, self._first_open.channels):
            raise AgentError(
                "source.mismatch",
                f"{self._config.path.name} was replaced by a file with another rate or other channels",
            )
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
                text = f"sample_rate_hz is {self._framing.sample_rate_hz:g}, but the times in the file show {hz:.4g} Hz"
                raise AgentError("source.mismatch", f"{self._config.path.name}: {text}")
            count += len(samples)
            yield from found

    def _open(self) -> RecordingFile:
        """Open the file; its header is read each time."""
        config = self._config
        match _format(config):
            case "wav":
                return WavFile.open(config.path)
            case "csv":
                return CsvFile.open(config.path, config.channels, config.time_column, config.delimiter)
            case _:
                return ParquetFile.open(config.path, config.channels, config.time_column)


def _format(config: ReplayConfig) -> str:
    """Return the format of the file."""
    if config.format != "auto":
        return config.format
    return _FORMATS.get(config.path.suffix.lower(), "npz")


def _follows(t_s: float, due_s: float, rate_hz: float) -> bool:
    """Return whether a snapshot begins where the one before ended, to half a sample or the resolution of float64
    seconds."""
    return abs(t_s - due_s) <= max(0.5 / rate_hz, 1e-6)


def _continuous(recording: Recording) -> bool:
    """Return whether every snapshot begins where the one before ended."""
    ends_s = recording.t_s[:-1] + recording.window_samples / recording.sample_rate_hz
    return bool(np.all(np.abs(recording.t_s[1:] - ends_s) <= max(0.5 / recording.sample_rate_hz, 1e-6)))


def _agree(what: str, configured: object, recorded: object) -> None:
    """Raise ``source.mismatch`` if configuration and recording disagree."""
    if configured != recorded:
        raise AgentError(
            "source.mismatch",
            f"{what}: the configuration says {configured}, the recording {recorded}; change the configuration",
        )


def _check_entries(what: str, entries: tuple[object, ...], count: int) -> None:
    """Raise ``config.invalid`` if a key does not have an entry for each channel."""
    if entries and len(entries) != count:
        raise AgentError("config.invalid", f"{what} must have one entry for each channel: {count}")


def _check_window(window: int, hop: int, count: int) -> None:
    """Raise ``config.invalid`` if no window can have this length."""
    if not 0 < window * count <= _MAX_WINDOW_VALUES or hop < 0:
        raise AgentError(
            "config.invalid",
            f"window_samples must be above 0 and give at most {_MAX_WINDOW_VALUES} values in all; "
            "hop_samples must not be negative",
        )


def _make(config: ReplayConfig, context: SourceContext) -> ReplaySource:
    """Return the source that a configuration describes; ``make`` of :data:`KIND`."""
    return ReplaySource(config, context.clock)


KIND = SourceKind(ReplayConfig, _make)

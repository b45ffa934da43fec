"""The windows of a recording in a file: of the snapshots of an ``.npz``, or of one continuous signal in WAV, CSV or
Parquet.

Invariants:
    * Window ``i`` is the same each time that the file is read.
    * What a file lacks, and what is left out of it, is counted (:attr:`ContinuousRecording.lost`, or in the windows)
      and logged once.
    * Nothing but ``AgentError`` and ``RecordingError`` is raised; what concerns a file of another maker has the codes
      ``source.*``.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.bounds import DAY_SECONDS, Bounds
from wheeltapper_agent.ground.errors import AgentError, FaultCount
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_agent.source.cutter import Framing
from wheeltapper_agent.source.framing import Framer
from wheeltapper_agent.source.physical_value import LARGEST_VALUE
from wheeltapper_agent.source.stream_config import FACTOR
from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.signal.recording import Recording, read_recording
from wheeltapper_protocols.tables.notes import Notes
from wheeltapper_protocols.tables.options import MAX_SKIP_ROWS, TableOptions
from wheeltapper_protocols.tables.signal import agreed_rate, format_of, open_table, read_signal

__all__ = ["ContinuousRecording", "ReplayConfig", "SnapshotRecording", "open_recorded"]

_LOG = logging.getLogger(__name__)
_MAX_WINDOW_VALUES: Final = 2**24
_LATE: Final = (
    "samples are left out because their times come twice or too late; the status counts them; if the times only "
    "jitter, raise tolerance_seconds"
)
_CODES: Final = {
    "recording.unreadable": "source.unreadable",
    "recording.malformed": "source.malformed",
    "recording.mismatch": "source.mismatch",
    "recording.extra": "source.extra",
    "recording.options": "config.invalid",
}
"""The code of a source for that of a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayConfig(TableOptions):
    """A recording that is played once.

    What a file says about itself need not be configured: everything in ``.npz``, rate and channels in ``.wav``,
    channels in tables. If both say it, they must agree. The keys of
    :class:`~wheeltapper_protocols.tables.options.TableOptions` say how a table is written; ``channels`` also names
    those of a ``.wav``.
    """

    kind: Literal["replay"] = "replay"
    path: Path
    format: Literal["auto", "npz", "wav", "csv", "parquet"] = "auto"
    """``auto``: by the ending of the file name."""
    rate_hz: Annotated[float, Bounds(1e-6, 1e6, "Hz")] = 1.0
    """Windows a second of the wall clock."""
    hold_until_model: bool = False
    """Whether to wait for the first active model."""
    window_samples: Annotated[int, Bounds(0, 2**24, "samples")] = 0
    """0: a snapshot of an ``.npz`` recording is a window; the other formats need a length."""
    hop_samples: Annotated[int, Bounds(0, 2**24, "samples")] = 0
    """From the start of a window to the start of the next; 0: the same as ``window_samples``."""
    sample_rate_hz: Annotated[float, Bounds(1e-6, 1e7, "Hz", zero="what the file says")] = 0.0
    units: tuple[str, ...] = ()
    scale: tuple[Annotated[float, FACTOR], ...] = ()
    """Physical value = number in the file * scale, for each channel. The numbers of a ``.wav`` are from -1 to 1."""
    full_scale: tuple[Annotated[float, FACTOR], ...] = ()
    """Largest absolute physical value that the sensor can give, for each channel."""
    tolerance_seconds: Annotated[float, Bounds(0, DAY_SECONDS, "seconds")] = 0.0
    """How far the time of a row may be off before samples count as missing; 0: half a sample, or the steps of times
    that are coarser."""
    skip_rows: Annotated[int, Bounds(0, MAX_SKIP_ROWS, "lines")] = 0
    missing: tuple[str | Annotated[float, FACTOR], ...] = ()

    def __post_init__(self) -> None:
        with _source_codes():
            TableOptions.__post_init__(self)

    @property
    def file_format(self) -> str:
        """``npz``, ``wav``, ``csv`` or ``parquet``."""
        return self.format if self.format != "auto" else format_of(self.path)


def open_recorded(config: ReplayConfig) -> SnapshotRecording | ContinuousRecording:
    """Open the recording that a configuration names.

    Raises:
        AgentError: ``source.unreadable``, ``source.malformed``, ``source.extra``, ``source.mismatch``,
            ``config.invalid``.
        RecordingError: ``recording.*``.
    """
    return SnapshotRecording(config) if config.file_format == "npz" else ContinuousRecording(config)


@contextlib.contextmanager
def _source_codes() -> Iterator[None]:
    """Raise errors of a table with the codes of a source."""
    try:
        yield
    except RecordingError as error:
        raise AgentError(_CODES.get(error.code, error.code), error.message) from error


class SnapshotRecording:
    """The windows of an ``.npz`` recording."""

    lost: Final = 0
    """Rows and cells that could not be read: a recording is whole or refused."""
    faults: Final[list[FaultCount]] = []
    """None, for the same reason."""

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
        with _source_codes():
            table = open_table(config.path, config.file_format, config)
            rate_hz = agreed_rate(table, config.sample_rate_hz)
        if not 0 < rate_hz <= 1e7:
            raise AgentError(
                "config.invalid", f"sample_rate_hz of {config.path.name} must be given, above 0 and at most 1e7"
            )
        channels = config.channels or table.channels
        count = len(table.channels)
        for name in ("channels", "units", "scale", "full_scale"):
            _check_entries(name, getattr(config, name), count)
        if any(scale == 0 for scale in config.scale) or any(limit <= 0 for limit in config.full_scale):
            raise AgentError("config.invalid", "scale must not be 0, and full_scale must be above 0")
        _check_window(config.window_samples, config.hop_samples, count)
        self._form = (table.sample_rate_hz, table.channels)
        self._scale = np.array(config.scale or (1.0,) * count)
        full_scale = config.full_scale
        if not full_scale and table.full_scale:
            full_scale = tuple(float(abs(scale) * table.full_scale) for scale in self._scale)
        self._framing = Framing(rate_hz, count, config.window_samples, config.hop_samples, config.tolerance_seconds)
        self.spec = SourceSpec(
            rate_hz, config.window_samples, channels, config.units or ("",) * count, full_scale, config.hop_samples
        )
        self._notes = Notes()
        self._said: set[str] = set()
        self._late_samples = 0

    @property
    def lost(self) -> int:
        """Rows and cells that could not be read."""
        return self._notes.lost

    @property
    def faults(self) -> list[FaultCount]:
        """What the file lacks, by kind: the first of each and how many there are."""
        notes = self._notes
        found = [FaultCount(text, notes.counts[kind], False) for kind, text in list(notes.first.items())]
        late = [FaultCount(_LATE, self._late_samples, False)] if self._late_samples else []
        return [*found, *late]

    def windows(self, stopped: Callable[[], bool]) -> Iterator[Window]:
        """Give all windows from the first, until ``stopped`` returns True."""
        with _source_codes():
            self._notes = notes = Notes(self._say)
            table = open_table(self._config.path, self._config.file_format, self._config)
            if (table.sample_rate_hz, table.channels) != self._form:
                raise AgentError(
                    "source.mismatch",
                    f"{self._config.path.name} was replaced by a file with another rate or other channels",
                )
            rate_hz, given, count = self._framing.sample_rate_hz, 0, 0
            signal = read_signal(table, rate_hz, self._framing.tolerance_seconds, notes)
            framer = Framer(replace(self._framing, tolerance_seconds=signal.tolerance_seconds))
            for samples, times_s, restarts in signal.pieces:
                if stopped():
                    return
                physical = self._measurable(samples * self._scale)
                if restarts:
                    framer.begin_anew()
                try:
                    if times_s is None:
                        t_s = count / rate_hz
                        found = framer.push(physical, at_s=t_s, monotonic_s=t_s, t_s=t_s)
                    else:
                        found = framer.push_times(physical, times_s, at_s=0.0, monotonic_s=None)
                except ValueError as error:
                    raise AgentError("source.malformed", f"{self._config.path.name}: {error}") from error
                if (hz := framer.wrong_rate_hz) is not None:
                    text = f"sample_rate_hz is {rate_hz:g}, but the times in the file show {hz:.4g} Hz"
                    raise AgentError("source.mismatch", f"{self._config.path.name}: {text}")
                if framer.late_samples:
                    self._late_samples = framer.late_samples
                    self._say(_LATE)
                count, given = count + len(samples), given + len(found)
                self._note_gaps(found)
                yield from found
            self._end(given, count, framer.late_samples)

    def _measurable(self, samples: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the samples with NaN for what no sensor can have measured."""
        beyond = np.abs(samples) > LARGEST_VALUE
        if not beyond.any():
            return samples
        self._notes.add("beyond", "a value is infinite or too large to be measured: it is missing", int(beyond.sum()))
        return np.where(beyond, np.nan, samples)

    def _note_gaps(self, found: list[Window]) -> None:
        """Note the samples that are missing between windows."""
        for window in found:
            if window.gap_samples:
                length_s = window.gap_samples / self._framing.sample_rate_hz
                text = f"before {window.t_s:.10g} s {window.gap_samples} samples ({length_s:.6g} s) are missing"
                hour = abs(length_s - 3600) < 1 + self._framing.window_samples / self._framing.sample_rate_hz
                hint = ": is it local time? Times must be in UTC or name their zone" if hour else ""
                self._notes.add("gap", text + hint)

    def _end(self, windows: int, samples: int, late_samples: int) -> None:
        """Log what the whole file lacked."""
        for text in self._notes.summary():
            self._say(text)
        if late_samples:
            self._say(f"{late_samples} samples were left out because their times came twice or too late")
        if not windows:
            self._say(f"its {samples} samples make no window of {self._framing.window_samples}: nothing was played")

    def _say(self, text: str) -> None:
        """Log a sentence about the file, once however often it is read."""
        if text not in self._said:
            self._said.add(text)
            _LOG.warning("the recording %s: %s", self._config.path.name, text)


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

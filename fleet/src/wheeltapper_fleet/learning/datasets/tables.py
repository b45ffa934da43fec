"""Cuts a file of another maker (CSV, Parquet, WAV) into a recording, whose snapshots follow one another.

Invariants:
    * A snapshot spans no gap and holds no missing value. What is therefore left out is noted.
    * The reader is the one of devices, with the same options: :mod:`wheeltapper_protocols.tables`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.learning.errors import TrainingError
from wheeltapper_protocols.signal.recording import MAX_RECORDING_BYTES, Recording, read_recording
from wheeltapper_protocols.tables.notes import Notes
from wheeltapper_protocols.tables.options import TableOptions
from wheeltapper_protocols.tables.signal import agreed_rate, format_of, open_table, read_signal

__all__ = ["TableForm", "read_any"]

_BYTES: Final = 4
"""Of a sample of a recording."""


@dataclass(frozen=True, kw_only=True)
class TableForm:
    """What a file of another maker does not say about its signal.

    Args:
        sample_rate_hz: 0: what the file says, which only a WAV does.
        window_samples: length of a snapshot.
        units, scale: one entry a channel, or none; physical value = number in the file * scale.
        tolerance_seconds: how far a time may be off; 0: half a sample, or the steps of times that are coarser.
        options: how the table is written.
    """

    sample_rate_hz: float = 0.0
    window_samples: int = 0
    units: tuple[str, ...] = ()
    scale: tuple[float, ...] = ()
    tolerance_seconds: float = 0.0
    options: TableOptions = field(default_factory=TableOptions)


def read_any(path: Path, form: TableForm, notes: Notes) -> Recording:
    """Read an ``.npz`` recording, or a file of another maker.

    Raises:
        TrainingError: ``training.table``: the file cannot be cut as ``form`` says.
        RecordingError: ``recording.*``: the file cannot be used.
        OSError: an ``.npz`` cannot be opened.
    """
    kind = format_of(path)
    if kind == "npz":
        return read_recording(path)
    table = open_table(path, kind, form.options)
    rate_hz, count = agreed_rate(table, form.sample_rate_hz), len(table.channels)
    if not 0 < rate_hz <= 1e7 or form.window_samples < 1:
        raise TrainingError(
            "training.table", f"{path.name} is no .npz recording: give its --sample-rate-hz and --window-samples"
        )
    for name, entries in (("channels", form.options.channels), ("units", form.units), ("scale", form.scale)):
        if entries and len(entries) != count:
            raise TrainingError("training.table", f"{path.name} has {count} channels: give as many {name}")
    signal = read_signal(table, rate_hz, form.tolerance_seconds, notes)
    cutter = _Cutter(path.name, rate_hz, form.window_samples, signal.tolerance_seconds, notes)
    scale = np.array(form.scale or (1.0,) * count)
    for samples, times_s, restarts in signal.pieces:
        cutter.push(samples * scale, times_s, restarts)
    return Recording(
        samples=cutter.snapshots(count),
        scale=np.ones(count),
        sample_rate_hz=rate_hz,
        t_s=np.array(cutter.begins_s, dtype=np.float64),
        channels=form.options.channels or table.channels,
        units=form.units or ("",) * count,
        meta={"source": path.name},
    )


class _Cutter:
    """Cuts rows that follow one another into snapshots."""

    def __init__(self, file: str, rate_hz: float, window: int, tolerance_s: float, notes: Notes) -> None:
        self._file, self._rate_hz, self._window, self._notes = file, rate_hz, window, notes
        self._tolerance_s = max(0.5 / rate_hz, tolerance_s)
        self._rest: list[npt.NDArray[np.float32]] = []
        """Rows that are in no snapshot yet."""
        self._rest_rows = 0
        self._next_s = 0.0
        """When the next row is due."""
        self._cut: list[npt.NDArray[np.float32]] = []
        self._bytes = 0
        self.begins_s: list[float] = []
        """When each snapshot begins; rises."""

    def push(self, samples: npt.NDArray[np.float64], times_s: npt.NDArray[np.float64] | None, restarts: bool) -> None:
        """Take rows [row, channel], with their times if the file has any."""
        values = np.asarray(samples, dtype=np.float32)
        if times_s is None:
            self._run(values, None)
            return
        if restarts:
            self._gap(float(times_s[0]))
        period_s = 1 / self._rate_hz
        newest = np.maximum.accumulate(
            np.concatenate([[self._next_s - period_s if self._rest_rows else -np.inf], times_s[:-1]])
        )
        late = times_s - newest < period_s - self._tolerance_s
        if late.any():
            text = f"row at {times_s[np.argmax(late)]:.10g} s: its time comes twice or too late: it is left out"
            self._notes.add("late", text, int(late.sum()))
            values, times_s = values[~late], times_s[~late]
        if not len(times_s):
            return
        due = np.concatenate([[self._next_s if self._rest_rows else times_s[0]], times_s[:-1] + period_s])
        breaks = np.flatnonzero(np.abs(times_s - due) > self._tolerance_s).tolist()
        edges = [0, *[index for index in breaks if index], len(times_s)]
        for begin, end in itertools.pairwise(edges):
            if begin in breaks:
                self._gap(float(times_s[begin]))
            self._run(values[begin:end], float(times_s[begin]))
            self._next_s = float(times_s[end - 1]) + period_s

    def snapshots(self, channels: int) -> npt.NDArray[np.float32]:
        """All snapshots, [snapshot, sample, channel]."""
        if not self._cut:
            text = f"{self._file} has no {self._window} rows that follow one another without a missing value"
            raise TrainingError("training.table", f"{text}: {'; '.join(self._notes.summary()) or 'it is too short'}")
        return np.concatenate(self._cut).reshape(-1, self._window, channels)

    def _gap(self, begins_s: float) -> None:
        """Rows are missing here: those before that make no whole snapshot are left out."""
        if self._rest_rows:
            text = f"a gap before {begins_s:.10g} s: rows before it that make no whole window are left out"
            self._notes.add("gaps", text, self._rest_rows)
        self._rest, self._rest_rows = [], 0

    def _run(self, values: npt.NDArray[np.float32], begins_s: float | None) -> None:
        """Append rows that follow on from the rest."""
        if not self._rest_rows and begins_s is not None:
            self._next_s = begins_s
        self._rest.append(values)
        self._rest_rows += len(values)
        if self._rest_rows < self._window:
            if begins_s is None:
                self._next_s += len(values) / self._rate_hz
            return
        rows = np.concatenate(self._rest)
        whole = len(rows) // self._window * self._window
        first_s = (begins_s if begins_s is not None else self._next_s) - (len(rows) - len(values)) / self._rate_hz
        for at in range(0, whole, self._window):
            self._keep(rows[at : at + self._window], first_s + at / self._rate_hz)
        self._rest, self._rest_rows = [rows[whole:]], len(rows) - whole
        if begins_s is None:
            self._next_s += len(values) / self._rate_hz

    def _keep(self, window: npt.NDArray[np.float32], begins_s: float) -> None:
        """Keep a snapshot, unless a value is missing."""
        if not np.isfinite(window).all():
            self._notes.add("windows", f"the window at {begins_s:.10g} s has missing values: it is left out")
            return
        self._bytes += window.size * _BYTES
        if self._bytes > MAX_RECORDING_BYTES:
            raise TrainingError("training.table", f"{self._file} is larger than {MAX_RECORDING_BYTES} bytes: split it")
        newest_s = self.begins_s[-1] if self.begins_s else -np.inf
        length_s = self._window / self._rate_hz
        self.begins_s.append(begins_s if begins_s > newest_s else newest_s + length_s)
        self._cut.append(window)

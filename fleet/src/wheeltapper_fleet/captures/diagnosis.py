"""Reads recordings for diagnosis: one as a whole, many as a waterfall, a channel as sound.

Bounds: a recording of more than :data:`MOST_BYTES` is not opened; a waterfall has :data:`MOST_ROWS` recordings at most
and opens none of more than :data:`MOST_ROW_BYTES`; a sound lasts :data:`MOST_SECONDS` at most. Of one recording
:data:`MOST_SAMPLES` are transformed, and :data:`AT_ONCE` readers are served at once, so that however many look, the
memory is that of a few. Recordings are named by their content, so a row of a waterfall that was computed once is kept
and stays right.
"""

from __future__ import annotations

import contextlib
import io
import threading
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.captures.schemas import CaptureView
from wheeltapper_fleet.captures.spectra import MOST_SNAPSHOTS, waterfall_row
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.signal.recording import Recording, read_recording

__all__ = [
    "MOST_ROWS",
    "Row",
    "at_work",
    "one_snapshot",
    "open_recording",
    "some_snapshots",
    "sound",
    "waterfall",
]

MOST_BYTES: Final = 64 * 2**20
MOST_ROW_BYTES: Final = 16 * 2**20
MOST_ROWS: Final = 24
MOST_SECONDS: Final = 60.0
MOST_SAMPLES: Final = 2**21
AT_ONCE: Final = 2
WAIT_SECONDS: Final = 10.0
_TURNS: Final = threading.BoundedSemaphore(AT_ONCE)
_FADE_SECONDS: Final = 0.003
_LOUDEST: Final = 0.9
_SLOWEST_HZ: Final = 3000
"""Below this rate browsers play no sound: it is played faster, as a whole multiple."""


@dataclass(frozen=True)
class Row:
    """One recording of a waterfall: amplitudes by frequency, in equal stretches."""

    capture: CaptureView
    amplitudes: tuple[float, ...]


@contextlib.contextmanager
def at_work() -> Iterator[None]:
    """Hold one of the turns while recordings are in memory.

    Raises:
        FleetError: ``capture.busy``: none became free in time.
    """
    if not _TURNS.acquire(timeout=WAIT_SECONDS):
        raise FleetError("capture.busy", f"{AT_ONCE} others look at recordings just now: try again", 503)
    try:
        yield
    finally:
        _TURNS.release()


def open_recording(folder: Path | None, capture: CaptureView) -> Recording:
    """The recording that answers ``capture``.

    Raises:
        FleetError: ``capture.not_found``, ``capture.too_large``, ``capture.invalid``.
    """
    if capture.sha256 is None or folder is None:
        raise FleetError("capture.not_found", f"no recording has come for {capture.command[:80]!r} (yet)", 404)
    if (capture.length or 0) > MOST_BYTES:
        size = f"{(capture.length or 0) / 2**20:.0f} MB"
        how = f"`wheeltapper device capture fetch {capture.command} --out FILE`"
        message = f"{size} is too much to look at here; fetch it with {how}"
        raise FleetError("capture.too_large", message, 422)
    try:
        return read_recording(folder / f"{capture.sha256}.npz")
    except FileNotFoundError as error:
        message = f"the file of {capture.command[:80]!r} is missing in the data folder; restore it from your backup"
        raise FleetError("capture.not_found", message, 404) from error
    except RecordingError as error:
        raise FleetError("capture.invalid", f"not a recording: {error.message} ({error.code})", 422) from error


def some_snapshots(recording: Recording, channel: int) -> npt.NDArray[np.float32]:
    """[snapshot, sample] of one channel in physical units: at most :data:`MOST_SNAPSHOTS`, spread evenly, and the first
    :data:`MOST_SAMPLES` of each; fewer snapshots where they are long."""
    count = max(1, min(MOST_SNAPSHOTS, MOST_SAMPLES // recording.window_samples))
    chosen = np.unique(np.linspace(0, recording.snapshots - 1, count).astype(int))
    scale = np.float32(recording.scale[channel])
    return np.asarray(recording.samples[chosen, :MOST_SAMPLES, channel] * scale, dtype=np.float32)


def one_snapshot(recording: Recording, channel: int, number: int) -> npt.NDArray[np.float32]:
    """[sample]: the snapshot ``number`` (from 1) of one channel in physical units, :data:`MOST_SAMPLES` at most."""
    scale = np.float32(recording.scale[channel])
    return np.asarray(recording.samples[number - 1, :MOST_SAMPLES, channel] * scale, dtype=np.float32)


def waterfall(
    folder: Path | None, captures: Sequence[CaptureView], channel: str, high_hz: float, points: int
) -> tuple[list[Row], int]:
    """The spectra of recordings one behind the other, in the order given, and how many could not be shown.

    Args:
        folder: where recordings are kept.
        captures: received ones; of more than :data:`MOST_ROWS` some are taken, spread evenly.
        channel: the name of the channel; a recording without it is not shown.
        high_hz: the greatest frequency.
        points: stretches of each row.
    """
    chosen = list(captures)
    if len(chosen) > MOST_ROWS:
        places = np.linspace(0, len(chosen) - 1, MOST_ROWS).astype(int)
        chosen = [chosen[place] for place in places]
    rows, missing = [], 0
    for capture in chosen:
        found = None
        if folder is not None and capture.sha256 is not None and (capture.length or 0) <= MOST_ROW_BYTES:
            found = _row(folder / f"{capture.sha256}.npz", channel, high_hz, points)
        if found is None:
            missing += 1
        else:
            rows.append(Row(capture, found))
    return rows, missing


@lru_cache(maxsize=512)
def _row(path: Path, channel: str, high_hz: float, points: int) -> tuple[float, ...] | None:
    """A row of a waterfall; None where the file is gone, or no recording with this channel."""
    try:
        recording = read_recording(path)
    except (OSError, RecordingError):
        return None
    if channel not in recording.channels:
        return None
    values = some_snapshots(recording, recording.channels.index(channel))
    return tuple(float(each) for each in waterfall_row(values, recording.sample_rate_hz, high_hz, points))


def sound(recording: Recording, channel: int) -> tuple[bytes, float]:
    """A channel as a WAV file (16 bit, mono), as loud as can be, and how many times faster than it was it is played.

    The snapshots follow each other with short fades between, since time may have passed.
    """
    rate = recording.sample_rate_hz
    most = max(1, int(min(MOST_SECONDS * rate, 2 * MOST_SAMPLES) / recording.window_samples))
    values = recording.samples[:most, : 2 * MOST_SAMPLES, channel].astype(np.float64) * recording.scale[channel]
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    values -= values.mean(axis=1, keepdims=True)
    fade = min(int(_FADE_SECONDS * rate), values.shape[1] // 4)
    if fade:
        ramp = np.linspace(0.0, 1.0, fade)
        values[:, :fade] *= ramp
        values[:, -fade:] *= ramp[::-1]
    top = float(np.abs(values).max(initial=0.0))
    scaled = values.ravel() * (_LOUDEST * 32767 / top if top > 0 else 0.0)
    faster = max(1, int(np.ceil(_SLOWEST_HZ / rate)))
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(max(1, round(rate * faster)))
        file.writeframes(scaled.astype("<i2").tobytes())
    return made.getvalue(), float(faster)

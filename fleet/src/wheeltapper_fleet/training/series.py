"""Recordings of a machine's life become one series, and windows with the life that remained at their end.

Snapshots that touch or overlap are put together; a recording whose snapshots leave gaps is no series and is refused.
The end of a recording is the end of the machine's life, unless its labels say what remained then
(``remaining_cycles``, ``remaining_seconds`` or ``remaining_hours``, by the unit that is asked for).

Invariant: one recording of samples beside the series is in memory at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.recipes import Source, label
from wheeltapper_protocols.signal.recording import Recording, read_recording

__all__ = ["Life", "read_lives", "series_of"]

Array = npt.NDArray[np.float32]
_SECONDS: Final = {"seconds": 1.0, "hours": 3600.0}


@dataclass(frozen=True)
class Life:
    """One machine until its end.

    Args:
        machine: its name.
        samples: [sample, channel] in physical units.
        remaining: [sample] float32, the life that remained.
        sha256: hash of the samples and of what remained at their end.
        channels, units, sample_rate_hz: as in the recording.
    """

    machine: str
    samples: Array
    remaining: Array
    sha256: str
    channels: tuple[str, ...]
    units: tuple[str, ...]
    sample_rate_hz: float


def series_of(what: str, recording: Recording) -> Array:
    """The samples of a recording in physical units, [sample, channel] float32, each once.

    Raises:
        TrainingError: ``training.gaps``: its snapshots do not follow one another.
    """
    samples = recording.physical(slice(None))
    if recording.snapshots == 1:
        return np.asarray(samples[0])
    hops = np.diff(recording.t_s) * recording.sample_rate_hz
    hop = round(float(hops[0]))
    if hop < 1 or hop > recording.window_samples or np.abs(hops - hop).max() > 0.5:
        worst = int(np.abs(hops - hop).argmax()) + 1 if hop <= recording.window_samples else 1
        raise TrainingError(
            "training.gaps",
            f"{what}: snapshot {worst} does not begin where the one before ends; this recipe needs a series without "
            "gaps: record without pauses, or cut the recording where they are",
        )
    return np.concatenate([samples[0], samples[1:, recording.window_samples - hop :].reshape(-1, samples.shape[2])])


def read_lives(sources: Sequence[Source], unit: str) -> list[Life]:
    """Read machines' lives.

    Args:
        sources: recordings, or the files that hold them; one a machine.
        unit: ``cycles`` (samples), ``seconds`` or ``hours``.

    Raises:
        TrainingError: ``training.gaps``, ``training.mixed_input``, ``training.repeated``, ``training.label``.
        RecordingError, OSError: a file cannot be read.
    """
    lives: list[Life] = []
    for number, source in enumerate(sources, start=1):
        what = f"recording {number}" if isinstance(source, Recording) else source.name
        found = _life(what, read_recording(source) if isinstance(source, Path) else source, unit)
        first = lives[0] if lives else found
        if (found.channels, found.units, found.sample_rate_hz) != (first.channels, first.units, first.sample_rate_hz):
            why = f"{what} differs from the others in rate, channels or units; train on one kind at a time"
            raise TrainingError("training.mixed_input", why)
        if any(found.sha256 == other.sha256 for other in lives):
            raise TrainingError("training.repeated", f"{what} was given already; give each recording once")
        lives.append(found)
    return lives


def _life(what: str, recording: Recording, unit: str) -> Life:
    samples = series_of(what, recording)
    left = _left_at_end(what, recording, unit)
    step = 1 / (recording.sample_rate_hz * _SECONDS[unit]) if unit in _SECONDS else 1.0
    remaining = (left + step * np.arange(len(samples))[::-1]).astype(np.float32)
    digest = hashlib.sha256(np.ascontiguousarray(samples).data)
    digest.update(f"{recording.sample_rate_hz!r} {left!r}".encode())
    machine = str(recording.meta.get("machine", what))
    return Life(
        machine, samples, remaining, digest.hexdigest(), recording.channels, recording.units, recording.sample_rate_hz
    )


def _left_at_end(what: str, recording: Recording, unit: str) -> float:
    """What remains of the life at the recording's end, in ``unit``."""
    name = f"remaining_{unit}"
    given: Any = label(recording, name)
    if given is None:
        return 0.0
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < 1e9:
        raise TrainingError("training.label", f"{what}: its label {name} is {given!r}; give a number of at least 0")
    return float(given)

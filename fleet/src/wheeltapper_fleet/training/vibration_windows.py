"""Labelled vibration becomes windows of one rate, without what gives a class away by itself.

Files of one class often share a sample rate and an analogue-digital converter with a step of its own; a net learns the
grid of its values rather than the fault. So every recording is brought to the lowest rate (through the filter of a
polyphase resampler), and noise as wide as the coarsest step hides the grids.

Invariants:
    * The same recordings and seed give the same windows.
    * No window spans two snapshots.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.signal import resample_poly

from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.recipes import Source, label
from wheeltapper_protocols.signal.recording import Recording, read_recording

__all__ = ["Labelled", "folds_of", "read_labelled"]

Array = npt.NDArray[np.float32]
_MAX_WINDOWS_EACH: Final = 400
"""Windows of a recording that are used, evenly spread; of a longer one the others say little more."""


@dataclass(frozen=True)
class Labelled:
    """Windows with their classes.

    Args:
        samples: [window, sample, channel] in physical units.
        classes: [window], the index in ``names``.
        names: of the classes, sorted.
        machine: [window], the number of its machine.
        rate_hz: of the samples.
        channels, units: [channel].
        sha256: of each recording.
    """

    samples: Array
    classes: npt.NDArray[np.int64]
    names: tuple[str, ...]
    machine: npt.NDArray[np.int64]
    rate_hz: float
    channels: tuple[str, ...]
    units: tuple[str, ...]
    sha256: tuple[str, ...]


def read_labelled(sources: Sequence[Source], name: str, window: int, rate_hz: float, seed: int) -> Labelled:
    """Read recordings and cut them.

    Args:
        sources: recordings, or the files that hold them.
        name: of the label that is the class.
        window: samples of a window.
        rate_hz: to which they are brought; 0: the lowest of theirs.
        seed: of the noise.

    Raises:
        TrainingError: ``training.label``, ``training.mixed_input``, ``training.repeated``, ``training.window``.
        RecordingError, OSError: a file cannot be read.
    """
    heads = [_head(number, source, name) for number, source in enumerate(sources, start=1)]
    if not heads:
        raise TrainingError("training.too_little", "there are no recordings")
    if len({(head.channels, head.units) for head in heads}) > 1:
        raise TrainingError("training.mixed_input", "the recordings differ in channels or units; train on one kind")
    rate_hz = rate_hz or min(head.rate_hz for head in heads)
    steps = np.max([head.step for head in heads], axis=0)
    names = tuple(sorted({head.label for head in heads}))
    machines = sorted({head.machine for head in heads})
    random = np.random.default_rng(seed)
    parts, classes, machine, hashes = [], [], [], list[str]()
    for source, head in zip(sources, heads, strict=True):
        recording = read_recording(source) if isinstance(source, Path) else source
        digest = hashlib.sha256(np.ascontiguousarray(recording.samples).data).hexdigest()
        if digest in hashes:
            raise TrainingError("training.repeated", f"{head.what} was given already; give each recording once")
        hashes.append(digest)
        cuts = _cut(head.what, recording, window, rate_hz)
        parts.append((cuts + random.uniform(-0.5, 0.5, size=cuts.shape) * steps).astype(np.float32))
        classes.append(np.full(len(cuts), names.index(head.label)))
        machine.append(np.full(len(cuts), machines.index(head.machine)))
    return Labelled(
        np.concatenate(parts), np.concatenate(classes), names, np.concatenate(machine), rate_hz, heads[0].channels,
        heads[0].units, tuple(hashes),
    )  # fmt: skip


@dataclass(frozen=True)
class _Head:
    """What is known of a recording without its samples."""

    what: str
    machine: str
    label: str
    rate_hz: float
    step: npt.NDArray[np.float64]
    channels: tuple[str, ...]
    units: tuple[str, ...]


def _head(number: int, source: Source, name: str) -> _Head:
    what = f"recording {number}" if isinstance(source, Recording) else source.name
    recording = read_recording(source) if isinstance(source, Path) else source
    found = label(recording, name)
    if not isinstance(found, str) or not 1 <= len(found) <= 64:
        raise TrainingError("training.label", f"{what} has no label {name!r} that is a text; label it or leave it out")
    step = np.abs(recording.scale) if recording.samples.dtype.kind == "i" else np.zeros(len(recording.channels))
    machine = str(recording.meta.get("machine", what))
    return _Head(what, machine, found, recording.sample_rate_hz, step, recording.channels, recording.units)


def _cut(what: str, recording: Recording, window: int, rate_hz: float) -> Array:
    """The windows of a recording at ``rate_hz``, [window, sample, channel]."""
    ratio = Fraction(rate_hz / recording.sample_rate_hz).limit_denominator(1000)
    if ratio > 1 or not ratio:
        why = f"{what} has {recording.sample_rate_hz:g} Hz, less than {rate_hz:g} Hz: lower sample_rate_hz"
        raise TrainingError("training.mixed_input", why)
    samples: Any = recording.physical(slice(None))
    if ratio != 1:
        samples = resample_poly(samples, ratio.numerator, ratio.denominator, axis=1)
    count = samples.shape[1] // window
    if not count:
        why = f"{what}: its snapshots have {samples.shape[1]} samples at {rate_hz:g} Hz; a window has {window}"
        raise TrainingError("training.window", why)
    cuts = samples[:, : count * window].reshape(-1, window, samples.shape[2])
    picked = np.unique(np.linspace(0, len(cuts) - 1, min(len(cuts), _MAX_WINDOWS_EACH)).astype(int))
    return np.asarray(cuts[picked], dtype=np.float32)


def folds_of(data: Labelled, folds: int, seed: int) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Divide windows into folds by machine, each class evenly.

    Returns:
        The fold of each window, and the classes that one machine alone shows: their windows are divided by time, in
        blocks, which says less of other machines.
    """
    random = np.random.default_rng(seed)
    fold = np.zeros(len(data.classes), dtype=np.int64)
    alone = []
    taken: dict[int, int] = {}
    for number, name in enumerate(data.names):
        mine = np.flatnonzero(data.classes == number)
        machines = random.permutation(np.unique(data.machine[mine]))
        if len(machines) == 1:
            alone.append(name)
            fold[mine] = np.minimum(np.arange(len(mine)) * folds // len(mine), folds - 1)
            continue
        for place, machine in enumerate(machines.tolist()):
            taken.setdefault(machine, (place + number) % folds)
            fold[mine[data.machine[mine] == machine]] = taken[machine]
    return fold, alone

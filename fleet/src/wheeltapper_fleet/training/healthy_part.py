"""The healthy first part of each recording, as the recipe ``anomaly`` learns from it.

Invariant: one recording is in memory at a time; of it only features and a few windows are kept.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training.channels import check_channels
from wheeltapper_fleet.training.conditions import find_setting
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.evaluate import compute_features
from wheeltapper_fleet.training.recipe import is_process
from wheeltapper_fleet.training.tables import TableForm, read_any
from wheeltapper_protocols.manifest.manifest import Input
from wheeltapper_protocols.signal.features import FeatureSet, FeatureSpec, default_specs
from wheeltapper_protocols.signal.recording import Recording
from wheeltapper_protocols.tables.notes import Notes

__all__ = [
    "HealthyPart",
    "Progress",
    "feature_set",
    "found_condition",
    "machine_hours",
    "machines_of",
    "read_healthy",
    "step_seconds",
]

MIN_WINDOWS: Final = 8
MIN_WINDOWS_EACH: Final = 6
_SAMPLE_WINDOWS: Final = 8
"""Windows of each recording that are kept for golden vectors."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class HealthyPart:
    """What is kept of a recording's healthy part.

    Args:
        input: rate, window, channels and units.
        features: [window, feature].
        samples: a few windows in physical units for golden vectors, [window, sample, channel].
        machine: its name; empty where the recording has none.
        step_seconds: time from one window to the next.
        sha256: hash of rate, scale and healthy samples; goes into the manifest's lineage.
    """

    input: Input
    features: npt.NDArray[np.float32]
    samples: npt.NDArray[np.float32]
    machine: str
    step_seconds: float
    sha256: str


def read_healthy(
    recordings: Iterable[Path | Recording],
    fraction: float,
    condition: str,
    table: TableForm,
    say: Progress,
    read: Callable[[int], None],
) -> list[HealthyPart]:
    """Read the recordings one after the other and keep their healthy parts; ``read`` hears of each."""
    healthy: list[HealthyPart] = []
    for number, source in enumerate(recordings, start=1):
        what = f"recording {number}" if isinstance(source, Recording) else source.name
        recording = source if isinstance(source, Recording) else _read(source, table, say)
        if healthy and _input_of(recording) != healthy[0].input:
            raise TrainingError(
                "training.mixed_input",
                "the recordings differ in rate, window, channels or units; train on one kind of recording at a time",
            )
        healthy.append(_healthy_part(what, recording, fraction, condition))
        if healthy[-1].sha256 in {part.sha256 for part in healthy[:-1]}:
            why = f"{what}: its healthy part was given already; give each recording once"
            raise TrainingError("training.repeated", why)
        read(number)
    total = sum(len(part.features) for part in healthy)
    if not healthy or total < MIN_WINDOWS or min(len(part.features) for part in healthy) < MIN_WINDOWS_EACH:
        raise TrainingError(
            "training.too_little",
            f"there are {total} healthy windows in {len(healthy)} recordings; at least {MIN_WINDOWS} in all and "
            f"{MIN_WINDOWS_EACH} in each are needed: record longer or raise the healthy fraction",
        )
    return healthy


def found_condition(recordings: Iterable[Path | Recording], fraction: float, table: TableForm) -> str:
    """The name of the channel that says the operating condition by itself; empty where none does.

    Each recording is read once more for it.
    """
    names: tuple[str, ...] = ()
    means: list[npt.NDArray[np.float64]] = []
    spans: list[npt.NDArray[np.float64]] = []
    for source in recordings:
        recording = source if isinstance(source, Recording) else _read(source, table, lambda text: None)
        if recording.channels == names or not means:
            names = recording.channels
            healthy = recording.samples[: _healthy_count(recording, fraction)]
            means.append(healthy.mean(axis=1) * recording.scale)
            spans.append((healthy.max(axis=1).astype(np.float64) - healthy.min(axis=1)) * recording.scale)
    if not means or len(names) < 2:
        return ""
    found = find_setting(np.concatenate(means), np.concatenate(spans))
    return names[found] if found is not None else ""


def _healthy_count(recording: Recording, fraction: float) -> int:
    """How many windows are healthy."""
    # 0.1 of 230 is 23; without the small addition binary arithmetic can round it down to 22.
    return max(1, math.floor(recording.snapshots * fraction + 1e-9))


def step_seconds(healthy: list[HealthyPart]) -> float:
    """Seconds from one window to the next."""
    return float(np.median([part.step_seconds for part in healthy]))


def machine_hours(healthy: list[HealthyPart]) -> float:
    """Machine-hours that the healthy windows cover."""
    return sum(len(part.features) * part.step_seconds for part in healthy) / 3600


def _read(path: Path, table: TableForm, say: Progress) -> Recording:
    """Read one file, and say what was left out."""
    notes = Notes(lambda text: say(f"{path.name}: {text}"))
    recording = read_any(path, table, notes)
    for text in notes.summary():
        say(f"{path.name}: {text}")
    return recording


def _input_of(recording: Recording) -> Input:
    """The manifest's description of a model input like this recording."""
    if not 1 <= recording.window_samples <= 2**20:
        raise TrainingError(
            "training.window", f"a window has {recording.window_samples} samples; 1 to 1048576 are supported"
        )
    return Input(
        sample_rate_hz=recording.sample_rate_hz,
        window_samples=recording.window_samples,
        channels=list(recording.channels),
        units=list(recording.units),
    )


def feature_set(wanted: Input, condition: str) -> FeatureSet:
    """The default features for a model input; of the channel ``condition`` only its value.

    Raises:
        TrainingError: ``training.condition``: there is no such channel, or no other.
    """
    specs = default_specs(wanted.sample_rate_hz, wanted.channels, wanted.window_samples)
    if condition:
        if condition not in wanted.channels or len(wanted.channels) < 2:
            names = ", ".join(wanted.channels)
            raise TrainingError(
                "training.condition",
                f"{condition!r} cannot say the operating condition: the channels are {names}, and one must be left to "
                "watch",
            )
        channel = wanted.channels.index(condition)
        specs = [spec for spec in specs if spec.channel != channel]
        specs.append(FeatureSpec(name=f"{condition}.value", kind="value", channel=channel))
    return FeatureSet(specs, wanted.sample_rate_hz, wanted.window_samples, len(wanted.channels))


def _healthy_part(what: str, recording: Recording, fraction: float, condition: str) -> HealthyPart:
    """Features, a few windows and the hash of a recording's healthy part."""
    wanted = _input_of(recording)
    stop = _healthy_count(recording, fraction)
    planned = feature_set(wanted, condition)
    watched = [index for index, name in enumerate(recording.channels) if name != condition]
    check_channels(
        what,
        recording.samples[:stop][:, :, watched],
        tuple(recording.channels[i] for i in watched),
        is_process(planned.specs),
    )
    digest = hashlib.sha256(np.float64(recording.sample_rate_hz).tobytes() + recording.scale.tobytes())
    digest.update(np.ascontiguousarray(recording.samples[:stop]).data)
    picked = np.unique(np.linspace(0, stop - 1, _SAMPLE_WINDOWS).astype(int))
    samples = np.concatenate([recording.physical(slice(i, i + 1)) for i in picked])
    step = np.median(np.diff(recording.t_s)) if recording.snapshots > 1 else 0.0
    step_seconds = float(step) or recording.window_samples / recording.sample_rate_hz
    features = compute_features(planned, recording, stop)
    machine = str(recording.meta.get("machine", ""))
    return HealthyPart(wanted, features, samples, machine, step_seconds, digest.hexdigest())


def machines_of(healthy: list[HealthyPart]) -> list[int]:
    """For each recording the number of its machine: those that name the same are of one; without a name each is of its
    own."""
    known: dict[str, int] = {}
    return [known.setdefault(part.machine or f"\n{number}", len(known)) for number, part in enumerate(healthy)]

"""Recordings of a dataset become the windows that a release takes, each with what is known to be true of it.

A recording at a higher rate is resampled, a longer snapshot is cut, shorter ones that follow one another are put
together. What does not fit is left out by name, never guessed.

Invariants:
    * All windows have the form of the release's input, so that two releases with one input see the same windows.
    * One recording is in memory at a time beside the windows that are kept, which are at most :data:`MAX_BYTES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.signal import resample_poly

from wheeltapper_fleet.learning.datasets.manifest import Item, Value
from wheeltapper_fleet.learning.datasets.reading import Dataset
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.judging.judge import HEALTHY
from wheeltapper_fleet.training.labelled import SEGMENTS, LabelledWindows
from wheeltapper_fleet.training.recipes import label
from wheeltapper_fleet.training.series import series_of
from wheeltapper_protocols.manifest.manifest import Input, Manifest
from wheeltapper_protocols.signal.recording import Recording

__all__ = ["MAX_BYTES", "Truth", "held_out_windows"]

MAX_BYTES: Final = 256 * 1024**2
_FAULT: Final = "fault"
_VERDICTS: Final = {"true_fault": _FAULT, "false_alarm": HEALTHY[0]}
"""What people found of an alert, in a dataset of captures."""
_SECONDS: Final = {"seconds": 1.0, "hours": 3600.0}

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What says what is true of a window.

    Args:
        label: the name of the label that says it.
        healthy_fraction: how much of a recording without any such label, from its start, is healthy; 0: nothing.
    """

    label: str = _FAULT
    healthy_fraction: float = 0.0


@dataclass
class _Parts:
    """What is gathered from the recordings."""

    samples: list[Samples] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    life: list[npt.NDArray[np.float64]] = field(default_factory=list)
    recording: list[int] = field(default_factory=list)
    t_s: list[npt.NDArray[np.float64]] = field(default_factory=list)
    segments: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in SEGMENTS})
    sha256: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


def held_out_windows(
    dataset: Dataset, side: str, only: dict[str, str], manifest: Manifest, truth: Truth, say: Callable[[str], None]
) -> LabelledWindows | None:
    """The windows of one side of a dataset; None where no recording of it fits.

    Args:
        dataset: a version.
        side: that nothing was trained on.
        only: values that a label or the condition of an item must have.
        manifest: whose windows are wanted.
        truth: what says what is true of a window.
        say: called with a sentence for each recording that is thinned, and each reason for which some are left out.

    Raises:
        DatasetError: ``dataset.*``.
    """
    items = [item for item in dataset.items(side, only) if item.kind == "recording"]
    parts, left = _Parts(), dict[str, list[str]]()
    for item in items:
        name = item.source or item.sha256[:12]
        try:
            cut = _cut(dataset.recording(item), manifest, MAX_BYTES // len(items))
        except TrainingError as error:
            left.setdefault(error.code, []).append(f"{name} of {item.machine}: {error.message}")
            continue
        if cut.left:
            say(f"{name} is too large: {len(cut.samples)} windows of it judge, {cut.left} are left out, evenly spread")
        _add(parts, name, item, cut, manifest, truth)
    for code, texts in sorted(left.items()):
        first = f"of {len(texts)} the first is " if len(texts) > 1 else ""
        say(f"recordings that judge nothing ({code}): {first}{texts[0]}")
    if not parts.samples:
        return None
    return LabelledWindows(
        input=manifest.input,
        samples=np.concatenate(parts.samples),
        labels=tuple(parts.labels),
        recording=np.array(parts.recording),
        t_s=np.concatenate(parts.t_s),
        segments={name: tuple(texts) for name, texts in parts.segments.items()},
        sha256=tuple(parts.sha256),
        names=tuple(parts.names),
        lineage={"dataset": dataset.manifest.ref, "dataset_side": side},
        life=np.concatenate(parts.life) if manifest.remaining_life is not None else None,
    )


@dataclass(frozen=True)
class _Cut:
    """Windows of one recording: [window, sample, channel], their start times and the ends' distance from its end."""

    samples: Samples
    t_s: npt.NDArray[np.float64]
    to_end_samples: npt.NDArray[np.float64]
    recording: Recording
    share: npt.NDArray[np.float64]
    """[window]: where in the recording it begins, 0 to 1."""
    left: int = 0


def _cut(recording: Recording, manifest: Manifest, budget: int) -> _Cut:
    """The windows of a recording.

    Raises:
        TrainingError: it does not fit: ``training.channel``, ``training.mixed_input``, ``training.window``,
            ``training.gaps``.
    """
    shape = manifest.input
    columns = _columns(recording, shape)
    most = max(1, budget // (shape.window_samples * len(columns) * 4))
    if manifest.remaining_life is not None or recording.window_samples < shape.window_samples:
        return _from_series(recording, shape, columns, most)
    ratio = Fraction(shape.sample_rate_hz / recording.sample_rate_hz).limit_denominator(1000)
    if not 0 < ratio <= 1:
        raise _mixed(f"it has {recording.sample_rate_hz:g} Hz, less than the {shape.sample_rate_hz:g} Hz of the model")
    length = len(resample_poly(np.zeros(recording.window_samples), ratio.numerator, ratio.denominator))
    each = length // shape.window_samples
    if not each:
        raise TrainingError("training.window", f"a snapshot has {length} samples, a window {shape.window_samples}")
    count = recording.snapshots * each
    rows = np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))
    kept = []
    for snapshot in np.unique(rows // each):
        samples: Any = recording.physical(slice(snapshot, snapshot + 1))[0][:, columns]
        if ratio != 1:
            samples = resample_poly(samples, ratio.numerator, ratio.denominator, axis=0)
        for row in rows[rows // each == snapshot]:
            first = (row % each) * shape.window_samples
            kept.append(np.asarray(samples[first : first + shape.window_samples], dtype=np.float32))
    starts = recording.t_s[rows // each] + (rows % each) * shape.window_samples / shape.sample_rate_hz
    return _Cut(np.stack(kept), starts, np.zeros(len(rows)), recording, rows / count, count - len(rows))


def _from_series(recording: Recording, shape: Input, columns: list[int], most: int) -> _Cut:
    """Windows that end at every sample of a recording without gaps, or at every n-th, so that there are at most
    ``most``."""
    if abs(recording.sample_rate_hz / shape.sample_rate_hz - 1) > 1e-3:
        raise _mixed(f"it has {recording.sample_rate_hz:g} Hz, the model takes {shape.sample_rate_hz:g} Hz")
    series = series_of("it", recording)[:, columns]
    window, count = shape.window_samples, len(series) - shape.window_samples + 1
    if count < 1:
        raise TrainingError("training.window", f"it has {len(series)} samples, a window has {window}")
    step = -(-count // most)
    firsts = np.arange(count - 1, -1, -step)[::-1]
    samples = np.lib.stride_tricks.sliding_window_view(series, window, axis=0)[firsts].transpose(0, 2, 1)
    starts = recording.t_s[0] + firsts / recording.sample_rate_hz
    to_end = (count - 1 - firsts).astype(np.float64)
    return _Cut(np.ascontiguousarray(samples), starts, to_end, recording, firsts / count, count - len(firsts))


def _columns(recording: Recording, shape: Input) -> list[int]:
    """The columns of a recording that are a release's channels."""
    missing = [name for name in shape.channels if name not in recording.channels]
    if missing:
        raise TrainingError("training.channel", f"it lacks the channel {missing[0]!r}")
    found = [recording.channels.index(name) for name in shape.channels]
    for name, unit, column in zip(shape.channels, shape.units, found, strict=True):
        if recording.units[column] != unit:
            raise _mixed(f"its channel {name!r} is in {recording.units[column]!r}, the model takes {unit!r}")
    return found


def _mixed(text: str) -> TrainingError:
    return TrainingError("training.mixed_input", text)


def _add(parts: _Parts, name: str, item: Item, cut: _Cut, manifest: Manifest, truth: Truth) -> None:
    count = len(cut.samples)
    parts.samples.append(cut.samples)
    parts.recording += [len(parts.names)] * count
    parts.t_s.append(cut.t_s)
    if manifest.remaining_life is not None:
        parts.labels += [""] * count
        parts.life.append(_life(cut, manifest.remaining_life.unit))
    else:
        parts.labels += _labels(item, cut, truth, healthy=manifest.classification is None)
    condition = ", ".join(f"{key}={_text(value)}" for key, value in sorted(item.condition.items()) if key != "site")
    for key, value in (("machine", item.machine), ("site", item.condition.get("site", "")), ("condition", condition)):
        parts.segments[key].append(_text(value))
    parts.sha256.append(item.sha256)
    parts.names.append(name)


def _life(cut: _Cut, unit: str) -> npt.NDArray[np.float64]:
    """[window]: the life that remains at its end; the recording ends with its machine's life, or a label says what then
    remains."""
    given = label(cut.recording, f"remaining_{unit}")
    known = isinstance(given, int | float) and not isinstance(given, bool)
    step = 1 / (cut.recording.sample_rate_hz * _SECONDS[unit]) if unit in _SECONDS else 1.0
    return (float(given) if known else 0.0) + step * cut.to_end_samples


def _labels(item: Item, cut: _Cut, truth: Truth, *, healthy: bool) -> list[str]:
    """The label of each window; empty where nothing says it.

    With ``healthy`` people's verdicts on alerts count too, and the healthy beginning of a recording that has no label.
    """
    found = [""] * len(cut.samples)
    known = [(each, each.value) for each in item.labels if each.name == truth.label]
    if not known and healthy:
        named = [(each, _VERDICTS.get(str(each.value))) for each in item.labels if each.name == "verdict"]
        known = [(each, value) for each, value in named if value is not None]
    for each, value in known:
        text = {True: _FAULT, False: HEALTHY[0]}[value] if isinstance(value, bool) else _text(value)
        for row, t_s in enumerate(cut.t_s):
            if (each.start is None or t_s >= each.start) and (each.stop is None or t_s < each.stop):
                found[row] = text
    if not known and healthy and truth.healthy_fraction:
        found = [HEALTHY[0] if share < truth.healthy_fraction else "" for share in cut.share]
    return found


def _text(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

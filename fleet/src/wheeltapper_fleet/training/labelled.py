"""Reads labelled recordings as windows of one form: samples, a label each, and from which recording and machine.

A label is given beside the file (``inner=run.npz``), or in the recording's ``meta`` as ``label``: one text for all
snapshots, or a list with one entry a snapshot. For a remaining life it is a number: the life that remains at the
recording's end. Its ``machine``, ``site`` and ``condition`` in ``meta`` name the segments.

Invariants:
    * All windows have the same rate, length, channels and units.
    * Nothing is left out silently: what is too much is thinned evenly, and said.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.tables import TableForm, read_any
from wheeltapper_protocols.manifest.manifest import Input
from wheeltapper_protocols.signal.recording import Recording
from wheeltapper_protocols.tables.notes import Notes

__all__ = ["SEGMENTS", "LabelledWindows", "LifeUnit", "read_dataset", "read_labelled"]

SEGMENTS: Final = ("machine", "site", "condition")
"""Keys of a recording's ``meta`` by which windows are grouped."""
_MAX_BYTES: Final = 1024**3
_SECONDS: Final = {"seconds": 1.0, "hours": 3600.0}

LifeUnit = str
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class LabelledWindows:
    """Windows with their labels, in the order of the recordings and of time.

    Args:
        input: rate, window, channels, units.
        samples: [window, sample, channel] float32, in physical units.
        labels: [window]; empty: not known.
        recording: [window], the index of the recording.
        t_s: [window], start times within the recording, in seconds.
        segments: by name (:data:`SEGMENTS`) a text for each recording; empty: not known.
        sha256: for each recording the hash of rate, scale and samples.
        names: for each recording.
    """

    input: Input
    samples: npt.NDArray[np.float32]
    labels: tuple[str, ...]
    recording: npt.NDArray[np.int64]
    t_s: npt.NDArray[np.float64]
    segments: dict[str, tuple[str, ...]]
    sha256: tuple[str, ...]
    names: tuple[str, ...]
    step_seconds: float = 1.0
    lineage: dict[str, str] = field(default_factory=dict)
    """Of a dataset: which version it is, and which side."""
    life: npt.NDArray[np.float64] | None = None
    """[window], the life that remains at its end, in the model's unit; None: the labels say what remains at the
    recording's end."""

    def __len__(self) -> int:
        return len(self.samples)

    def labelled(self) -> tuple[str, ...]:
        """The labels that occur, sorted."""
        return tuple(sorted(set(self.labels) - {""}))

    def remaining_life(self, unit: LifeUnit) -> npt.NDArray[np.float64]:
        """[window]: the life that remains at each window, in ``unit`` (``seconds``, ``hours`` or ``cycles``, which are
        windows); NaN where no label is a number.

        The label is the life that remains at the end of the recording.
        """
        if self.life is not None:
            return self.life
        life = np.full(len(self), np.nan)
        for index in range(len(self.names)):
            rows = np.flatnonzero(self.recording == index)
            try:
                ends = np.array([float(self.labels[row]) for row in rows])
            except ValueError:
                continue
            if unit == "cycles":
                life[rows] = ends + np.arange(len(rows))[::-1]
            else:
                life[rows] = ends + (self.t_s[rows[-1]] - self.t_s[rows]) / _SECONDS[unit]
        return life

    def cut(self, window_samples: int) -> LabelledWindows:
        """The same data in shorter windows, which follow one another; what is left over at the end is left out."""
        if window_samples == self.input.window_samples:
            return self
        each = self.input.window_samples // window_samples
        if each < 1:
            text = f"a window has {self.input.window_samples} samples, the model takes {window_samples}"
            raise TrainingError("bundle.window", f"{text}: record longer windows")
        kept = self.samples[:, : each * window_samples]
        offsets = np.arange(each) * window_samples / self.input.sample_rate_hz
        return replace(
            self,
            input=Input(
                sample_rate_hz=self.input.sample_rate_hz,
                window_samples=window_samples,
                channels=self.input.channels,
                units=self.input.units,
            ),
            samples=kept.reshape(-1, window_samples, kept.shape[2]),
            labels=tuple(label for label in self.labels for _ in range(each)),
            recording=np.repeat(self.recording, each),
            t_s=(self.t_s[:, None] + offsets).reshape(-1),
            step_seconds=self.step_seconds / each,
        )


@dataclass
class _Parts:
    """What is gathered from the recordings."""

    samples: list[npt.NDArray[np.float32]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    recording: list[int] = field(default_factory=list)
    t_s: list[npt.NDArray[np.float64]] = field(default_factory=list)
    segments: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in SEGMENTS})
    sha256: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)


def read_labelled(sources: Sequence[str], form: TableForm, say: Say) -> LabelledWindows:
    """Read recordings, folders of recordings (``.npz``), and tables as ``form`` says.

    Args:
        sources: each ``PATH`` or ``LABEL=PATH``.
        form: what files other than ``.npz`` do not say about themselves.
        say: called with a sentence for each thing that was left out.

    Raises:
        TrainingError: ``bundle.data`` (nothing is there), ``training.mixed_input``, ``training.repeated``,
            ``training.table``, ``bundle.label``.
        RecordingError: ``recording.*``.
    """
    files = [(label, path) for source in sources for label, path in _files(source)]
    if not files:
        raise TrainingError(
            "bundle.data", "there is no recording: give --data LABEL=FILE, as --data normal=healthy.npz"
        )
    return _gathered(_read_files(files, form, say), len(files), say)


def read_dataset(ref: str, store: str | None, side: str, label: str, say: Say) -> LabelledWindows:
    """Read the recordings of a dataset with their labels.

    Args:
        ref: ``NAME[@VERSION]``.
        store: where it is; None: the default.
        side: the side that is read, such as ``test``; empty: all.
        label: the name of the label that counts, such as ``fault``.
        say: called with a sentence for each thing that was left out.

    Raises:
        DatasetError: ``dataset.*``.
        TrainingError: ``bundle.data``, ``training.mixed_input``, ``training.repeated``.
    """
    from wheeltapper_fleet.learning.datasets.reading import open_dataset

    dataset = open_dataset(ref, store)
    items = [item for item in dataset.items(side or None) if item.kind == "recording"]
    if not items:
        raise TrainingError(
            "bundle.data", f"{ref} has no recording on the side {side!r}: look at `wheeltapper dataset show {ref}`"
        )

    def parts() -> Iterator[_Part]:
        for item in items:
            recording = dataset.recording(item)
            labels = [""] * recording.snapshots
            for known in (each for each in item.labels if each.name == label):
                for row, t_s in enumerate(recording.t_s):
                    if (known.start is None or t_s >= known.start) and (known.stop is None or t_s < known.stop):
                        labels[row] = str(known.value)
            condition = ", ".join(f"{name}={value}" for name, value in sorted(item.condition.items()) if name != "site")
            meta = {"machine": item.machine, "condition": condition, "site": item.condition.get("site", "")}
            yield _Part(item.source or item.sha256[:12], recording, labels, meta)

    lineage = dataset.lineage | {"dataset_side": side or "all"}
    return replace(_gathered(parts(), len(items), say), lineage=lineage)


@dataclass(frozen=True, eq=False)
class _Part:
    """A recording with the label of each snapshot."""

    name: str
    recording: Recording
    labels: list[str]
    meta: Mapping[str, Any]


def _read_files(files: Sequence[tuple[str, Path]], form: TableForm, say: Say) -> Iterator[_Part]:
    for label, path in files:
        notes = Notes(lambda text, path=path: say(f"{path.name}: {text}"))  # type: ignore[misc]  # the default binds path
        recording = read_any(path, form, notes)
        for text in notes.summary():
            say(f"{path.name}: {text}")
        labels = _labels(recording.meta, recording.snapshots, label, path)
        yield _Part(path.stem, recording, labels, recording.meta)


def _gathered(found: Iterable[_Part], count: int, say: Say) -> LabelledWindows:
    """The windows of all recordings; one recording is in memory at a time beside what is kept."""
    parts, first = _Parts(), None
    for part in found:
        shape = _input_of(part.recording)
        first = first or shape
        if shape != first:
            text = (
                f"{part.name} differs from {parts.names[0]} in rate, window, channels or units: give one kind of data"
            )
            raise TrainingError("training.mixed_input", text)
        _add(parts, part, _MAX_BYTES // count, say)
    assert first is not None  # there is a recording
    return LabelledWindows(
        input=first,
        samples=np.concatenate(parts.samples),
        labels=tuple(parts.labels),
        recording=np.array(parts.recording),
        t_s=np.concatenate(parts.t_s),
        segments={name: tuple(texts) for name, texts in parts.segments.items()},
        sha256=tuple(parts.sha256),
        names=tuple(parts.names),
        step_seconds=float(np.median(parts.steps)),
    )


def _files(source: str) -> list[tuple[str, Path]]:
    """The files that ``PATH`` or ``LABEL=PATH`` names, with the label."""
    label, sign, rest = source.partition("=")
    if not sign or Path(source).exists():
        label, rest = "", source
    path = Path(rest)
    if path.is_dir():
        return [(label, file) for file in sorted(path.glob("*.npz"))]
    if not path.is_file():
        raise TrainingError("bundle.data", f"{rest} is neither a file nor a folder with .npz recordings")
    return [(label, path)]


def _input_of(recording: Recording) -> Input:
    return Input(
        sample_rate_hz=recording.sample_rate_hz,
        window_samples=recording.window_samples,
        channels=list(recording.channels),
        units=list(recording.units),
    )


def _add(parts: _Parts, part: _Part, budget: int, say: Say) -> None:
    """Add the windows of one recording, thinned evenly to ``budget`` bytes."""
    recording = part.recording
    digest = hashlib.sha256(np.float64(recording.sample_rate_hz).tobytes() + recording.scale.tobytes())
    digest.update(np.ascontiguousarray(recording.samples).data)
    if digest.hexdigest() in parts.sha256:
        text = f"{part.name}: its samples were given already; give each recording once"
        raise TrainingError("training.repeated", text)
    each = recording.window_samples * len(recording.channels) * 4
    rows = np.arange(recording.snapshots)
    if len(rows) * each > budget:
        rows = np.unique(np.linspace(0, len(rows) - 1, max(1, budget // each)).astype(int))
        say(f"{part.name} is too large: {len(rows)} of {recording.snapshots} windows are used, evenly spaced")
    parts.samples.append(np.concatenate([recording.physical(slice(row, row + 1)) for row in rows]))
    parts.labels += [part.labels[row] for row in rows]
    parts.recording += [len(parts.names)] * len(rows)
    parts.t_s.append(recording.t_s[rows])
    for name in SEGMENTS:
        value = part.meta.get(name, "")
        parts.segments[name].append(str(value) if isinstance(value, str | int | float) else "")
    parts.sha256.append(digest.hexdigest())
    parts.names.append(part.name)
    length_s = recording.window_samples / recording.sample_rate_hz
    step = float(np.median(np.diff(recording.t_s))) if recording.snapshots > 1 else length_s
    parts.steps.append(step if step > 0 and math.isfinite(step) else length_s)


def _labels(meta: dict[str, Any], count: int, given: str, path: Path) -> list[str]:
    """The label of each snapshot: the one that was given, or those in ``meta``."""
    found = given or meta.get("label", "")
    if isinstance(found, list):
        if len(found) != count:
            text = f"{path.name} has {count} snapshots and {len(found)} labels: write one for each"
            raise TrainingError("bundle.label", text)
        return [str(each) for each in found]
    return [str(found)] * count

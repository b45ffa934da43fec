"""Whole public data sets as recordings, by the name that ``--import`` takes.

What this module does not do: read the sets' formats (:mod:`importers`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.importers import import_cwru, import_femto, import_uci_fan
from wheeltapper_protocols.signal.recording import Recording

__all__ = ["SETS", "load_sources", "recordings_of"]


def _femto(source: Path) -> Iterator[tuple[str, Recording]]:
    files = sorted(source.glob("*.npz")) if source.is_dir() else [source]
    for file in files:
        yield file.stem.rpartition("__")[2].lower().replace("_", "-"), import_femto(file)


def _cwru(source: Path) -> Iterator[tuple[str, Recording]]:
    folder = source if source.is_dir() else source.parent
    with np.load(folder / "cwru_de_int16.npz", allow_pickle=False) as archive:
        names = [name for name in archive.files if "__" not in name]
    for name in names:
        yield name.lower().replace("_", "-").replace("@", "-at-"), import_cwru(folder, name)


def _uci_fan(source: Path) -> Iterator[tuple[str, Recording]]:
    file = source / "uci_fan_mems_50hz.npz" if source.is_dir() else source
    for configuration in (1, 2, 3):
        for speed in range(20, 101, 5):
            yield f"fan-{configuration}-speed-{speed}", import_uci_fan(file, configuration, speed)


SETS: Final[dict[str, Callable[[Path], Iterator[tuple[str, Recording]]]]] = {
    "cwru": _cwru,
    "femto": _femto,
    "uci-fan": _uci_fan,
}
"""From a file or folder of a data set to (name, recording)."""


def recordings_of(kind: str, source: Path) -> Iterator[tuple[str, Recording]]:
    """The recordings of a data set.

    Raises:
        TrainingError: ``import.kind``, ``import.unknown`` (nothing there), ``import.malformed``.
    """
    if kind not in SETS:
        raise TrainingError("import.kind", f"{kind!r} is not known; choose of {', '.join(SETS)}")
    if not source.exists():
        raise TrainingError("import.unknown", f"{source} does not exist")
    try:
        yield from SETS[kind](source)
    except OSError as error:
        raise TrainingError("import.unknown", f"{source} cannot be read: {error}") from error


def load_sources(paths: Sequence[Path], kind: str | None) -> list[Path | Recording]:
    """Recordings to train on: files of our own form as they are, those of a data set converted."""
    if kind is None:
        return list(paths)
    return [recording for path in paths for _, recording in recordings_of(kind, path)]

"""Reads labels that people wrote down: a CSV with the columns ``source``, ``name``, ``value``, and ``start``, ``stop``.

``source`` is the name of the file that the label is about; ``start`` and ``stop`` are in its seconds, and may be empty.
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from wheeltapper_fleet.learning.datasets.manifest import Label, Value
from wheeltapper_fleet.learning.datasets.text_files import read_cells
from wheeltapper_fleet.learning.errors import DatasetError

__all__ = ["read_labels", "value_of"]

_NEEDED = ("source", "name", "value")


def value_of(text: str) -> Value:
    """A value that people wrote: a number, ``true`` or ``false``, or a text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def read_labels(path: Path) -> dict[str, list[Label]]:
    """Read a file of labels; gives them by source.

    Raises:
        DatasetError: ``dataset.labels``.
        TrainingError: ``import.malformed``.
        OSError: the file cannot be opened.
    """
    table = read_cells(path, ",")
    if missing := [name for name in _NEEDED if name not in table]:
        raise DatasetError("dataset.labels", f"{path.name} lacks the column {missing[0]}", 400)
    found: dict[str, list[Label]] = {}
    for row in range(len(table["source"])):
        cells = {name: column[row] for name, column in table.items()}
        try:
            times = {name: _time(cells.get(name, "")) for name in ("start", "stop")}
            raw = {"name": cells["name"], "value": value_of(cells["value"]), "source": path.name, **times}
            label = msgspec.convert(raw, Label)
        except (ValueError, msgspec.ValidationError) as error:
            raise DatasetError("dataset.labels", f"{path.name} has no label in row {row + 1}: {error}", 400) from error
        found.setdefault(cells["source"], []).append(label)
    return found


def _time(text: str) -> float | None:
    number = float(text) if text else None
    if number is not None and not math.isfinite(number):
        raise ValueError(f"{text!r} is no time")
    return number

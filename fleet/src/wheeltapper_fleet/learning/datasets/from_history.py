"""Raw history as a source of a dataset: for each device one table of the records of its windows.

Cost: one query over the history for each device; the table of one device is in memory at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from sqlalchemy import Engine

from wheeltapper_fleet.history.place import HistoryPlace
from wheeltapper_fleet.history.reading import read_history
from wheeltapper_fleet.learning.datasets.importing import Incoming
from wheeltapper_fleet.learning.datasets.table import DataTable
from wheeltapper_fleet.learning.errors import DatasetError

__all__ = ["coming_history"]

_NUMBERS: Final = ("received_at", "t_s", "score", "latency_ms", "value")
_WHOLE: Final = ("seq", "window", "release")
_TEXTS: Final = ("epoch", "kind", "pipeline", "model", "severity", "label", "zone")
_UNITS: Final = {"received_at": "s", "t_s": "s", "latency_ms": "ms"}


def coming_history(
    database: Engine, place: HistoryPlace, devices: Sequence[str], since: float | None = None
) -> Iterator[Incoming]:
    """What the history of some devices gives, each as a table in the order of its records.

    A number that a record lacks is NaN, a whole number 0, a text empty.

    Args:
        database: the fleet's.
        place: where the history is kept.
        devices: which; each is a machine of its own.
        since: only records that arrived since (Unix seconds).
    """
    for device in devices:
        yield Incoming(
            read=functools.partial(_read, database, place, device, since),
            machine=device,
            source=f"history of {device}",
        )


def _read(database: Engine, place: HistoryPlace, device: str, since: float | None) -> DataTable:
    """The records of a device.

    Raises:
        DatasetError: ``dataset.history``: it has none.
        FleetError: ``history.*``.
    """
    names = ", ".join(f'"{name}"' for name in (*_NUMBERS, *_WHOLE, *_TEXTS))
    with read_history(database, place, (device,), since) as records:
        found: dict[str, Any] = records.order("epoch, seq").project(names).fetchnumpy()
    columns: dict[str, Any] = {}
    for name in _NUMBERS:
        columns[name] = np.ma.filled(np.ma.asarray(found[name], dtype=np.float64), np.nan)
    for name in _WHOLE:
        columns[name] = np.ma.filled(np.ma.asarray(found[name]), 0).astype(np.int64)
    for name in _TEXTS:
        texts: Any = np.ma.filled(np.ma.asarray(found[name], dtype=object), "")
        columns[name] = np.array([str(text or "") for text in texts], dtype=np.str_)
    if not len(columns["seq"]):
        raise DatasetError("dataset.history", f"there is no record of {device[:63]!r} in the history", 400)
    return DataTable(columns, _UNITS, {"source": "history", "device": device})

"""Tables: columns of numbers and texts of one machine, where windows of samples do not fit: process data, test results.

A table is an ``.npz`` file of a fixed layout (:mod:`wheeltapper_protocols.signal.npz`), so equal tables are equal
bytes:
``columns`` and ``units`` [column] text, ``meta`` [] text (a JSON object), and ``column_0000``, … [row] each, float64,
int64 or text.

Invariant: whatever the bytes, :func:`read_table` returns a table or raises :class:`~wheeltapper_fleet.learning.errors.
DatasetError`; nothing is unpickled, and sizes are checked before anything is read.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.learning.errors import DatasetError
from wheeltapper_protocols.signal.npz import write_npz

__all__ = ["MAX_COLUMNS", "DataTable", "read_table", "table_bytes"]

MAX_COLUMNS: Final = 256
_MAX_BYTES: Final = 1024**3
_KINDS: Final = "fiU"


@dataclass(frozen=True, eq=False)
class DataTable:
    """Columns of equal length.

    Args:
        columns: by name, [row] float64, int64 or text each; a missing number is NaN, a missing text empty.
        units: by name of the column; one that has none may be left out.
        meta: a JSON object.

    Raises:
        DatasetError: ``dataset.table``.
    """

    columns: dict[str, npt.NDArray[Any]]
    units: dict[str, str] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {len(column) for column in self.columns.values() if column.ndim == 1}
        if not 1 <= len(self.columns) <= MAX_COLUMNS or len(lengths) != 1 or 0 in lengths:
            message = f"a table has 1 to {MAX_COLUMNS} columns of one length with at least one row"
            raise DatasetError("dataset.table", message, 400)
        if any(column.ndim != 1 or column.dtype.kind not in _KINDS for column in self.columns.values()):
            raise DatasetError("dataset.table", "columns hold numbers or texts, one a row", 400)
        if set(self.units) - set(self.columns) or any(not 0 < len(name) <= 120 for name in self.columns):
            raise DatasetError("dataset.table", "columns have names of 1 to 120 characters, units only those", 400)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.columns.values())))

    def part(self, rows: slice) -> DataTable:
        """A table of these rows only."""
        return DataTable({name: column[rows] for name, column in self.columns.items()}, self.units, dict(self.meta))


def table_bytes(table: DataTable) -> bytes:
    """The bytes of a table."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "columns": np.array(list(table.columns), dtype=np.str_),
        "units": np.array([table.units.get(name, "") for name in table.columns], dtype=np.str_),
        "meta": np.array(json.dumps(table.meta, sort_keys=True, ensure_ascii=False), dtype=np.str_),
    }
    kinds = {"f": np.float64, "i": np.int64}
    for number, column in enumerate(table.columns.values()):
        kind = kinds.get(column.dtype.kind)
        arrays[f"column_{number:04d}"] = column if kind is None else column.astype(kind)
    buffer = io.BytesIO()
    write_npz(arrays, buffer)
    return buffer.getvalue()


def read_table(source: BinaryIO) -> DataTable:
    """Read a table from an open file.

    Raises:
        DatasetError: ``dataset.table``.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MAX_BYTES:
                raise DatasetError("dataset.table", f"a table has at most {_MAX_BYTES} bytes", 400)
        source.seek(0)
        with np.load(source, allow_pickle=False) as arrays:
            names = [str(name) for name in arrays["columns"]]
            units = {name: str(unit) for name, unit in zip(names, arrays["units"], strict=True) if unit}
            meta = json.loads(str(arrays["meta"].reshape(())))
            columns = {name: np.asarray(arrays[f"column_{number:04d}"]) for number, name in enumerate(names)}
        return DataTable(columns, units, meta if isinstance(meta, dict) else {})
    except DatasetError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise many kinds of errors on arbitrary bytes
        raise DatasetError("dataset.table", f"this is not a readable table: {error}", 400) from error

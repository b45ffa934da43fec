"""Tables of others as they are: CSV (plain, .xz, .gz) and Parquet, columns of numbers and texts, a table a file.

Invariants:
    * Sizes are looked at before columns are read.
    * A cell that is missing is NaN in a column of numbers and empty in one of texts, never another value.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.learning.datasets.importing import Incoming
from wheeltapper_fleet.learning.datasets.manifest import Label
from wheeltapper_fleet.learning.datasets.table import MAX_COLUMNS, DataTable
from wheeltapper_fleet.learning.datasets.text_files import malformed, read_table_text
from wheeltapper_fleet.learning.errors import DatasetError

__all__ = ["table_files"]

_MAX_BYTES: Final = 1024**3
_ENDINGS: Final = (".csv", ".tsv", ".parquet", ".pq", ".csv.xz", ".tsv.xz", ".csv.gz", ".tsv.gz")


def table_files(
    source: Path, delimiter: str = "auto", labels: Mapping[str, list[Label]] | None = None
) -> Iterator[Incoming]:
    """A file, or all tables of a folder and below, in order. The machine is the file's name without its ending.

    Args:
        source: a file or a folder.
        delimiter: between the cells of a CSV; ``auto``: a tab where its header has one, else a comma.
        labels: what is known, by name of the file.

    Raises:
        DatasetError: ``dataset.source``: there is no such file, or no table in the folder.
    """
    found = [source]
    if source.is_dir():
        found = [path for path in sorted(source.rglob("*")) if path.name.lower().endswith(_ENDINGS) and path.is_file()]
    if not found or not found[0].exists():
        raise DatasetError("dataset.source", f"{source} is no file, and no folder with tables", 400)
    for path in found:
        yield Incoming(
            read=functools.partial(_read, path, delimiter),
            machine=path.name.partition(".")[0] or path.name,
            source=path.name,
            labels=list((labels or {}).get(path.name, [])),
        )


def _read(path: Path, delimiter: str) -> DataTable:
    if path.suffix.lower() in (".parquet", ".pq"):
        return _read_parquet(path)
    return read_table_text(path, None if delimiter == "auto" else delimiter, {})


def _read_parquet(path: Path) -> DataTable:
    """The columns of a Parquet file.

    Raises:
        DatasetError: ``dataset.missing_library``.
        TrainingError: ``import.malformed``.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        what = "Parquet needs pyarrow: pip install 'wheeltapper-fleet[parquet]'"
        raise DatasetError("dataset.missing_library", what) from error
    try:
        with parquet.ParquetFile(path) as file:
            about = file.metadata
            size = sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
            if about.num_columns > MAX_COLUMNS or max(size, 8 * about.num_rows * about.num_columns) > _MAX_BYTES:
                raise malformed(path, f"has more than {MAX_COLUMNS} columns or {_MAX_BYTES} bytes: split it")
            table = file.read()
        return DataTable(
            {name: _column(path, name, table.column(name)) for name in table.column_names},
            meta={"source": path.name},
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        raise malformed(path, f"is no table that can be read: {error}") from error


def _column(path: Path, name: str, column: Any) -> npt.NDArray[Any]:
    """A column of numbers, of times (Unix seconds), or of texts."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_timestamp(kind):
        whole = column.cast(pa.timestamp("us")).cast(pa.int64())
        return np.asarray(whole.to_numpy(), dtype=np.float64) / 1e6
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
        kind = column.type
    if pa.types.is_integer(kind) and column.null_count == 0:
        return np.asarray(column.to_numpy()).astype(np.int64)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        texts = column.cast(pa.string()).to_pylist()
        return np.array(["" if text is None else text for text in texts], dtype=np.str_)
    raise malformed(path, f"has the column {name[:60]!r} of the type {kind}: numbers, times and texts are read")

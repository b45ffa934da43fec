"""Reads text files of numbers that others made, plain or compressed (.xz, .gz), within bounds.

Invariant: whatever the bytes, what is returned is complete, or ``import.malformed`` is raised; a file that unpacks to
more than :data:`MAX_TEXT_BYTES` is refused before it is unpacked further.
"""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.learning.datasets.table import MAX_COLUMNS, DataTable
from wheeltapper_fleet.learning.errors import TrainingError

__all__ = ["MAX_TEXT_BYTES", "malformed", "read_cells", "read_matrix", "read_table_text", "read_text"]

MAX_TEXT_BYTES: Final = 512 * 1024 * 1024
_MOST_INT: Final = 2**63


def malformed(path: Path, why: str) -> TrainingError:
    """The error for a file that does not belong to its data set."""
    return TrainingError("import.malformed", f"{path.name} {why}"[:600], 400)


def read_text(path: Path) -> str:
    """The text of a file, without its byte order mark.

    Raises:
        TrainingError: ``import.malformed``.
        OSError: the file cannot be opened.
    """
    try:
        with _opened(path) as file:
            content = file.read(MAX_TEXT_BYTES + 1)
    except (lzma.LZMAError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise malformed(path, f"is damaged or cut off: {error}") from error
    if len(content) > MAX_TEXT_BYTES:
        raise malformed(path, f"unpacks to more than {MAX_TEXT_BYTES} bytes: split it")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise malformed(path, f"is no text: {error}") from error


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".xz":
        return cast("IO[bytes]", lzma.open(path, "rb"))
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


def read_matrix(path: Path, columns: int) -> npt.NDArray[np.float64]:
    """Numbers between blanks, [row, column].

    Raises:
        TrainingError: ``import.malformed``: also where a row has another number of columns, or a number is not finite.
    """
    text = read_text(path)
    if not text.strip():
        raise malformed(path, "is empty")
    try:
        found = np.loadtxt(io.StringIO(text), dtype=np.float64, ndmin=2, comments=None)
    except ValueError as error:
        raise malformed(path, f"holds no table of numbers: {error}") from error
    if found.shape[1] != columns or not len(found):
        raise malformed(path, f"has {found.shape[1]} columns in {len(found)} rows, not {columns}")
    if not np.isfinite(found).all():
        raise malformed(path, "holds numbers that are not finite")
    return found


def read_table_text(path: Path, delimiter: str | None, units: dict[str, str]) -> DataTable:
    """A table with a header: columns of whole numbers, of numbers, or else of texts. An empty cell is missing.

    Args:
        path: of the file.
        delimiter: between cells; None: a tab where the header has one, else a comma.
        units: by name of the column; of names that the table lacks nothing is said.

    Raises:
        TrainingError: ``import.malformed``.
    """
    columns = {name: _typed(cells) for name, cells in read_cells(path, delimiter).items()}
    return DataTable(columns, {name: unit for name, unit in units.items() if name in columns}, {"source": path.name})


def read_cells(path: Path, delimiter: str | None) -> dict[str, list[str]]:
    """The cells of a table with a header, by column, without blanks around them.

    Raises:
        TrainingError: ``import.malformed``: also for a table without rows.
    """
    text = read_text(path)
    tabbed = "\t" in text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text), delimiter=delimiter or ("\t" if tabbed else ","))
    try:
        names = [name.strip() for name in next(rows, [])]
        if not 1 <= len(names) <= MAX_COLUMNS or len(set(names)) != len(names) or not all(names):
            raise malformed(path, f"has no header of 1 to {MAX_COLUMNS} different names")
        cells: list[list[str]] = [[] for _ in names]
        for row in rows:
            if not row:
                continue
            if len(row) != len(names):
                raise malformed(path, f"has {len(row)} cells in line {rows.line_num}, and {len(names)} names")
            for column, cell in zip(cells, row, strict=True):
                column.append(cell.strip())
    except csv.Error as error:
        raise malformed(path, f"is no table: {error}") from error
    if not cells[0]:
        raise malformed(path, "has no rows")
    return dict(zip(names, cells, strict=True))


def _typed(cells: list[str]) -> npt.NDArray[Any]:
    """Cells as whole numbers where all are, as numbers where all that are there are, else as texts."""
    try:
        whole = [int(cell) for cell in cells if cell.isascii() and "_" not in cell]
        if len(whole) == len(cells) and all(-_MOST_INT <= number < _MOST_INT for number in whole):
            return np.array(whole, dtype=np.int64)
    except ValueError:
        pass
    try:
        if any("_" in cell or not cell.isascii() for cell in cells):
            raise ValueError
        return np.array([float(cell) if cell else np.nan for cell in cells], dtype=np.float64)
    except ValueError:
        return np.array(cells, dtype=np.str_)

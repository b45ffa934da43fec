"""Tables in Parquet files. Needs pyarrow, which is imported when a file is opened.

Invariants:
    * Null is NaN. Texts are read like the cells of a CSV file. What is neither number nor text is no channel.
    * Memory is bounded: a file whose row groups are too large is refused.
    * Nothing but ``RecordingError`` is raised: ``recording.unreadable``, ``recording.malformed``, ``recording.extra``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.tables.cells import NumberColumn, TimeColumn, hide_missing
from wheeltapper_protocols.tables.notes import Notes
from wheeltapper_protocols.tables.options import PER_SECOND, TableOptions, malformed, resolve
from wheeltapper_protocols.tables.table import CHUNK_SAMPLES, Chunk, unreadable

__all__ = ["ParquetTable"]

_MAX_ROW_GROUP_BYTES: Final = 2 * 1024**3
_PROBED_ROWS: Final = 1000
_NUMBERS: Final = ("int", "uint", "float", "double", "halffloat", "decimal")
_TEXTS: Final = ("string", "large_string", "string_view")
_MOMENTS: Final = {"timestamp": 1, "date32": 86_400, "date64": 1, "time32": 1, "time64": 1, "duration": 1}
"""Types of times that say themselves what they count, with the seconds in a unit where the type has none of its own."""


@dataclass(frozen=True, slots=True)
class ParquetTable:
    """A table in a Parquet file; implements :class:`~wheeltapper_protocols.tables.table.Table`."""

    path: Path
    options: TableOptions
    channels: tuple[str, ...]
    columns: tuple[str, ...]
    """The columns of the channels."""
    time_unit: str
    sample_rate_hz: float = 0.0
    full_scale: float = 0.0

    @classmethod
    def open(cls, path: Path, options: TableOptions) -> ParquetTable:
        """Read the schema, and the first rows of columns of text.

        Raises:
            RecordingError: ``recording.unreadable``, ``recording.malformed``, ``recording.extra``.
        """
        with _opened(path) as file:
            names = tuple(file.schema_arrow.names)
            channels, wanted, at = resolve(path.name, names, options)
            kinds = {name: _kind(file.schema_arrow.field(index).type) for index, name in enumerate(names)}
            for name in (names[index] for index in wanted):
                if not kinds[name].startswith((*_NUMBERS, *_TEXTS)):
                    hint = "; is it the time_column?" if kinds[name].startswith(tuple(_MOMENTS)) else ""
                    raise malformed(path.name, f"column {name!r} holds {kinds[name]}, not numbers{hint}")
            groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
            if any(group.total_byte_size > _MAX_ROW_GROUP_BYTES for group in groups):
                why = f"a row group has more than {_MAX_ROW_GROUP_BYTES} bytes; write smaller ones"
                raise malformed(path.name, why)
            texts = [names[index] for index in wanted if kinds[names[index]].startswith(_TEXTS)]
            for batch in file.iter_batches(_PROBED_ROWS, columns=texts) if texts else ():
                for name in texts:
                    NumberColumn(path.name, name, options, Notes(), "row").read(*_texts(batch.column(name), 0))
                break
        kind = kinds[names[at]] if at >= 0 else ""
        unit = "" if kind.startswith(tuple(_MOMENTS)) else options.time_unit
        return cls(path, options, channels, tuple(names[index] for index in wanted), unit)

    def chunks(self, notes: Notes) -> Iterator[Chunk]:
        """See :class:`~wheeltapper_protocols.tables.table.Table`."""
        rows, timed, time = 0, False, self.options.time_column
        columns = [NumberColumn(self.path.name, name, self.options, notes, "row") for name in self.columns]
        with _opened(self.path) as file:
            for batch in file.iter_batches(CHUNK_SAMPLES, columns=[*self.columns, *filter(None, [time])]):
                found = [self._numbers(batch.column(column.name), column, rows) for column in columns]
                samples = np.stack(found, axis=1)
                times = self._times(batch.column(time), rows) if time else None
                if times is not None:
                    known = np.isfinite(times)
                    if not timed and not known.any():
                        self._refuse_texts(batch.column(time), rows)
                    if not known.all():
                        text = f"row {rows + int(np.argmin(known)) + 1}: column {time!r} holds no time: it is left out"
                        notes.add("times", text, int((~known).sum()))
                    timed = timed or bool(known.any())
                    samples, times = samples[known], times[known]
                rows += batch.num_rows
                if len(samples):
                    yield samples, times
        if time and rows and not timed:
            raise malformed(self.path.name, f"column {time!r} holds no times")

    def _numbers(self, column: Any, reader: NumberColumn, row: int) -> NDArray[np.float64]:
        """A column as numbers; ``row`` rows came before."""
        column = _plain(column)
        if str(column.type).startswith(_TEXTS):
            return reader.read(*_texts(column, row))
        return hide_missing(_floats(column), self.options)

    def _times(self, column: Any, row: int) -> NDArray[np.float64]:
        """The column of the times in seconds; NaN where there is none."""
        column = _plain(column)
        kind = str(column.type)
        if kind.startswith(_TEXTS):
            return TimeColumn(self.path.name, self.options, "row").read(*_texts(column, row))
        if kind.startswith(tuple(_MOMENTS)):
            unit = getattr(column.type, "unit", None) or ("ms" if kind.startswith("date64") else "")
            integer = "int32" if column.type.bit_width == 32 else "int64"
            if kind.startswith("date32"):
                return _floats(column.cast(integer)) * _MOMENTS["date32"]
            return _split(column.cast(integer), PER_SECOND[unit])
        if kind.startswith(("int", "uint")):
            numbers = hide_missing(_floats(column), self.options)
            return np.where(np.isnan(numbers), np.nan, _split(column, PER_SECOND[self.options.time_unit]))
        if kind.startswith(_NUMBERS):
            return hide_missing(_floats(column), self.options) / PER_SECOND[self.options.time_unit]
        raise malformed(self.path.name, f"column {self.options.time_column!r} holds {kind}, not times")

    def _refuse_texts(self, column: Any, row: int) -> None:
        """Raise ``recording.malformed`` if a column, in which there is no time, holds texts."""
        column = _plain(column)
        if str(column.type).startswith(_TEXTS):
            for text, place in zip(*_texts(column, row), strict=True):
                if text.strip():
                    raise TimeColumn(self.path.name, self.options, "row").no_time(text, place)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Pyarrow's reader of the file. Its errors, also while rows are read, become ours."""
    try:
        from pyarrow import parquet
    except ImportError as error:  # missing, or too new for this numpy
        raise RecordingError(
            "recording.extra", f"Parquet needs pyarrow; run: pip install 'wheeltapper-agent[parquet]' ({error})"
        ) from error
    file = None
    try:
        file = parquet.ParquetFile(path)
        yield file
    except (FileNotFoundError, PermissionError) as error:
        raise unreadable(path, error) from error
    except (ValueError, OSError, MemoryError, KeyError, NotImplementedError) as error:  # pyarrow's derive from these
        what = "it is not a Parquet file: " if file is None else ""
        raise malformed(path.name, f"{what}{error}") from error
    finally:
        if file is not None:
            file.close()


def _kind(of: Any) -> str:
    """The name of a type; of a dictionary that of its values."""
    return str(getattr(of, "value_type", of) if str(of).startswith("dictionary") else of)


def _plain(column: Any) -> Any:
    """A column without a dictionary."""
    return column.dictionary_decode() if str(column.type).startswith("dictionary") else column


def _texts(column: Any, row: int) -> tuple[list[str], list[int]]:
    """The cells of a column as texts, null as empty, and their rows from 1."""
    cells = ["" if cell is None else str(cell) for cell in _plain(column).to_pylist()]
    return cells, list(range(row + 1, row + 1 + len(cells)))


def _floats(column: Any) -> NDArray[np.float64]:
    """A column as numbers; null is NaN."""
    numbers = column.cast("float64", safe=False).fill_null(float("nan"))
    return np.asarray(numbers.to_numpy(zero_copy_only=False), dtype=np.float64)


def _split(column: Any, per_second: int) -> NDArray[np.float64]:
    """Whole numbers as seconds, divided before they are rounded; null is NaN."""
    whole = np.asarray(column.fill_null(0).to_numpy(zero_copy_only=False))
    seconds = whole // per_second + (whole % per_second) / per_second
    return np.where(np.asarray(column.is_null().to_numpy(zero_copy_only=False)), np.nan, seconds)

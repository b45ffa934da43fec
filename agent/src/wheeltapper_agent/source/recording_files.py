"""Recordings in files of other makers: CSV and Parquet tables, and what all kinds of recording files share.

Invariants:
    * A file is read in pieces: memory is bounded whatever a header promises.
    * A cell that is not a number is NaN. It is never skipped and never guessed.
    * Nothing but ``AgentError`` is raised: ``source.unreadable`` if the file system refuses, ``source.malformed`` if
      the content cannot be used, ``source.extra`` if pyarrow is missing.
"""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol, TextIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.errors import AgentError

__all__ = [
    "CHUNK_SAMPLES",
    "MAX_CHANNELS",
    "Chunk",
    "CsvFile",
    "ParquetFile",
    "RecordingFile",
    "malformed",
    "unreadable",
]

_LOG = logging.getLogger(__name__)
MAX_CHANNELS: Final = 64
CHUNK_SAMPLES: Final = 8192
"""Samples that are read at once."""
_MAX_LINE_CHARACTERS: Final = 64 * 1024
"""Characters of a line of CSV."""
_MAX_ROW_GROUP_BYTES: Final = 2 * 1024**3
_TIMELESS_ROWS: Final = 1000
"""If so many rows at the beginning of a file have no time, the column is not one of times."""

Chunk: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64] | None]
"""Samples [sample, channel] in the numbers of the file, and the time of each in seconds if the file has times."""


class RecordingFile(Protocol):
    """A file with one continuous signal. What the file does not say about itself is 0 or empty."""

    @property
    def sample_rate_hz(self) -> float:
        """Samples a second."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels."""

    @property
    def full_scale(self) -> float:
        """Largest number that the format can hold."""

    def chunks(self) -> Iterator[Chunk]:
        """Give the signal from its beginning."""


@dataclass(frozen=True, slots=True)
class CsvFile:
    """A text table with a header line. An empty cell, text, or a cell that a short line lacks is NaN."""

    path: Path
    channels: tuple[str, ...]
    time_column: str
    delimiter: str
    sample_rate_hz: float = 0.0
    full_scale: float = 0.0

    @classmethod
    def open(cls, path: Path, channels: tuple[str, ...], time_column: str, delimiter: str) -> CsvFile:
        """Read the header. Without ``channels``, all columns but the one of the time are channels."""
        try:
            with path.open(encoding="utf-8-sig", errors="replace", newline="") as handle:
                header = next(_rows(handle, path, delimiter), [])
        except OSError as error:
            raise unreadable(path, error) from error
        names = tuple(name.strip() for name in header)
        return cls(path, _columns(path, names, channels, time_column), time_column, delimiter)

    def chunks(self) -> Iterator[Chunk]:
        """See :class:`RecordingFile`."""
        try:
            with self.path.open(encoding="utf-8-sig", errors="replace", newline="") as handle:
                rows = _rows(handle, self.path, self.delimiter)
                names = [name.strip() for name in next(rows, [])]
                if missing := {*self.channels, *filter(None, [self.time_column])} - set(names):
                    raise malformed(self.path, f"column {min(missing)!r} is missing")
                wanted = [names.index(name) for name in self.channels]
                at = names.index(self.time_column) if self.time_column else -1
                yield from self._chunks(rows, wanted, at)
        except OSError as error:
            raise unreadable(self.path, error) from error

    def _chunks(self, rows: Iterator[list[str]], wanted: list[int], at: int) -> Iterator[Chunk]:
        """Give the signal in ``rows``; ``wanted`` are the columns of the channels, ``at`` is that of the time (-1:
        none)."""
        values: list[list[float]] = []
        times: list[float] = []
        timed = left_out = 0
        for row in rows:
            if not row:
                continue
            if at >= 0:
                time_s = _time(row, at)
                if not math.isfinite(time_s):
                    left_out += 1
                    if not timed and left_out == _TIMELESS_ROWS:
                        raise self._no_time(row, at)
                    continue
                timed += 1
                times.append(time_s)
            values.append([_number(row, column) for column in wanted])
            if len(values) == CHUNK_SAMPLES:
                yield np.array(values), np.array(times) if at >= 0 else None
                values, times = [], []
        if left_out and not timed:
            raise self._no_time(row, at)
        if values:
            yield np.array(values), np.array(times) if at >= 0 else None
        if left_out:
            _LOG.warning("the recording %s: %d rows without a time were left out", self.path.name, left_out)

    def _no_time(self, row: list[str], at: int) -> AgentError:
        """Return the error for a column of times that holds none."""
        text = row[at][:40] if at < len(row) else ""
        why = f"column {self.time_column!r} holds {text!r}; it must hold seconds, or times such as 2026-01-31T12:00:00Z"
        return malformed(self.path, why)


@dataclass(frozen=True, slots=True)
class ParquetFile:
    """A table of numbers with one row a sample; null is NaN. Needs pyarrow."""

    path: Path
    channels: tuple[str, ...]
    time_column: str
    sample_rate_hz: float = 0.0
    full_scale: float = 0.0

    @classmethod
    def open(cls, path: Path, channels: tuple[str, ...], time_column: str) -> ParquetFile:
        """Read the schema. Without ``channels``, all columns but the one of the time are channels."""
        file = _opened_parquet(path)
        try:
            names = tuple(file.schema_arrow.names)
            columns = _columns(path, names, channels, time_column)
            for name in columns:
                kind = str(file.schema_arrow.field(name).type)
                if not kind.startswith(("int", "uint", "float", "double", "halffloat")):
                    raise malformed(path, f"column {name!r} holds {kind}, not numbers")
            groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
            if any(group.total_byte_size > _MAX_ROW_GROUP_BYTES for group in groups):
                raise malformed(path, f"a row group has more than {_MAX_ROW_GROUP_BYTES} bytes; write smaller ones")
        finally:
            file.close()
        return cls(path, columns, time_column)

    def chunks(self) -> Iterator[Chunk]:
        """See :class:`RecordingFile`."""
        file, rows, timed = _opened_parquet(self.path), 0, 0
        try:
            for batch in file.iter_batches(CHUNK_SAMPLES, columns=[*self.channels, *filter(None, [self.time_column])]):
                columns = [_floats(batch.column(name)) for name in self.channels]
                times = _times(batch.column(self.time_column)) if self.time_column else None
                samples = np.stack(columns, axis=1)
                if times is not None:
                    known = np.isfinite(times)
                    rows, timed = rows + len(times), timed + int(known.sum())
                    samples, times = samples[known], times[known]
                if len(samples):
                    yield samples, times
        except (FileNotFoundError, PermissionError) as error:
            raise unreadable(self.path, error) from error
        except (
            ValueError,
            OSError,
            MemoryError,
            KeyError,
            NotImplementedError,
        ) as error:  # pyarrow's errors derive from these
            raise malformed(self.path, str(error)) from error
        finally:
            file.close()
        if rows and not timed:
            raise malformed(self.path, f"column {self.time_column!r} holds no times")
        if timed < rows:
            _LOG.warning("the recording %s: %d rows without a time were left out", self.path.name, rows - timed)


def _opened_parquet(path: Path) -> Any:
    """Return pyarrow's reader of the file."""
    try:
        from pyarrow import parquet
    except ImportError as error:  # missing, or too new for this numpy
        raise AgentError(
            "source.extra", f"replaying Parquet needs pyarrow; run: pip install 'wheeltapper-agent[parquet]' ({error})"
        ) from error
    try:
        return parquet.ParquetFile(path)
    except (FileNotFoundError, PermissionError) as error:
        raise unreadable(path, error) from error
    except (ValueError, OSError, MemoryError, NotImplementedError) as error:
        raise malformed(path, f"it is not a Parquet file: {error}") from error


def _rows(handle: TextIO, path: Path, delimiter: str) -> Iterator[list[str]]:
    """Give the rows of a CSV file."""
    try:
        yield from csv.reader(_lines(handle, path), delimiter=delimiter)
    except csv.Error as error:
        raise malformed(path, str(error)) from error


def _lines(handle: TextIO, path: Path) -> Iterator[str]:
    """Give the lines of a text file; a line that is too long is ``source.malformed``."""
    while line := handle.readline(_MAX_LINE_CHARACTERS):
        if len(line) == _MAX_LINE_CHARACTERS:
            raise malformed(path, f"a line has {_MAX_LINE_CHARACTERS} characters or more")
        yield line


def _number(row: list[str], column: int) -> float:
    """Return the number in a cell; NaN if there is none."""
    try:
        return float(row[column])
    except (ValueError, IndexError):
        return float("nan")


def _time(row: list[str], column: int) -> float:
    """Return the time in a cell in seconds. A time as ISO 8601 writes it counts from 1970, in UTC if it names
    no zone."""
    seconds = _number(row, column)
    if math.isnan(seconds) and column < len(row):
        try:
            found = datetime.fromisoformat(row[column].strip())
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            pass
    return seconds


def _columns(path: Path, names: tuple[str, ...], channels: tuple[str, ...], time_column: str) -> tuple[str, ...]:
    """Return the names of the columns that are channels."""
    if missing := [name for name in (*channels, *filter(None, [time_column])) if name not in names]:
        raise malformed(path, f"it has no column {missing[0]!r}; its columns are {', '.join(names)[:300]}")
    found = channels or tuple(name for name in names if name != time_column)
    if not 1 <= len(found) <= MAX_CHANNELS or len(set(found)) != len(found) or not all(found):
        raise malformed(path, f"it must have 1 to {MAX_CHANNELS} channels with different names, not {len(found)}")
    return found


def _floats(column: Any) -> NDArray[np.float64]:
    """Return a column of Parquet as numbers; null is NaN."""
    return np.asarray(column.cast("float64").fill_null(float("nan")).to_numpy(zero_copy_only=False), dtype=np.float64)


def _times(column: Any) -> NDArray[np.float64]:
    """Return a column of Parquet as seconds; a time stamp counts from 1970."""
    if str(column.type).startswith("timestamp"):
        whole = column.cast("timestamp[ns]", safe=False).cast("int64").cast("float64", safe=False)
        return _floats(whole) / 1e9
    return _floats(column)


def unreadable(path: Path, error: OSError) -> AgentError:
    """Return the error for a file that the file system refuses."""
    return AgentError("source.unreadable", f"the recording {path.name} cannot be read: {error.strerror or error}")


def malformed(path: Path, why: str) -> AgentError:
    """Return the error for a file whose content cannot be used."""
    return AgentError("source.malformed", f"the recording {path.name} cannot be used: {why[:300]}")

"""Recordings in files of other makers: WAV, CSV and Parquet, read in pieces.

Invariants: memory is bounded whatever a header promises; what cannot be read as a number is NaN, never skipped and
never guessed; whatever the bytes, nothing but ``AgentError`` with ``source.unreadable`` (the file system refuses) or
``source.malformed`` is raised.
"""

from __future__ import annotations

import csv
import logging
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TextIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.errors import AgentError

__all__ = ["Chunk", "CsvFile", "ParquetFile", "RecordedFile", "WavFile"]

_LOG = logging.getLogger(__name__)
_MAX_CHANNELS: Final = 64
_CHUNK_SAMPLES: Final = 8192
_MAX_LINE_CHARACTERS: Final = 64 * 1024
_MAX_ROW_GROUP_BYTES: Final = 2 * 1024**3

Chunk: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64] | None]
"""Samples [sample, channel] in the file's numbers, and the time of each in seconds, if the file has them."""


class RecordedFile(Protocol):
    """A file with one continuous signal. What it does not say of itself is 0 or empty."""

    @property
    def sample_rate_hz(self) -> float: ...

    @property
    def channels(self) -> tuple[str, ...]: ...

    @property
    def full_scale(self) -> float:
        """Largest number that the format can hold."""

    def chunks(self) -> Iterator[Chunk]:
        """The signal from its beginning."""


@dataclass(frozen=True, slots=True)
class WavFile:
    """Uncompressed PCM of 8, 16, 24 or 32 bits; numbers from -1 to 1."""

    path: Path
    sample_rate_hz: float
    channels: tuple[str, ...]
    width_bytes: int

    @classmethod
    def open(cls, path: Path) -> WavFile:
        """Read the header."""
        with _opened_wav(path) as handle:
            count, width = handle.getnchannels(), handle.getsampwidth()
            rate_hz = float(handle.getframerate())
        if not 1 <= count <= _MAX_CHANNELS or width not in (1, 2, 3, 4) or rate_hz <= 0:
            raise _malformed(path, f"{count} channels of {8 * width} bits at {rate_hz:g} Hz are not supported")
        return cls(path, rate_hz, tuple(f"channel_{index}" for index in range(count)), width)

    @property
    def full_scale(self) -> float:
        """The largest positive number; the negative side goes one step further."""
        return 1.0 - 2.0 ** (1 - 8 * self.width_bytes)

    def chunks(self) -> Iterator[Chunk]:
        """See :class:`RecordedFile`."""
        frame_bytes = self.width_bytes * len(self.channels)
        with _opened_wav(self.path) as handle:
            promised, read = handle.getnframes(), 0
            while content := self._frames(handle):
                whole = content[: len(content) - len(content) % frame_bytes]
                if whole:
                    read += len(whole) // frame_bytes
                    yield _pcm(whole, self.width_bytes).reshape(-1, len(self.channels)), None
            if read < promised:
                _LOG.warning("%s is truncated: %d samples of %d", self.path.name, read, promised)

    def _frames(self, handle: wave.Wave_read) -> bytes:
        try:
            return handle.readframes(_CHUNK_SAMPLES)
        except (wave.Error, EOFError, ValueError) as error:
            raise _malformed(self.path, str(error)) from error
        except OSError as error:
            raise _unreadable(self.path, error) from error


@dataclass(frozen=True, slots=True)
class CsvFile:
    """A table in text with a header line. An empty cell, a text, a short line: NaN."""

    path: Path
    channels: tuple[str, ...]
    time_column: str
    delimiter: str
    sample_rate_hz: float = 0.0
    full_scale: float = 0.0

    @classmethod
    def open(cls, path: Path, channels: tuple[str, ...], time_column: str, delimiter: str) -> CsvFile:
        """Read the header; without ``channels`` all columns but the time's are channels."""
        try:
            with path.open(encoding="utf-8-sig", errors="replace", newline="") as handle:
                header = next(_rows(handle, path, delimiter), [])
        except OSError as error:
            raise _unreadable(path, error) from error
        names = tuple(name.strip() for name in header)
        return cls(path, _columns(path, names, channels, time_column), time_column, delimiter)

    def chunks(self) -> Iterator[Chunk]:
        """See :class:`RecordedFile`."""
        try:
            with self.path.open(encoding="utf-8-sig", errors="replace", newline="") as handle:
                rows = _rows(handle, self.path, self.delimiter)
                names = [name.strip() for name in next(rows, [])]
                if missing := {*self.channels, *filter(None, [self.time_column])} - set(names):
                    raise _malformed(self.path, f"column {min(missing)!r} is missing")
                wanted = [names.index(name) for name in self.channels]
                at = names.index(self.time_column) if self.time_column else -1
                yield from self._chunks(rows, wanted, at)
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def _chunks(self, rows: Iterator[list[str]], wanted: list[int], at: int) -> Iterator[Chunk]:
        values: list[list[float]] = []
        times: list[float] = []
        for row in rows:
            if not row:
                continue
            if at >= 0:
                time_s = _number(row, at)
                if not np.isfinite(time_s):
                    _LOG.debug("%s: a line without its time is left out", self.path.name)
                    continue
                times.append(time_s)
            values.append([_number(row, column) for column in wanted])
            if len(values) == _CHUNK_SAMPLES:
                yield np.array(values), np.array(times) if at >= 0 else None
                values, times = [], []
        if values:
            yield np.array(values), np.array(times) if at >= 0 else None


@dataclass(frozen=True, slots=True)
class ParquetFile:
    """A table of numbers, one row a sample; null is NaN. Needs pyarrow."""

    path: Path
    channels: tuple[str, ...]
    time_column: str
    sample_rate_hz: float = 0.0
    full_scale: float = 0.0

    @classmethod
    def open(cls, path: Path, channels: tuple[str, ...], time_column: str) -> ParquetFile:
        """Read the schema; without ``channels`` all columns but the time's are channels."""
        file = _opened_parquet(path)
        try:
            names = tuple(file.schema_arrow.names)
            columns = _columns(path, names, channels, time_column)
            for name in columns:
                kind = str(file.schema_arrow.field(name).type)
                if not kind.startswith(("int", "uint", "float", "double", "halffloat")):
                    raise _malformed(path, f"column {name!r} holds {kind}, not numbers")
            groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
            if any(group.total_byte_size > _MAX_ROW_GROUP_BYTES for group in groups):
                raise _malformed(path, f"a row group has more than {_MAX_ROW_GROUP_BYTES} bytes; write smaller ones")
        finally:
            file.close()
        return cls(path, columns, time_column)

    def chunks(self) -> Iterator[Chunk]:
        """See :class:`RecordedFile`."""
        file = _opened_parquet(self.path)
        try:
            for batch in file.iter_batches(_CHUNK_SAMPLES, columns=[*self.channels, *filter(None, [self.time_column])]):
                columns = [_floats(batch.column(name)) for name in self.channels]
                times = _times(batch.column(self.time_column)) if self.time_column else None
                samples = np.stack(columns, axis=1)
                if times is not None:
                    known = np.isfinite(times)
                    samples, times = samples[known], times[known]
                yield samples, times
        except (FileNotFoundError, PermissionError) as error:
            raise _unreadable(self.path, error) from error
        except (ValueError, OSError, MemoryError, KeyError, NotImplementedError) as error:  # pyarrow's are these
            raise _malformed(self.path, str(error)) from error
        finally:
            file.close()


def _opened_wav(path: Path) -> wave.Wave_read:
    try:
        return wave.open(str(path), "rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    except (wave.Error, EOFError, ValueError, ArithmeticError) as error:
        raise _malformed(path, f"it is not a WAV file of plain PCM: {error or 'it ends too early'}") from error


def _opened_parquet(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:  # missing, or too new for this numpy
        raise AgentError(
            "source.extra", f"replaying Parquet needs pyarrow: pip install 'wheeltapper-agent[parquet]' ({error})"
        ) from error
    try:
        return parquet.ParquetFile(path)
    except (FileNotFoundError, PermissionError) as error:
        raise _unreadable(path, error) from error
    except (ValueError, OSError, MemoryError, NotImplementedError) as error:
        raise _malformed(path, f"it is not a Parquet file: {error}") from error


def _pcm(content: bytes, width_bytes: int) -> NDArray[np.float64]:
    """Numbers from -1 to 1; 8 bits are unsigned, the rest are signed and little-endian."""
    if width_bytes == 1:
        return (np.frombuffer(content, np.uint8).astype(np.float64) - 128) / 128
    if width_bytes == 3:
        wide = np.zeros((len(content) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        return wide.reshape(-1).view("<i4") / 2.0**31
    return np.frombuffer(content, f"<i{width_bytes}") / 2.0 ** (8 * width_bytes - 1)


def _rows(handle: TextIO, path: Path, delimiter: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(_lines(handle, path), delimiter=delimiter)
    except csv.Error as error:
        raise _malformed(path, str(error)) from error


def _lines(handle: TextIO, path: Path) -> Iterator[str]:
    while line := handle.readline(_MAX_LINE_CHARACTERS):
        if len(line) == _MAX_LINE_CHARACTERS:
            raise _malformed(path, f"a line has {_MAX_LINE_CHARACTERS} characters or more")
        yield line


def _number(row: list[str], column: int) -> float:
    try:
        return float(row[column])
    except (ValueError, IndexError):
        return float("nan")


def _columns(path: Path, names: tuple[str, ...], channels: tuple[str, ...], time_column: str) -> tuple[str, ...]:
    """The columns that are channels."""
    if missing := [name for name in (*channels, *filter(None, [time_column])) if name not in names]:
        raise _malformed(path, f"there is no column {missing[0]!r}; there are {', '.join(names)[:300]}")
    found = channels or tuple(name for name in names if name != time_column)
    if not 1 <= len(found) <= _MAX_CHANNELS or len(set(found)) != len(found) or not all(found):
        raise _malformed(path, f"1 to {_MAX_CHANNELS} channels with different names are needed, not {len(found)}")
    return found


def _floats(column: Any) -> NDArray[np.float64]:
    return np.asarray(column.cast("float64").fill_null(float("nan")).to_numpy(zero_copy_only=False), dtype=np.float64)


def _times(column: Any) -> NDArray[np.float64]:
    """Seconds; of a time stamp, since 1970."""
    if str(column.type).startswith("timestamp"):
        whole = column.cast("timestamp[ns]", safe=False).cast("int64").cast("float64", safe=False)
        return _floats(whole) / 1e9
    return _floats(column)


def _unreadable(path: Path, error: OSError) -> AgentError:
    return AgentError("source.unreadable", f"the recording {path.name} cannot be read: {error.strerror or error}")


def _malformed(path: Path, why: str) -> AgentError:
    return AgentError("source.malformed", f"the recording {path.name} cannot be used: {why[:300]}")

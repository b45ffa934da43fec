"""The one way to read a file of another maker: opens it by its kind, and follows its times.

Example:
    >>> notes = Notes(print)
    >>> table = open_table(Path("log.csv"), "auto", TableOptions(time_column="t"))
    >>> signal = read_signal(table, 100.0, 0.0, notes)
    >>> for samples, times_s, restarts in signal.pieces:
    ...     print(samples.shape, times_s)

What this module does not do: cut windows; scale; fill in what is missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.tables.csv_table import CsvTable
from wheeltapper_protocols.tables.notes import Notes
from wheeltapper_protocols.tables.options import TableOptions
from wheeltapper_protocols.tables.parquet_table import ParquetTable
from wheeltapper_protocols.tables.table import Chunk, Table
from wheeltapper_protocols.tables.times import TimeLine, is_settled
from wheeltapper_protocols.tables.wav import WavTable

__all__ = ["FORMATS", "Piece", "Signal", "agreed_rate", "format_of", "open_table", "read_signal"]

FORMATS: Final = {
    ".wav": "wav", ".rf64": "wav", ".bw64": "wav", ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet",
    ".pq": "parquet", ".npz": "npz",
}  # fmt: skip
"""The format of a file by the ending of its name."""
_MARKS: Final = {b"PK\3\4": "npz", b"RIFF": "wav", b"RF64": "wav", b"BW64": "wav", b"PAR1": "parquet"}
"""What files begin with."""
_HEAD_BYTES: Final = 4096
_RATE_SHARE: Final = 1e-3
"""How far a rate may be off that a header gives in whole Hz."""
_LOOKED_AT_VALUES: Final = 2**22
"""How much of a file is looked at, at most, to find out how fine its times are."""


class Piece(NamedTuple):
    """Samples that follow one another."""

    samples: NDArray[np.float64]
    """[sample, channel] in the numbers of the file."""
    times_s: NDArray[np.float64] | None
    """[sample]; None where the file has no times."""
    restarts: bool
    """Whether the times begin anew: a window must not span this place."""


class Signal(NamedTuple):
    """What a table gives."""

    tolerance_seconds: float
    """How far a time may be off; 0: half a sample."""
    pieces: Iterator[Piece]


def format_of(path: Path) -> str:
    """Return ``npz``, ``wav``, ``csv`` or ``parquet``: by the ending of the name, or else by how the file begins."""
    if known := FORMATS.get(path.suffix.lower()):
        return known
    try:
        with path.open("rb") as handle:
            head = handle.read(_HEAD_BYTES)
    except OSError:
        return "npz"  # whoever opens it says why it cannot be opened
    by_mark = next((kind for mark, kind in _MARKS.items() if head.startswith(mark)), "")
    return by_mark or ("csv" if b"\n" in head and b"\0" not in head.partition(b"\n")[0] else "npz")


def open_table(path: Path, kind: str, options: TableOptions) -> Table:
    """Open a file of another maker and read its header.

    Args:
        path: of the file.
        kind: ``wav``, ``csv`` or ``parquet``.
        options: how its table is written.

    Raises:
        RecordingError: ``recording.unreadable``, ``recording.malformed``, ``recording.extra``.
    """
    match kind:
        case "wav":
            return WavTable.open(path)
        case "csv":
            return CsvTable.open(path, options)
        case _:
            return ParquetTable.open(path, options)


def agreed_rate(table: Table, rate_hz: float) -> float:
    """Return the sample rate: ``rate_hz`` where it is given, else what the file says.

    Raises:
        RecordingError: ``recording.mismatch``: they differ by more than the rounding to whole Hz in a header can cause.
    """
    found_hz = table.sample_rate_hz
    if rate_hz and found_hz and abs(rate_hz - found_hz) > max(_RATE_SHARE * found_hz, 1e-9):
        text = f"{table.path.name}: sample_rate_hz is {rate_hz:g}, and its header says {found_hz:g} Hz"
        raise RecordingError("recording.mismatch", text)
    return rate_hz or found_hz


def read_signal(table: Table, rate_hz: float, tolerance_seconds: float, notes: Notes) -> Signal:
    """Read the samples of a table, with times that have been looked at.

    Args:
        table: see :func:`open_table`.
        rate_hz: the sample rate.
        tolerance_seconds: how far a time may be off; 0: half a sample. Times that are coarser raise it.
        notes: is told what was left out and what was noticed.

    Raises:
        RecordingError: ``recording.unreadable``, ``recording.malformed``, ``recording.mismatch``; also while the pieces
            are read.
    """
    chunks = table.chunks(notes)
    first = _looked_at(chunks)
    line = TimeLine(table.path.name, rate_hz, tolerance_seconds, table.time_unit, notes)
    if first and first[0][1] is not None:
        times = np.concatenate([times for _, times in first if times is not None])
        line.begin(times, np.concatenate([samples for samples, _ in first]))
    return Signal(line.tolerance_seconds, _pieces(itertools.chain(first, chunks), line))


def _looked_at(chunks: Iterator[Chunk]) -> list[Chunk]:
    """The first chunks: one where the file has no times, else as many as show how fine they are."""
    found: list[Chunk] = []
    for chunk in chunks:
        found.append(chunk)
        times = [times for _, times in found if times is not None]
        if not times or is_settled(np.concatenate(times)) or sum(part.size for part, _ in found) > _LOOKED_AT_VALUES:
            break
    return found


def _pieces(chunks: Iterator[Chunk], line: TimeLine) -> Iterator[Piece]:
    """Divide chunks where the clock was set back."""
    for samples, times_s in chunks:
        if times_s is None:
            yield Piece(samples, None, False)
            continue
        times_s, back = line.follow(times_s)
        edges: list[Any] = [0, *[index for index in back if index], len(samples)]
        for begin, end in itertools.pairwise(edges):
            if end > begin:
                yield Piece(samples[begin:end], times_s[begin:end], begin in back)

"""How a table is written: the options that a source, ``train`` and ``replay`` share. Pure.

What this module does not do: read a file; guess. A table that is not written as the options say is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from wheeltapper_protocols.errors import RecordingError

__all__ = [
    "MAX_CHANNELS",
    "MAX_SKIP_ROWS",
    "PER_SECOND",
    "TableOptions",
    "TimeUnit",
    "is_number",
    "malformed",
    "numbered",
    "resolve",
]

MAX_CHANNELS: Final = 64
MAX_SKIP_ROWS: Final = 1_000_000
TimeUnit = Literal["s", "ms", "us", "ns"]
PER_SECOND: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""How many of a unit of time are a second."""
_INDEX_COLUMN: Final = "__index_level_"
"""What pandas names the column of an index that has no name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions:
    """How the tables in CSV and Parquet files are written. A WAV file says all of it itself.

    Raises:
        RecordingError: ``recording.options``.
    """

    channels: tuple[str, ...] = ()
    """The columns with samples, in this order; empty: all but that of the time."""
    time_column: str = ""
    """The column with the time of each row; empty: rows follow one another at the sample rate."""
    delimiter: str = "auto"
    """Between the cells of a row, one character; ``auto``: a tab in ``.tsv``, a semicolon beside a decimal comma, else
    a comma. A blank stands for any number of blanks and tabs."""
    decimal: Literal[".", ","] = "."
    """The decimal separator. Thousands separators are not read."""
    skip_rows: int = 0
    """Lines before the header that are no part of the table."""
    header: bool = True
    """Whether the first line names the columns. If not, ``time_column`` and ``channels`` are numbers of columns, from
    1; or ``channels`` names all columns but that of the time, in order."""
    time_unit: TimeUnit = "s"
    """Of times that are numbers; they count from 1970, or from wherever the recorder began."""
    time_format: str = ""
    """Of times that are texts, as ``strptime`` writes it, e.g. ``%d.%m.%Y %H:%M:%S``; empty: ISO 8601. A time without a
    zone is in UTC."""
    missing: tuple[str | float, ...] = field(default=())
    """Texts and numbers in the file that mean that there is no value. An empty cell always does."""

    def __post_init__(self) -> None:
        if self.delimiter != "auto" and (len(self.delimiter) != 1 or self.delimiter in '\r\n"\0'):
            raise RecordingError("recording.options", "delimiter must be one character, or auto")
        if self.decimal not in (".", ","):
            raise RecordingError("recording.options", "decimal must be '.' or ','")
        if not 0 <= self.skip_rows <= MAX_SKIP_ROWS:
            raise RecordingError("recording.options", f"skip_rows must be from 0 to {MAX_SKIP_ROWS} lines")
        if self.time_unit not in PER_SECOND:
            raise RecordingError("recording.options", f"time_unit must be one of {', '.join(PER_SECOND)}")
        if self.time_format and "%" not in self.time_format:
            raise RecordingError("recording.options", "time_format must be one of strptime, e.g. %d.%m.%Y %H:%M:%S")

    def delimiter_of(self, suffix: str) -> str:
        """Return the delimiter for a file whose name ends with ``suffix``."""
        if self.delimiter != "auto":
            return self.delimiter
        return "\t" if suffix.lower() == ".tsv" else ";" if self.decimal == "," else ","

    @property
    def missing_texts(self) -> frozenset[str]:
        """The texts of ``missing``, without blanks around them."""
        return frozenset(entry.strip() for entry in self.missing if isinstance(entry, str))

    @property
    def missing_numbers(self) -> tuple[float, ...]:
        """The numbers of ``missing``, also those that are written as text."""
        found = (float(entry) for entry in self.missing if not isinstance(entry, str) or is_number(entry))
        return tuple(number for number in found if not math.isnan(number))


def is_number(text: str) -> bool:
    """Whether a text is a number in plain notation, or one that is not finite."""
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and "_" not in text


def malformed(file: str, why: str) -> RecordingError:
    """Return the error for a file whose content cannot be used."""
    return RecordingError("recording.malformed", f"the recording {file} cannot be used: {why[:500]}")


def numbered(count: int) -> tuple[str, ...]:
    """Names for the columns of a table without a header."""
    return tuple(f"column_{number}" for number in range(1, count + 1))


def resolve(file: str, names: Sequence[str], options: TableOptions) -> tuple[tuple[str, ...], list[int], int]:
    """Find the columns of a table.

    Args:
        file: its name, for the error.
        names: of its columns; those of :func:`numbered` where it has no header.
        options: see there.

    Returns:
        The names of the channels, the index of each one's column, and that of the time (-1: none).

    Raises:
        RecordingError: ``recording.malformed``.
    """
    at = -1 if not options.time_column else _index(file, names, options.time_column, options.header)
    rest = [index for index in range(len(names)) if index != at]
    if not options.channels:
        wanted = [index for index in rest if not names[index].startswith(_INDEX_COLUMN)]
        channels = tuple(names[index] for index in wanted)
        if not all(channels):
            where = names.index("") + 1
            raise malformed(file, f"column {where} has no name: say with channels which columns are channels")
    elif not options.header and len(rest) == len(options.channels) and not _all_known(names, options.channels):
        channels, wanted = options.channels, rest
    else:
        channels = options.channels
        wanted = [_index(file, names, name, options.header) for name in channels]
    if repeated := [name for name in channels if channels.count(name) > 1 or (name and names.count(name) > 1)]:
        raise malformed(file, f"two columns have the name {repeated[0]!r}: give each its own")
    if not 1 <= len(channels) <= MAX_CHANNELS:
        why = f"it must have 1 to {MAX_CHANNELS} channels, not {len(channels)}: say which with channels"
        raise malformed(file, why)
    return channels, wanted, at


def _all_known(names: Sequence[str], channels: Sequence[str]) -> bool:
    """Whether each of ``channels`` is the name or the number of a column."""
    return all(name in names or (name.isascii() and name.isdigit()) for name in channels)


def _index(file: str, names: Sequence[str], name: str, header: bool) -> int:
    """The index of the column ``name``."""
    if name in names:
        return list(names).index(name)
    if not header:
        if name.isascii() and name.isdigit() and 1 <= int(name) <= len(names):
            return int(name) - 1
        raise malformed(
            file, f"without a header the column {name!r} must be given by its number, from 1 to {len(names)}"
        )
    hint = ""
    if len(names) == 1 and (found := [each for each in (";", "\t", "|", ",") if each in names[0]]):
        hint = f"; is {found[0]!r} the delimiter?"
    if any(is_number(each.replace(",", ".")) for each in names if each):
        hint = "; if they are the first samples, set header = false"
    raise malformed(file, f"it has no column {name!r}; its columns are {', '.join(names)[:200]}{hint}")

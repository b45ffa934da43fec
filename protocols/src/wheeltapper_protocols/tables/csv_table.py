"""Tables of text: CSV and its kin, with any delimiter, decimal point or comma, in UTF-8, UTF-16 or Latin-1.

Invariants:
    * Each row has as many cells as the header. Another number is refused with its line: which cell is which is unknown.
      Empty cells beyond the last column (a delimiter at the end of lines) are no cells; a last line that was cut off is
      left out and noted.
    * Memory is bounded: the file is read in pieces, and a line has a greatest length.
    * Nothing but ``RecordingError`` is raised: ``recording.unreadable``, ``recording.malformed``.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

import numpy as np

from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.tables.cells import NumberColumn, TimeColumn, notation
from wheeltapper_protocols.tables.notes import Notes
from wheeltapper_protocols.tables.options import TableOptions, is_number, malformed, numbered, resolve
from wheeltapper_protocols.tables.table import CHUNK_SAMPLES, Chunk, unreadable

__all__ = ["CsvTable"]

_MAX_LINE_CHARACTERS: Final = 64 * 1024
_HEAD_BYTES: Final = 4096
_LATIN_1: Final = "wheeltapper-latin-1"
"""The handler of bytes that are no UTF-8."""
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def _as_latin_1(error: UnicodeError) -> tuple[str, int]:
    """Read bytes that are no UTF-8 as Latin-1, so that a unit such as °C in a name costs no row."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error(_LATIN_1, _as_latin_1)


@dataclass(frozen=True, slots=True)
class CsvTable:
    """A table of text; implements :class:`~wheeltapper_protocols.tables.table.Table`."""

    path: Path
    options: TableOptions
    names: tuple[str, ...]
    """Of all columns."""
    channels: tuple[str, ...]
    wanted: tuple[int, ...]
    time_index: int
    sample_rate_hz: float = 0.0
    full_scale: float = 0.0

    @property
    def time_unit(self) -> str:
        """Of the times."""
        return self.options.time_unit

    @classmethod
    def open(cls, path: Path, options: TableOptions) -> CsvTable:
        """Read the header.

        Raises:
            RecordingError: ``recording.unreadable``, ``recording.malformed``.
        """
        with _Lines(path, options) as lines:
            first = lines.header()
        if options.header:
            names = _without_trailing(tuple(cell.strip() for cell in first))
            _refuse_numbers(path, names, options)
        else:
            names = numbered(len(_without_trailing(tuple(cell.strip() for cell in first))))
        channels, wanted, at = resolve(path.name, names, options)
        return cls(path, options, names, channels, tuple(wanted), at)

    def chunks(self, notes: Notes) -> Iterator[Chunk]:
        """See :class:`~wheeltapper_protocols.tables.table.Table`."""
        name = self.path.name
        columns = [NumberColumn(name, channel, self.options, notes) for channel in self.channels]
        clock = TimeColumn(name, self.options)
        seen = timed = False
        with _Lines(self.path, self.options) as lines:
            if self.options.header:
                again = _without_trailing(tuple(cell.strip() for cell in lines.header()))
                if again != self.names:
                    raise RecordingError("recording.mismatch", f"{name} was replaced by a file with other columns")
            for rows, places in self._batches(lines, notes):
                if not self.options.header and not seen:
                    self._refuse_names(rows[0], places[0])
                seen = True
                cells = list(zip(*rows, strict=True))
                samples = np.stack(
                    [column.read(cells[at], places) for column, at in zip(columns, self.wanted, strict=True)], axis=1
                )
                if self.time_index < 0:
                    yield samples, None
                    continue
                texts = cells[self.time_index]
                times = clock.read(texts, places)
                known = np.isfinite(times)
                if not known.all():
                    first = int(np.argmin(known))
                    if not timed and not known.any():
                        raise clock.no_time(texts[first], places[first])
                    text = f"line {places[first]}: column {self.options.time_column!r} holds {texts[first][:40]!r}"
                    notes.add("times", f"{text}: a row without a time is left out", int((~known).sum()))
                    samples, times = samples[known], times[known]
                timed = True
                yield samples, times

    def _refuse_names(self, row: list[str], place: int) -> None:
        """Raise ``recording.malformed`` if the first row of a table without a header holds names."""
        cells = [row[index].strip() for index in self.wanted]
        texts = [cell for cell in cells if cell and cell not in self.options.missing_texts]
        if texts and not any(_is_value(cell, self.options) for cell in texts):
            why = f"line {place} holds {', '.join(texts)[:60]}: set header = true, or skip_rows if it is no header"
            raise malformed(self.path.name, why)

    def _batches(self, lines: _Lines, notes: Notes) -> Iterator[tuple[list[list[str]], list[int]]]:
        """Give the rows, as many cells long as the header, with the line of each."""
        width = len(self.names)
        rows: list[list[str]] = []
        places: list[int] = []
        blank: list[int] = []
        """Empty lines of a table of one column: samples without a value, unless they end the file."""
        for row in lines:
            if len(row) != width or width == 1:
                if not any(cell.strip() for cell in row):
                    if width == 1:
                        blank.append(lines.place)
                        continue
                    if len(row) < width:
                        continue
                if (fitting := self._fitting(row, lines, notes)) is None:
                    continue
                row = fitting
                if blank:
                    rows += [[""] for _ in blank]
                    places += blank
                    blank = []
            rows.append(row)
            places.append(lines.place)
            if len(rows) >= CHUNK_SAMPLES:
                yield rows, places
                rows, places = [], []
        if rows:
            yield rows, places

    def _fitting(self, row: list[str], lines: _Lines, notes: Notes) -> list[str] | None:
        """Return a row of another length as one that fits, or None for what is no row.

        Raises:
            RecordingError: ``recording.malformed``.
        """
        width = len(self.names)
        if len(row) == width:
            return row
        if len(row) > width and not any(cell.strip() for cell in row[width:]):
            return row[:width]
        if row and row[0].lstrip().startswith("#"):
            return None
        if any("\0" in cell for cell in row):
            notes.add("rows", f"line {lines.place} holds zero bytes, as after a power cut: it is left out")
            return None
        if len(row) < width and lines.is_cut:
            notes.add("rows", f"line {lines.place}: the last line was cut off: it is left out")
            return None
        what = "header" if self.options.header else "first row"
        why = f"line {lines.place} has {len(row)} cells, and the {what} has {width}"
        if width == 1 or (lines.place <= lines.header_place + 1 and len(row) != width):
            why += "; lines before the header are left out with skip_rows"
        if self.options.decimal == "." and lines.delimiter == "," and len(row) > width:
            why += "; with a decimal comma set decimal = ',' and another delimiter"
        raise malformed(self.path.name, why)


class _Lines:
    """The rows of an open file, with their places."""

    def __init__(self, path: Path, options: TableOptions) -> None:
        self._path, self._options = path, options
        self.delimiter = options.delimiter_of(path.suffix)
        self.place = 0
        """Line of the present row, from 1."""
        self.header_place = 0
        self.is_cut = False
        """Whether the present line has no end: it is the last."""
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Lines:
        try:
            with self._path.open("rb") as raw:
                encoding = _encoding(self._path, raw.read(_HEAD_BYTES))
            errors = _LATIN_1 if encoding.startswith("utf-8") else "replace"
            self._handle: TextIO = self._stack.enter_context(
                self._path.open(encoding=encoding, errors=errors, newline="")
            )
        except OSError as error:
            raise unreadable(self._path, error) from error
        self._rows = self._read()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[list[str]]:
        return self._rows

    def header(self) -> list[str]:
        """Return the first row that is neither empty nor a comment.

        Raises:
            RecordingError: ``recording.malformed``: there is none.
        """
        for row in self._rows:
            if any(cell.strip() for cell in row) and (not row[0].lstrip().startswith("#") or row[0].strip() == "#"):
                self.header_place = self.place
                return row
        raise malformed(self._path.name, "it is empty")

    def _read(self) -> Iterator[list[str]]:
        """Give the rows."""
        try:
            if self.delimiter == " ":
                for line in self._texts():
                    yield line.split()
            else:
                yield from csv.reader(self._texts(), delimiter=self.delimiter, strict=True)
        except csv.Error as error:
            raise malformed(self._path.name, f"line {self.place}: {error}") from error
        except OSError as error:
            raise unreadable(self._path, error) from error
        except UnicodeError as error:
            raise malformed(self._path.name, f"it is no text: {error}") from error

    def _texts(self) -> Iterator[str]:
        """Give the lines after ``skip_rows``."""
        while line := self._handle.readline(_MAX_LINE_CHARACTERS):
            self.place += 1
            if line[0] == "\0" and not line.strip("\0\r\n"):
                line = "\0\n"  # a part of the file that was never written
            if len(line) == _MAX_LINE_CHARACTERS:
                raise malformed(self._path.name, f"line {self.place} has {_MAX_LINE_CHARACTERS} characters or more")
            self.is_cut = not line.endswith(("\n", "\r"))
            if self.place > self._options.skip_rows:
                yield line


def _encoding(path: Path, head: bytes) -> str:
    """Return the encoding of a file that begins with ``head``."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    if b"\0" not in head:
        return "utf-8"
    written = head[: head.index(0)]
    if b"\n" in written and written.isascii():
        return "utf-8"  # zero bytes follow the text, as after a power cut
    even, odd = head[::2].count(0), head[1::2].count(0)
    if odd > 0.8 * len(head[1::2]) and not even:
        return "utf-16-le"
    if even > 0.8 * len(head[::2]) and not odd:
        return "utf-16-be"
    raise malformed(path.name, "it is no text: it holds zero bytes")


def _without_trailing(names: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out empty names at the end: a delimiter that ends each line."""
    while len(names) > 1 and not names[-1]:
        names = names[:-1]
    return names


def _refuse_numbers(path: Path, names: tuple[str, ...], options: TableOptions) -> None:
    """Raise ``recording.malformed`` if the header is a row of samples, unless the configuration names its columns."""
    given = {*options.channels, *filter(None, [options.time_column])}
    if given and given <= set(names):
        return
    filled = [name for name in names if name]
    if filled and all(_is_value(name, options) for name in filled):
        raise malformed(
            path.name, f"its header holds numbers ({', '.join(filled)[:60]}): set header = false if it has none"
        )


def _is_value(text: str, options: TableOptions) -> bool:
    """Whether a text is a number or a time, in whatever notation."""
    if is_number(text) or is_number(text.replace(",", ".")) or notation(text, options.decimal):
        return True
    return len(text) >= 8 and text[:4].isdigit() and text[4] == "-" and text[5:7].isdigit()

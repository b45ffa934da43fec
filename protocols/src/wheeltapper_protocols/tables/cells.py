"""Cells that are texts become numbers and times. Pure.

Invariants:
    * A cell that is no number is NaN, and noted with its column and line. It is never skipped and never guessed.
    * A number in another notation (decimal comma, thousands separators) is refused: read as text it would be lost, read
      as a number it would be wrong.
    * A column that begins with texts only is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.tables.notes import Notes
from wheeltapper_protocols.tables.options import PER_SECOND, TableOptions, is_number, malformed

__all__ = ["NumberColumn", "TimeColumn", "hide_missing"]

_NAN: Final = float("nan")
_DECIMAL_COMMA: Final = re.compile(r"[-+\u2212]?\d*,\d+([eE][-+]?\d+)?")
_GROUPED: Final = re.compile(r"[-+\u2212]?\d{1,3}([ .,'\u2019\u00a0\u202f]\d{3})+([.,]\d*)?([eE][-+]?\d+)?")
_DATE_DIRECTIVES: Final = re.compile(r"%[YyGcxDFsjdmbB]")
_MIDNIGHT: Final = datetime(1900, 1, 1, tzinfo=UTC)
"""The day that ``strptime`` takes where a format has none."""


class NumberColumn:
    """Reads the cells of one column as numbers.

    Args:
        file: name of the file, for errors.
        name: of the column.
        options: how the table is written.
        notes: takes cells that are no numbers.
        unit: what the place of a cell is counted in: ``line`` or ``row``.
    """

    def __init__(self, file: str, name: str, options: TableOptions, notes: Notes, unit: str = "line") -> None:
        self._file, self.name, self._options, self._notes, self._unit = file, name, options, notes, unit
        self._missing = options.missing_texts
        self._numbers = False
        """Whether there was a number already."""
        self._texts: list[tuple[str, int]] = []

    def read(self, cells: Sequence[str], places: Sequence[int]) -> NDArray[np.float64]:
        """Return the numbers in ``cells``, NaN where there is none.

        Args:
            cells: [row].
            places: [row], the line or row of each.

        Raises:
            RecordingError: ``recording.malformed``.
        """
        values = _plain(cells, self._options.decimal)
        if values is None:
            self._texts = []
            found = [self._one(cell, place) for cell, place in zip(cells, places, strict=True)]
            values = np.array(found, dtype=np.float64)
            if self._texts and not self._numbers and not np.isfinite(values).any():
                raise self._refused(*self._texts[0], "which is no number")
            for text, place in self._texts:
                where = f"{self._unit} {place}: column {self.name!r}"
                self._notes.add("cells", f"{where} holds {text[:40]!r}, which is no number: it counts as missing")
        self._numbers = self._numbers or bool(np.isfinite(values).any())
        return hide_missing(values, self._options)

    def _one(self, cell: str, place: int) -> float:
        """The number in one cell, or NaN; a text that is none is kept in ``_texts``."""
        text = cell.strip()
        if not text or text in self._missing:
            return _NAN
        number = number_in(text, self._options.decimal)
        if number is not None:
            return number
        if why := notation(text, self._options.decimal):
            raise self._refused(text, place, why)
        self._texts.append((text, place))
        return _NAN

    def _refused(self, text: str, place: int, why: str) -> RecordingError:
        return malformed(self._file, f"{self._unit} {place}: column {self.name!r} holds {text[:40]!r}, {why}")


class TimeColumn:
    """Reads the cells of the column with the times, in seconds.

    Args:
        file: name of the file, for errors.
        options: how the table is written.
        unit: what the place of a cell is counted in: ``line`` or ``row``.
    """

    def __init__(self, file: str, options: TableOptions, unit: str = "line") -> None:
        self._file, self._options, self._unit = file, options, unit
        self._missing = options.missing_texts
        self._per_second = PER_SECOND[options.time_unit]
        self._dated = bool(_DATE_DIRECTIVES.search(options.time_format))

    def read(self, cells: Sequence[str], places: Sequence[int]) -> NDArray[np.float64]:
        """Return the times in ``cells`` in seconds, NaN where there is none.

        Raises:
            RecordingError: ``recording.malformed``: the times are in another notation.
        """
        if not self._options.time_format:
            values = _plain(cells, self._options.decimal)
            if values is not None:
                return hide_missing(values, self._options) / self._per_second
        return np.array([self._one(cell, place) for cell, place in zip(cells, places, strict=True)], dtype=np.float64)

    def no_time(self, cell: str, place: int) -> RecordingError:
        """Return the error for a column that holds no times; ``cell`` is one of its cells."""
        wanted = self._options.time_format or "seconds, or ISO times such as 2026-01-31T12:00:00Z; see time_format"
        why = f"column {self._options.time_column!r} holds {cell[:40]!r} ({self._unit} {place}); it must hold {wanted}"
        return malformed(self._file, why)

    def _one(self, cell: str, place: int) -> float:
        """The time in one cell in seconds."""
        text = cell.strip()
        if not text or text in self._missing:
            return _NAN
        try:
            if self._options.time_format:
                found = datetime.strptime(text, self._options.time_format)  # noqa: DTZ007  # UTC below
                return self._seconds(found)
            number = number_in(text, self._options.decimal)
            if number is not None:
                return _NAN if number in self._options.missing_numbers else number / self._per_second
            if why := notation(text, self._options.decimal):
                where = f"{self._unit} {place}: column {self._options.time_column!r}"
                raise malformed(self._file, f"{where} holds {text[:40]!r}, {why}")
            return self._seconds(datetime.fromisoformat(text))
        except (ValueError, OverflowError):
            return _NAN

    def _seconds(self, found: datetime) -> float:
        """Seconds since 1970, or since midnight where a format has no date."""
        moment = found if found.tzinfo else found.replace(tzinfo=UTC)
        if self._options.time_format and not self._dated:
            return (moment - _MIDNIGHT).total_seconds()
        return moment.timestamp()


def hide_missing(values: NDArray[np.float64], options: TableOptions) -> NDArray[np.float64]:
    """Return ``values`` with NaN for the numbers that mean that there is no value."""
    if numbers := options.missing_numbers:
        return np.where(np.isin(values, numbers), np.nan, values)
    return values


def number_in(text: str, decimal: str) -> float | None:
    """Return the number in a text, or None. Digits of other scripts and digits grouped by ``_`` are no numbers."""
    if decimal == ",":
        if "." in text:
            return None
        text = text.replace(",", ".")
    return float(text) if is_number(text) else None


def notation(text: str, decimal: str) -> str:
    """Return what is wrong with a number that is written in another notation; empty if ``text`` is none."""
    if decimal == "." and _DECIMAL_COMMA.fullmatch(text):
        return "which has a comma: set decimal = ',' if it is a decimal comma; thousands separators are not read"
    if decimal == "," and is_number(text):
        return "which has a point, but decimal is ','"
    if _GROUPED.fullmatch(text):
        return "which has thousands separators: write the table without them"
    return ""


def _plain(cells: Sequence[str], decimal: str) -> NDArray[np.float64] | None:
    """Return the numbers in ``cells`` if all of them are numbers in plain notation; the way for most columns."""
    together = "".join(cells)
    if not together.isascii() or "_" in together or (decimal == "," and "." in together):
        return None
    try:
        if decimal == ",":
            return np.fromiter((float(cell.replace(",", ".")) for cell in cells), np.float64, len(cells))
        return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return None

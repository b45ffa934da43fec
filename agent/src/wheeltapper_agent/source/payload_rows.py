"""Samples in a list of objects, and the numbers and times in a payload. Pure.

Three forms of a list of objects are read:

- one object a sample, with a number for each channel: ``[{"t": 1, "x": 0.5, "y": 0.1}, …]``;
- the same below ``fields``, as Telegraf writes it: ``[{"fields": {"x": 0.5}, "timestamp": 1}, …]``;
- SenML (RFC 8428): one object a value, ``[{"bn": "urn:dev:1:", "bt": 1767225600, "n": "x", "v": 0.5}, …]``. A channel
  is the full name or the part in ``n``.

Invariants:
    * A channel for which an object has no value is a missing sample; one that no object has is an error. An object
      without any of the channels is left out: it is about something else.
    * Samples are in the order of their times. Objects of one time that have no channel in common are one sample.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Numbers", "Rows", "find", "is_senml", "time_seconds", "times_seconds"]

_PER_SECOND: Final = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_PLAIN: Final = frozenset({int, float, type(None)})
_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_MISSING_TEXTS: Final = frozenset({"", "nan", "-nan", "null", "none", "inf", "+inf", "-inf", "infinity", "-infinity"})
_LAST_SECONDS: Final = 1e11
_SHOWN_KEYS: Final = 8
_SENML_VERSION: Final = 10
"""Of RFC 8428, 4.4."""
_SENML_RELATIVE: Final = 2**28
"""A time below it is relative to the arrival (RFC 8428, 4.5.3)."""
_SENML_VALUES: Final = frozenset({"v", "vs", "vb", "vd", "s"})


def find(value: Any, key: str) -> Any:
    """Return what ``key`` names in ``value``.

    A key that stands there as it is comes first, with its dots; then each dot leads into a nested object, or by its
    number into a list.

    Raises:
        ValueError: it is not there; the message names what is.
    """
    found = _find(value, key) if key else (value,)
    if not found:
        there = (
            f"; there are {', '.join(map(repr, sorted(map(str, value))[:_SHOWN_KEYS]))}"
            if isinstance(value, dict)
            else ""
        )
        raise ValueError(f"{key!r} is missing{there}")
    return found[0]


def _find(value: Any, key: str) -> tuple[Any, ...]:
    """Return what ``key`` names in ``value`` as a tuple of one; an empty one if it is not there."""
    if isinstance(value, list) and key.partition(".")[0].isdecimal():
        head, _, tail = key.partition(".")
        if int(head[:9]) >= len(value):
            return ()
        return _find(value[int(head[:9])], tail) if tail else (value[int(head[:9])],)
    if not isinstance(value, dict):
        return ()
    if key in value:
        return (value[key],)
    at = key.rfind(".")
    while at > 0:
        if key[:at] in value and (found := _find(value[key[:at]], key[at + 1 :])):
            return found
        at = key.rfind(".", 0, at)
    return ()


class Numbers:
    """Turns the values of a payload into numbers.

    Args:
        as_text: whether ``"1.5"`` is a number.
    """

    def __init__(self, as_text: bool) -> None:
        self._as_text = as_text

    def array(self, value: Any) -> NDArray[np.float64]:
        """Return a number, or a list of numbers, as an array; None becomes NaN.

        Raises:
            ValueError, OverflowError: something else is in it.
        """
        values = value if isinstance(value, list) else [value]
        others = set(map(type, values)) - _PLAIN
        if others == {str} and self._as_text:
            values = [_from_text(entry) if isinstance(entry, str) else entry for entry in values]
        elif others:
            raise ValueError(self._why_not(values, others))
        return np.array(values, dtype=np.float64)  # None becomes NaN

    def _why_not(self, values: Sequence[Any], others: set[type]) -> str:
        """Return what is wrong with values that are no numbers."""
        text = next((entry for entry in values if isinstance(entry, str)), None)
        if text is None or self._as_text:
            return f"a sample must be a number or null, not {min(kind.__name__ for kind in others - {str} or others)}"
        if _NUMBER.fullmatch(text.strip()):
            return f"a sample must be a number or null, not str: {text[:20]!r} is text; set numbers_as_text = true"
        return f"a sample must be a number or null, not str: {text[:20]!r} (base64 and other text cannot be read)"


def _from_text(text: str) -> float:
    """Return the number in a text; NaN if it says that there is none."""
    stripped = text.strip()
    if _NUMBER.fullmatch(stripped):
        return float(stripped)
    if stripped.lower() in _MISSING_TEXTS:
        return math.nan
    raise ValueError(f"the text {text[:20]!r} is not a number")


def time_seconds(value: Any, unit: str) -> float:
    """Return a time in Unix seconds.

    Args:
        value: a number, or a text by ISO 8601; one without a zone is in UTC.
        unit: of a number: ``s``, ``ms``, ``us`` or ``ns``.

    Raises:
        ValueError: it is no time.
    """
    if type(value) in (int, float) and math.isfinite(value):
        return _since_1970(value, unit)
    if isinstance(value, datetime):  # of MessagePack
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, str):
        if _NUMBER.fullmatch(value.strip()):
            return _since_1970(float(value), unit)
        try:
            stamp = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError(f"the time {value[:40]!r} is neither a number nor ISO 8601") from None
        return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()
    raise ValueError(f"the time must be a number or a text by ISO 8601, not {type(value).__name__}")


def _since_1970(value: float, unit: str) -> float:
    """Return a Unix time in seconds."""
    seconds = float(value) / _PER_SECOND[unit]
    if not 0 <= seconds <= _LAST_SECONDS:
        raise ValueError(f"the time {value:.17g} {unit} is not between 1970 and 5138; check time_unit")
    return seconds


def times_seconds(values: Sequence[Any], unit: str, count: int) -> NDArray[np.float64]:
    """Return the times of ``count`` samples, [sample] in Unix seconds.

    Raises:
        ValueError: there are fewer or more, or one is none.
    """
    if len(values) != count:
        raise ValueError(f"there are {len(values)} times for {count} samples")
    return np.array([time_seconds(value, unit) for value in values], dtype=np.float64)


class Rows:
    """Reads lists of objects.

    Args:
        channels: names, in the order of the samples.
        time_key: of the time in each object; empty, or not there: the objects have none.
        time_unit: of that time.
        numbers: reads the values.
    """

    def __init__(self, channels: tuple[str, ...], time_key: str, time_unit: str, numbers: Numbers) -> None:
        self._channels, self._time_key, self._time_unit, self._numbers = channels, time_key, time_unit, numbers

    def read(self, rows: list[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Return the samples, [sample, channel], and their times, [sample]; None where the objects have none.

        Raises:
            ValueError: a form that is not known, or a channel that no object has.
        """
        if any(not isinstance(row, dict) for row in rows):
            raise ValueError("each sample must be an object, as the first one is")
        table, stamps = self._senml(rows) if is_senml(rows) else self._plain(rows)
        flat = self._numbers.array([number for row in table for number in row])
        samples = flat.reshape(len(table), len(self._channels))
        if not any(stamps):
            return samples, None
        if not all(stamps):
            raise ValueError(f"some objects have no {self._time_key!r}")
        return _merged(samples, times_seconds([stamp[0] for stamp in stamps], self._time_unit, len(table)))

    def _plain(self, rows: list[dict[str, Any]]) -> tuple[list[list[Any]], list[tuple[Any, ...]]]:
        """Return the values in each object that has a channel, and its time as a tuple of one; empty: none."""
        table, stamps = [], []
        for row in rows:
            values = [_find(row, channel) or _find(row.get("fields"), channel) for channel in self._channels]
            if any(values):
                table.append([value[0] if value else None for value in values])
                stamps.append(_find(row, self._time_key) if self._time_key else ())
        for channel in self._channels:
            if not any(_find(row, channel) or _find(row.get("fields"), channel) for row in rows):
                find(rows[0].get("fields", rows[0]), channel)  # raises, and names what is there
        return table, stamps

    def _senml(self, rows: list[dict[str, Any]]) -> tuple[list[list[Any]], list[tuple[Any, ...]]]:
        """Return the same of a SenML pack: a value and a time for each record of a channel.

        A pack without absolute times has none.
        """
        table, times_s, seen = [], [], set()
        base_name, base_time, base_value = "", 0.0, 0.0
        for row in rows:
            if row.get("bver", _SENML_VERSION) != _SENML_VERSION or any(key.endswith("_") for key in row):
                raise ValueError("a SenML record has a version or a field that is not known (RFC 8428, 4.4)")
            base_name = str(row.get("bn", base_name))
            base_time = self._number(row, "bt", base_time)
            base_value = self._number(row, "bv", base_value)
            name = str(row.get("n", ""))
            seen |= {name, f"{base_name}{name}"}
            at = next((at for at, each in enumerate(self._channels) if each in (f"{base_name}{name}", name)), -1)
            if at >= 0:
                values: list[Any] = [None] * len(self._channels)
                values[at] = self._senml_value(row, base_value)
                table.append(values)
                times_s.append(base_time + self._number(row, "t", 0.0))
        for channel in self._channels:
            if channel not in seen:
                raise ValueError(
                    f"no SenML record is named {channel!r}; there are {', '.join(map(repr, sorted(seen)))}"
                )
        if times_s and min(times_s) >= _SENML_RELATIVE:
            return table, [(t_s * _PER_SECOND[self._time_unit],) for t_s in times_s]
        if len(self._channels) > 1:
            raise ValueError("a SenML pack of several channels needs absolute times (bt)")
        return table, [() for _ in times_s]

    def _senml_value(self, row: dict[str, Any], base_value: float) -> float:
        """Return the number in a record."""
        for key in ("vs", "vb", "vd"):
            if key in row:
                raise ValueError(f"the SenML record {row.get('n', '')!r} has {key!r}, not a number")
        return self._number(row, "v", math.nan) + base_value

    def _number(self, row: dict[str, Any], key: str, default: float) -> float:
        """Return the number under ``key``; ``default`` if it is not there."""
        return float(self._numbers.array([row[key]])[0]) if key in row else default


def is_senml(rows: list[Any]) -> bool:
    """Whether a list of objects is a SenML pack: the records have names, and some a field of a value."""
    return (
        all(isinstance(row, dict) and isinstance(row.get("n", ""), str) for row in rows)
        and bool({"n", "bn"} & set(rows[0]))
        and any(_SENML_VALUES & set(row) for row in rows)
    )


def _merged(
    samples: NDArray[np.float64], times_s: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return samples in the order of their times, with those of one time as one sample if they have no channel in
    common."""
    if bool((np.diff(times_s) > 0).all()):
        return samples, times_s
    order = np.argsort(times_s, kind="stable")
    rows: list[NDArray[np.float64]] = []
    times: list[float] = []
    for row, t_s in zip(samples[order], times_s[order], strict=True):
        if times and times[-1] == t_s and not (np.isfinite(row) & np.isfinite(rows[-1])).any():
            rows[-1] = np.where(np.isfinite(row), row, rows[-1])
        else:
            rows.append(row)
            times.append(float(t_s))
    return np.array(rows), np.array(times)

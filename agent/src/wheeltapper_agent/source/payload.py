"""Reads the samples in a message or a line: JSON, MessagePack or raw numbers, as the configuration says. Pure.

JSON and MessagePack: an object with the samples under ``samples_key`` and, optionally, the time of the first sample
under ``time_key``. If ``samples_key`` is empty, the payload is the samples themselves. Samples are one of

- a number: one sample of one channel;
- a list of numbers: samples of one channel, or of several channels interleaved: a0, b0, a1, b1, …;
- a list of lists: one list for each sample, with a number for each channel;
- an object: for each channel by its name a number, or a list of numbers;
- a list of objects, one for each sample or value, with their own times: see
  :mod:`wheeltapper_agent.source.payload_rows`.

``null`` is a missing sample, and so are ``NaN`` and ``Infinity``, which are not JSON (RFC 8259, 6) but which Python and
C write. Text is refused unless ``numbers_as_text``; ``true`` is always refused, and so is a key that comes twice.

Invariants:
    * Whatever the bytes, :meth:`PayloadReader.read` raises nothing but ``AgentError`` with the code ``source.payload``.
    * A payload is read as a whole or refused as a whole; the error says what it looks like where that is known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.payload_formats import looks_like
from wheeltapper_agent.source.payload_rows import Numbers, Rows, find, is_senml, time_seconds, times_seconds
from wheeltapper_agent.source.stream_config import StreamConfig

__all__ = ["MAX_PAYLOAD_BYTES", "PayloadConfig", "PayloadReader"]

MAX_PAYLOAD_BYTES: Final = 4 * 1024 * 1024
_RAW: Final = {"float32": "f4", "int16": "i2"}
_UTF8_MARK: Final = b"\xef\xbb\xbf"
_NO_NUMBER: Final = re.compile(
    rb'"(?:[^"\\]++|\\.)*+"?|[-+]?\b(?:nan|inf(?:inity)?|ovf|undefined|none)\b(?:\([^)]{0,40}\))?',
    re.DOTALL | re.IGNORECASE,
)
"""A text, or a number that is none, as Python, JavaScript, C's printf and Arduino's Print write it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadConfig(StreamConfig):
    """A signal that comes in payloads."""

    payload: Literal["json", "msgpack", "float32", "int16"] = "json"
    """``float32`` and ``int16`` are raw numbers, interleaved by channel; they carry no time."""
    byte_order: Literal["little", "big"] = "little"
    """Of raw numbers."""
    samples_key: str = "samples"
    """Key of the samples. A dot leads into a nested object (``a.b``), unless there is a key with the dot in it. Empty:
    the payload is the samples."""
    time_key: str = ""
    """Key of the time of the first sample, or of the times of all; empty: payloads carry no time."""
    time_unit: Literal["s", "ms", "us", "ns"] = "s"
    """Of Unix times that are numbers; a text is a time by ISO 8601."""
    numbers_as_text: bool = False
    """Whether ``"1.5"`` is a number."""
    irregular: bool = False
    """Whether samples come at no fixed rate, such as values that are sent when they change; ``sample_rate_hz`` is then
    only the usual one."""

    @property
    def at_no_fixed_rate(self) -> bool:
        """Whether samples come at no fixed rate."""
        return self.irregular


class PayloadReader:
    """Reads the payloads of one source."""

    def __init__(self, config: PayloadConfig) -> None:
        self._config = config
        self._channels = len(config.channels)
        self._numbers = Numbers(config.numbers_as_text)
        self._rows = Rows(config.channels, config.time_key, config.time_unit, self._numbers)
        keys = {part for key in (config.samples_key, config.time_key, *config.channels) for part in key.split(".")}
        keys |= {config.samples_key, config.time_key, *config.channels}
        self._keys = [msgspec.json.encode(key) for key in sorted(keys - {""})]

    def read(self, payload: bytes | bytearray) -> tuple[NDArray[Any], float | NDArray[np.float64] | None]:
        """Return the samples of a payload, and the time of the first one or of each.

        Returns:
            [sample, channel] as received, not scaled; and Unix time in seconds, of the first sample or [sample], or
            None if the payload carries no time.

        Raises:
            AgentError: ``source.payload``.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise _refused(f"it has {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are read")
        config = self._config
        if config.payload in _RAW:
            return self._raw(payload), None
        try:
            decoded = self._json(payload) if config.payload == "json" else msgspec.msgpack.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
            kind = looks_like(payload, config.payload)
            raise _refused(f"it looks like {kind}, which is not {config.payload}" if kind else str(error)) from error
        try:
            return self._content(decoded)
        except (RecursionError, ValueError, OverflowError, TypeError) as error:
            raise _refused(str(error)) from error

    def _json(self, payload: bytes | bytearray) -> Any:
        """Return the value of a JSON text, with None in the place of numbers that are none."""
        if payload.startswith(_UTF8_MARK):
            payload = payload[len(_UTF8_MARK) :]
        try:
            decoded = msgspec.json.decode(payload)
        except msgspec.DecodeError:
            mended = _NO_NUMBER.sub(lambda found: b"null" if found[0][:1] != b'"' else found[0], payload)
            if mended == payload:
                raise
            decoded = msgspec.json.decode(mended)
        self._refuse_twice(decoded, payload)
        return decoded

    def _refuse_twice(self, decoded: Any, payload: bytes | bytearray) -> None:
        """Refuse a key that comes twice in one object: nobody knows which one is meant.

        The decoder keeps the last one. Encoding what it kept shows whether there was another; that is only done where a
        key that matters stands in the payload more often than once.
        """
        for key in self._keys:
            if payload.count(key) > 1 and payload.count(key) > msgspec.json.encode(decoded).count(key):
                raise ValueError(f"the key {key.decode()} comes twice")

    def _raw(self, payload: bytes | bytearray) -> NDArray[Any]:
        """Return the samples of a payload of raw numbers."""
        dtype = np.dtype(_RAW[self._config.payload]).newbyteorder("<" if self._config.byte_order == "little" else ">")
        if kind := looks_like(payload, self._config.payload):
            raise _refused(f"it looks like {kind}, which is not {self._config.payload}")
        if not payload or len(payload) % (dtype.itemsize * self._channels):
            raise _refused(f"{len(payload)} bytes are not whole samples of {self._channels} channels")
        return np.frombuffer(payload, dtype).astype(dtype.newbyteorder("=")).reshape(-1, self._channels)

    def _content(self, decoded: Any) -> tuple[NDArray[np.float64], float | NDArray[np.float64] | None]:
        """Return the samples and times of a decoded payload."""
        config = self._config
        value = find(decoded, config.samples_key)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            samples, times_s = self._rows.read(value)
            if times_s is not None or not config.time_key or is_senml(value):
                return samples, times_s
        else:
            samples = self._samples(value)
        if not config.time_key:
            return samples, None
        stamp = find(decoded, config.time_key)
        if isinstance(stamp, list):
            return samples, times_seconds(stamp, config.time_unit, len(samples))
        return samples, time_seconds(stamp, config.time_unit)

    def _samples(self, value: Any) -> NDArray[np.float64]:
        """Return the samples in ``value``."""
        if isinstance(value, dict):
            columns = [self._numbers.array(find(value, name)) for name in self._config.channels]
            if len({len(column) for column in columns}) != 1:
                raise ValueError("the channels differ in length")
            return np.stack(columns, axis=1)
        if isinstance(value, list) and value and isinstance(value[0], list):
            if any(not isinstance(row, list) or len(row) != self._channels for row in value):
                raise ValueError(f"each sample must have {self._channels} numbers")
            return self._numbers.array([number for row in value for number in row]).reshape(-1, self._channels)
        flat = self._numbers.array(value)
        if len(flat) % self._channels:
            raise ValueError(f"{len(flat)} numbers are not whole samples of {self._channels} channels")
        return flat.reshape(-1, self._channels)


def _refused(why: str) -> AgentError:
    """Return the error for a payload that cannot be read; ``why`` ends the message."""
    return AgentError("source.payload", f"a payload cannot be read: {why[:300]}")

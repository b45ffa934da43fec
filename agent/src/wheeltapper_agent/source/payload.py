"""Reads the samples in a message or a line: JSON, MessagePack or raw numbers, as the configuration says. Pure.

JSON and MessagePack: an object with the samples under ``samples_key`` and, optionally, the time of the first sample
under ``time_key``. If ``samples_key`` is empty, the payload is the samples themselves. Samples are one of

- a number: one sample of one channel;
- a list of numbers: samples of one channel, or of several channels interleaved: a0, b0, a1, b1, …;
- a list of lists: one list for each sample, with a number for each channel;
- an object: for each channel by its name a number, or a list of numbers.

``null`` is a missing sample. Text and ``true`` are refused.

Invariants:
    * Whatever the bytes, :meth:`PayloadReader.read` raises nothing but ``AgentError`` with the code ``source.payload``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.stream_config import StreamConfig

__all__ = ["MAX_PAYLOAD_BYTES", "PayloadConfig", "PayloadReader"]

MAX_PAYLOAD_BYTES: Final = 4 * 1024 * 1024
_RAW: Final = {"float32": "f4", "int16": "i2"}
_PER_SECOND: Final = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_NUMBERS: Final = frozenset({int, float, type(None)})


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadConfig(StreamConfig):
    """A signal that comes in payloads."""

    payload: Literal["json", "msgpack", "float32", "int16"] = "json"
    """``float32`` and ``int16`` are raw numbers, interleaved by channel; they carry no time."""
    byte_order: Literal["little", "big"] = "little"
    """Of raw numbers."""
    samples_key: str = "samples"
    """Key of the samples; a dot leads into a nested object (``a.b``). Empty: the payload is the samples."""
    time_key: str = ""
    """Key of the Unix time of the first sample; empty: payloads carry no time."""
    time_unit: Literal["s", "ms", "us", "ns"] = "s"


class PayloadReader:
    """Reads the payloads of one source."""

    def __init__(self, config: PayloadConfig) -> None:
        self._config = config
        self._channels = len(config.channels)

    def read(self, payload: bytes | bytearray) -> tuple[NDArray[Any], float | None]:
        """Return the samples of a payload, and the time of the first one.

        Returns:
            [sample, channel] as received, not scaled; and Unix time in seconds, or None if the payload carries no time.

        Raises:
            AgentError: ``source.payload``.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise _refused(f"it has {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are read")
        config = self._config
        if config.payload in _RAW:
            return self._raw(payload), None
        try:
            decoded = (msgspec.json if config.payload == "json" else msgspec.msgpack).decode(payload)
            samples = self._samples(_at(decoded, config.samples_key))
            return samples, _seconds(_at(decoded, config.time_key), config.time_unit) if config.time_key else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, OverflowError, TypeError) as error:
            raise _refused(str(error)) from error

    def _raw(self, payload: bytes | bytearray) -> NDArray[Any]:
        """Return the samples of a payload of raw numbers."""
        dtype = np.dtype(_RAW[self._config.payload]).newbyteorder("<" if self._config.byte_order == "little" else ">")
        if not payload or len(payload) % (dtype.itemsize * self._channels):
            raise _refused(f"{len(payload)} bytes are not whole samples of {self._channels} channels")
        return np.frombuffer(payload, dtype).astype(dtype.newbyteorder("=")).reshape(-1, self._channels)

    def _samples(self, value: Any) -> NDArray[np.float64]:
        """Return the samples of a decoded payload."""
        if isinstance(value, dict):
            missing = [name for name in self._config.channels if name not in value]
            if missing:
                raise ValueError(f"channel {missing[0]!r} is missing")
            columns = [_numbers(value[name]) for name in self._config.channels]
            if len({len(column) for column in columns}) != 1:
                raise ValueError("the channels differ in length")
            return np.stack(columns, axis=1)
        if isinstance(value, list) and value and isinstance(value[0], list):
            if any(not isinstance(row, list) or len(row) != self._channels for row in value):
                raise ValueError(f"each sample must have {self._channels} numbers")
            return _numbers([number for row in value for number in row]).reshape(-1, self._channels)
        flat = _numbers(value)
        if len(flat) % self._channels:
            raise ValueError(f"{len(flat)} numbers are not whole samples of {self._channels} channels")
        return flat.reshape(-1, self._channels)


def _numbers(value: Any) -> NDArray[np.float64]:
    """Return a number, or a list of numbers and None, as an array; None becomes NaN."""
    values = value if isinstance(value, list) else [value]
    others = set(map(type, values)) - _NUMBERS
    if others:
        raise ValueError(f"a sample must be a number or null, not {min(kind.__name__ for kind in others)}")
    return np.array(values, dtype=np.float64)  # None becomes NaN


def _at(decoded: Any, key: str) -> Any:
    """Return the value that ``key``, such as ``a.b.c``, names in ``decoded``."""
    for part in key.split(".") if key else ():
        if not isinstance(decoded, dict) or part not in decoded:
            raise ValueError(f"{key!r} is missing")
        decoded = decoded[part]
    return decoded


def _seconds(value: Any, unit: str) -> float:
    """Return a time in seconds."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError("the time must be a number")
    return float(value) / _PER_SECOND[unit]


def _refused(why: str) -> AgentError:
    """Return the error for a payload that cannot be read; ``why`` ends the message."""
    return AgentError("source.payload", f"a payload cannot be read: {why[:300]}")

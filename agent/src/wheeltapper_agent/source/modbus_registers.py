"""Modbus registers: where each channel's value is, what it means, and which registers are read together. Pure.

Source: Modbus Application Protocol V1.1b3, 6.3 and 6.4: at most 125 registers a request.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from wheeltapper_agent.ground.bounds import Bounds, shown
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.physical_value import Reading, physical_reading
from wheeltapper_agent.source.stream_config import FACTOR

__all__ = [
    "MAX_REQUEST_REGISTERS",
    "RegisterConfig",
    "Request",
    "register_reading",
    "register_value",
    "requests_for",
    "split_request",
]

MAX_REQUEST_REGISTERS: Final = 125
_MAX_HOLE_REGISTERS: Final = 8
"""Up to so many unused registers between two used ones are read along, unless the server refuses that."""
_REGISTERS: Final = 65536
_FORMATS: Final = {
    "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q", "float32": "f",
    "float64": "d",
}  # fmt: skip
"""Format of each type for ``struct``."""
_SAME: Final = 1e-6
"""A float that is so near to a missing value, as a share, is that value: 32 bits hold seven digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterConfig:
    """One channel: where its value is, and what it means."""

    name: str
    address: Annotated[int, Bounds(0, _REGISTERS - 1)]
    """From 0, as on the wire: 40001 in a manual is ``table = "holding"``, address 0."""
    table: Literal["holding", "input"] = "holding"
    type: Literal["int16", "uint16", "int32", "uint32", "float32", "int64", "uint64", "float64"] = "int16"
    word_order: Literal["big", "little"] = "big"
    """``big``: the register with the most significant bits comes first."""
    byte_order: Literal["big", "little"] = "big"
    """Within a register; the standard says big."""
    scale: Annotated[float, FACTOR] = 1.0
    """Physical value = (value + offset) * scale."""
    offset: Annotated[float, FACTOR] = 0.0
    unit: str = ""
    device_id: Annotated[int | None, Bounds(0, 255)] = None
    """The unit identifier of this register; None: that of the source."""
    missing_value: Any = None
    """What the device says when it has no value: a number such as -32768 or -9999.0, or a list of numbers. A whole
    number that the type cannot hold is its bits: 0x8000 for int16, 0xFFC00000 for float32."""

    def __post_init__(self) -> None:
        if self.address > _REGISTERS - self.registers or self.scale == 0:
            raise AgentError(
                "config.invalid",
                f"register {self.name}: address must be 0 to {_REGISTERS - self.registers} for {self.type},"
                " and scale not 0",
            )
        for value in self._missing_values:
            if isinstance(value, bool) or not isinstance(value, int | float) or not self._can_be(value):
                raise AgentError(
                    "config.invalid",
                    f"register {self.name}: missing_value cannot be {shown(value)} for {self.type};"
                    " set a number that the register can hold, or a list of such numbers",
                )

    @property
    def registers(self) -> int:
        """Number of registers that hold the value."""
        return struct.calcsize(_FORMATS[self.type]) // 2

    @property
    def _missing_values(self) -> tuple[Any, ...]:
        """The numbers in ``missing_value``."""
        given = self.missing_value
        if given is None:
            return ()
        return tuple(given) if isinstance(given, list | tuple) else (given,)

    def _can_be(self, value: float) -> bool:
        """Whether the register can hold a missing value, as a number or as bits. NaN needs no naming."""
        if self.type.startswith("float") or math.isnan(value):
            return True
        bits = 16 * self.registers
        return float(value).is_integer() and -(2 ** (bits - 1)) <= value < 2**bits

    def is_missing(self, value: float, content: bytes) -> bool:
        """Whether the device says that it has no value.

        Args:
            value: of the registers.
            content: the same as bytes, the most significant one first.
        """
        for each in self._missing_values:
            if value == each or (self.type.startswith("float") and math.isclose(value, each, rel_tol=_SAME)):
                return True
            if isinstance(each, int) and each == int.from_bytes(content, "big"):
                return True
        return False


def register_value(entry: RegisterConfig, registers: Sequence[int]) -> float:
    """Return the physical value in the registers of a channel; NaN if the device says that it has none."""
    return register_reading(entry, registers).value


def register_reading(entry: RegisterConfig, registers: Sequence[int]) -> Reading:
    """Return the physical value in the registers of a channel, or why there is none."""
    words = registers if entry.word_order == "big" else registers[::-1]
    order = ">" if entry.byte_order == "big" else "<"
    content = b"".join(struct.pack(f"{order}H", word) for word in words)
    value = struct.unpack(f">{_FORMATS[entry.type]}", content)[0]
    if entry.is_missing(value, content):
        return Reading(math.nan, f"the device gives {value:.10g}, its missing_value")
    return physical_reading(value, entry.offset, entry.scale)


@dataclass(frozen=True, slots=True)
class Request:
    """Registers that are read together, and the channels whose values are in them."""

    device_id: int
    table: str
    address: int
    count: int
    channels: tuple[int, ...]

    def __str__(self) -> str:
        """Such as ``unit 1, holding registers 0 to 5``."""
        return f"unit {self.device_id}, {self.table} registers {self.address} to {self.address + self.count - 1}"


def requests_for(
    entries: Sequence[RegisterConfig], device_id: int, most: int, hole: int = _MAX_HOLE_REGISTERS,
    channels: Sequence[int] | None = None,
) -> list[Request]:  # fmt: skip
    """Return as few requests as possible that read all channels.

    Args:
        entries: the channels.
        device_id: of the entries that have none.
        most: registers a request.
        hole: most unused registers in a row that are read along.
        channels: indices into ``entries`` of those that are read; None: all.
    """

    def unit(index: int) -> int:
        found = entries[index].device_id
        return device_id if found is None else found

    requests: list[Request] = []
    wanted = range(len(entries)) if channels is None else channels
    for index in sorted(wanted, key=lambda at: (unit(at), entries[at].table, entries[at].address)):
        entry = entries[index]
        end = entry.address + entry.registers
        last = requests[-1] if requests else None
        if last is not None and (last.device_id, last.table) == (unit(index), entry.table):
            near = entry.address <= last.address + last.count + hole
            if near and end - last.address <= most:
                count = max(last.count, end - last.address)
                requests[-1] = Request(last.device_id, last.table, last.address, count, (*last.channels, index))
                continue
        requests.append(Request(unit(index), entry.table, entry.address, entry.registers, (index,)))
    return requests


def split_request(request: Request, entries: Sequence[RegisterConfig]) -> list[Request]:
    """Return the requests to make instead of one that the server refuses (exceptions 2 and 3).

    The first time it is divided where registers are read that no channel needs: the server may not have them. After
    that it is halved: the server may answer fewer at once.

    Returns:
        Empty if it cannot be divided: it reads one channel's value.
    """
    without_holes = requests_for(entries, request.device_id, MAX_REQUEST_REGISTERS, 0, request.channels)
    if len(without_holes) > 1:
        return without_holes
    half = (request.count + 1) // 2
    while half < request.count:
        halves = requests_for(entries, request.device_id, half, 0, request.channels)
        if len(halves) > 1:
            return halves
        half += 1
    return []

"""The kind ``modbus``: registers of a Modbus TCP server, polled at the sample rate.

Registers that lie close together are read in one request (at most 125 registers, Modbus Application Protocol V1.1b3,
6.3 and 6.4), so that the values of a sample are as simultaneous as the server allows.

Invariants:
    * A poll that was missed, or that the server was too busy for (exceptions 4, 5, 6), is a missing sample.
    * A poll that the server refuses for another reason ends the connection, because it would refuse every poll.

What this module does not do: write; read coils; speak Modbus RTU (use a gateway).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from pymodbus.client import ModbusTcpClient
from pymodbus.exceptions import ModbusException

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.base import SourceContext, SourceKind
from wheeltapper_agent.source.polling import PollSchedule, check_poll_rate
from wheeltapper_agent.source.stream import Sink, StreamSource
from wheeltapper_agent.source.stream_config import StreamConfig

__all__ = ["KIND", "ModbusConfig", "ModbusReader", "RegisterConfig", "register_value"]

_MAX_REQUEST_REGISTERS: Final = 125
_MAX_HOLE_REGISTERS: Final = 8
"""Up to so many unused registers between two used ones are read along."""
_PASSING_EXCEPTIONS: Final = frozenset({4, 5, 6})
"""Exception codes that pass: server device failure, acknowledge, server device busy."""
_FORMATS: Final = {
    "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q", "float32": "f",
    "float64": "d",
}  # fmt: skip
"""Format of each type for ``struct``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterConfig:
    """One channel: where its value is, and what it means."""

    name: str
    address: int
    """From 0, as on the wire: 40001 in a manual is ``table = "holding"``, address 0."""
    table: Literal["holding", "input"] = "holding"
    type: Literal["int16", "uint16", "int32", "uint32", "float32", "int64", "uint64", "float64"] = "int16"
    word_order: Literal["big", "little"] = "big"
    """``big``: the register with the most significant bits comes first."""
    byte_order: Literal["big", "little"] = "big"
    """Within a register; the standard says big."""
    scale: float = 1.0
    """Physical value = (value + offset) * scale."""
    offset: float = 0.0
    unit: str = ""
    missing_value: int | None = None
    """A value by which the device says that it has none, such as -32768."""

    @property
    def registers(self) -> int:
        """Number of registers that hold the value."""
        return struct.calcsize(_FORMATS[self.type]) // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ModbusConfig(StreamConfig):
    """A server and its registers. ``channels`` and ``units`` come from ``registers``."""

    kind: Literal["modbus"] = "modbus"
    host: str
    port: int = 502
    device_id: int = 1
    """The unit identifier."""
    timeout_seconds: float = 1.0
    registers: tuple[RegisterConfig, ...]

    def __post_init__(self) -> None:
        if self.scale or self.offset or self.units or self.channels not in (("x",), self._names):
            raise AgentError(
                "config.invalid", "give the names, units, scales and offsets of a Modbus source under registers"
            )
        object.__setattr__(self, "channels", self._names)
        object.__setattr__(self, "units", tuple(entry.unit for entry in self.registers))
        StreamConfig.__post_init__(self)
        for entry in self.registers:
            if not 0 <= entry.address <= 65536 - entry.registers or entry.scale == 0:
                raise AgentError(
                    "config.invalid", f"register {entry.name}: address must be below 65536 and scale not 0"
                )
        if wrong := check_poll_rate(self):
            raise AgentError("config.invalid", wrong)
        if not 0 <= self.device_id <= 255 or not 1 <= self.port <= 65535 or not 0 < self.timeout_seconds <= 60:
            raise AgentError(
                "config.invalid",
                "device_id must be from 0 to 255, port from 1 to 65535, timeout_seconds above 0 and at most 60",
            )

    @property
    def _names(self) -> tuple[str, ...]:
        """Names of the channels."""
        return tuple(entry.name for entry in self.registers)


def register_value(entry: RegisterConfig, registers: Sequence[int]) -> float:
    """Return the physical value in the registers of a channel; NaN if the device says that it has none."""
    words = registers if entry.word_order == "big" else registers[::-1]
    order = ">" if entry.byte_order == "big" else "<"
    content = b"".join(struct.pack(f"{order}H", word) for word in words)
    value = struct.unpack(f">{_FORMATS[entry.type]}", content)[0]
    if entry.missing_value is not None and value == entry.missing_value:
        return math.nan
    return (float(value) + entry.offset) * entry.scale


@dataclass(frozen=True, slots=True)
class _Request:
    """Registers that are read together, and the channels whose values are in them."""

    table: str
    address: int
    count: int
    channels: tuple[int, ...]


def _requests(entries: Sequence[RegisterConfig]) -> list[_Request]:
    """Return as few requests as possible that read all channels."""
    requests: list[_Request] = []
    for index in sorted(range(len(entries)), key=lambda i: (entries[i].table, entries[i].address)):
        entry = entries[index]
        end = entry.address + entry.registers
        if requests and requests[-1].table == entry.table:
            last = requests[-1]
            near = entry.address <= last.address + last.count + _MAX_HOLE_REGISTERS
            if near and end - last.address <= _MAX_REQUEST_REGISTERS:
                count = max(last.count, end - last.address)
                requests[-1] = _Request(last.table, last.address, count, (*last.channels, index))
                continue
        requests.append(_Request(entry.table, entry.address, entry.registers, (index,)))
    return requests


class ModbusReader:
    """Polls one server. A call of :meth:`read` is one connection."""

    def __init__(self, config: ModbusConfig) -> None:
        self._config = config
        self._requests = _requests(config.registers)

    def read(self, sink: Sink) -> None:
        """Implements :meth:`Reader.read <wheeltapper_agent.source.stream.Reader.read>`."""
        config = self._config
        client: Any = ModbusTcpClient(config.host, port=config.port, timeout=config.timeout_seconds, retries=0)
        try:
            if not client.connect():
                raise AgentError("source.unreachable", f"the Modbus server {self._address} does not answer")
            self._poll(client, sink)
        finally:
            client.close()

    def _poll(self, client: Any, sink: Sink) -> None:
        """Push one sample into ``sink`` at each due moment until it is closed."""
        ticks = PollSchedule(sink, self._config.sample_rate_hz)
        sink.connected()
        while not sink.closed.wait(ticks.due_in_seconds()):
            try:
                row = self._sample(client)
            except (ModbusException, OSError) as error:
                raise AgentError(
                    "source.unreachable", f"the connection to the Modbus server {self._address} broke: {error}"
                ) from error
            sink.push(np.array([row]), t_s=ticks.t_s)

    def _sample(self, client: Any) -> list[float]:
        """Return the physical values of all channels; NaN where the server had no value."""
        config = self._config
        row = [math.nan] * len(config.registers)
        for request in self._requests:
            ask = client.read_holding_registers if request.table == "holding" else client.read_input_registers
            answer = ask(request.address, count=request.count, device_id=config.device_id)
            if answer.isError():
                code = getattr(answer, "exception_code", 0)
                if code in _PASSING_EXCEPTIONS:
                    continue
                what = f"{request.table} registers {request.address} to {request.address + request.count - 1}"
                raise AgentError(
                    "source.refused", f"the Modbus server {self._address} refuses {what}: exception code {code}"
                )
            if len(answer.registers) < request.count:
                continue
            for channel in request.channels:
                entry = config.registers[channel]
                first = entry.address - request.address
                row[channel] = register_value(entry, answer.registers[first : first + entry.registers])
        return row

    @property
    def _address(self) -> str:
        """Host and port, for messages."""
        return f"{self._config.host}:{self._config.port}"


def _make(config: ModbusConfig, context: SourceContext) -> StreamSource:
    """Return the source that a configuration describes; ``make`` of :data:`KIND`."""
    return StreamSource(ModbusReader(config), config, context.clock, context.pipeline)


KIND = SourceKind(ModbusConfig, _make)

"""The kind ``modbus``: registers of a Modbus TCP server, polled at the sample rate.

Registers that lie close together are read in one request, so that the values of a sample are as simultaneous as the
server allows; what a server refuses to read at once is read in parts
(:mod:`wheeltapper_agent.source.modbus_registers`).

Invariants:
    * A poll that was missed, or that the server could not answer (exceptions 4, 5, 6, 8, and 10 and 11 of a gateway
      whose unit does not answer), is a missing sample, counted and named. The other requests go on.
    * What the server refuses for another reason ends the connection, because it would be refused at every poll.
    * An answer with another unit, table or number of registers than asked for gives no value.

What this module does not do: write; read coils; speak Modbus RTU (use a gateway).

Source: Modbus Application Protocol V1.1b3, 7: the exceptions.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import numpy as np
from pymodbus.client import ModbusTcpClient
from pymodbus.exceptions import ConnectionException, ModbusException

from wheeltapper_agent.ground.backoff import retry_delay_seconds
from wheeltapper_agent.ground.bounds import Bounds
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.repeated import kind_of
from wheeltapper_agent.source.base import SourceContext, SourceKind
from wheeltapper_agent.source.modbus_registers import (
    MAX_REQUEST_REGISTERS,
    RegisterConfig,
    Request,
    register_reading,
    register_value,
    requests_for,
    split_request,
)
from wheeltapper_agent.source.polling import PollSchedule, check_poll_rate
from wheeltapper_agent.source.stream import Sink, StreamSource
from wheeltapper_agent.source.stream_config import StreamConfig

__all__ = ["KIND", "ModbusConfig", "ModbusReader", "RegisterConfig", "register_value"]

_LOG = logging.getLogger(__name__)
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # it logs each answer that does not come, without end
_ILLEGAL_FUNCTION: Final = 1
_TOO_MUCH: Final = frozenset({2, 3})
"""Illegal data address and value: also for a request that is too long, or that touches what is not there."""
_MEANINGS: Final = {
    1: "illegal function", 2: "illegal data address", 3: "illegal data value", 4: "server device failure",
    5: "acknowledge", 6: "server device busy", 8: "memory parity error", 10: "gateway path unavailable",
    11: "gateway target device failed to respond",
}  # fmt: skip
_PASSING_EXCEPTIONS: Final = frozenset({4, 5, 6, 8, 10, 11})
_REPEATED_EXCEPTIONS: Final = frozenset({4, 5, 6})
"""Worth asking again at once, where samples are far enough apart."""
_REPEATS: Final = 2
_REPEAT_PAUSE_SECONDS: Final = 0.2
_REPEAT_PERIOD_SECONDS: Final = 2.0
"""Least time between two samples for which a request is repeated."""
_REST_FIRST_SECONDS: Final = 1.0
_REST_MAX_SECONDS: Final = 60.0
"""How long a unit that did not answer is left alone, so that the samples of the others come in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModbusConfig(StreamConfig):
    """A server and its registers. ``channels`` and ``units`` come from ``registers``."""

    kind: Literal["modbus"] = "modbus"
    host: str
    port: Annotated[int, Bounds(1, 65535)] = 502
    device_id: Annotated[int, Bounds(0, 255)] = 1
    """The unit identifier of registers that name none."""
    timeout_seconds: Annotated[float, Bounds(0.01, 60, "seconds")] = 1.0
    max_registers: Annotated[int, Bounds(1, MAX_REQUEST_REGISTERS, "registers")] = MAX_REQUEST_REGISTERS
    """Most registers that the server answers in one request; it is also found out by itself."""
    registers: tuple[RegisterConfig, ...]

    def __post_init__(self) -> None:
        if self.scale or self.offset or self.units or self.channels not in (("x",), self._names):
            raise AgentError(
                "config.invalid", "give the names, units, scales and offsets of a Modbus source under registers"
            )
        object.__setattr__(self, "channels", self._names)
        object.__setattr__(self, "units", tuple(entry.unit for entry in self.registers))
        StreamConfig.__post_init__(self)
        if wide := [entry.name for entry in self.registers if entry.registers > self.max_registers]:
            raise AgentError("config.invalid", f"register {wide[0]} has more registers than max_registers allows")
        if not self.host:
            raise AgentError("config.invalid", "host must be the name or the address of the server")
        if wrong := check_poll_rate(self):
            raise AgentError("config.invalid", wrong)

    @property
    def _names(self) -> tuple[str, ...]:
        """Names of the channels."""
        return tuple(entry.name for entry in self.registers)


class ModbusReader:
    """Polls one server. A call of :meth:`read` is one connection."""

    def __init__(self, config: ModbusConfig) -> None:
        self._config = config
        self._requests = requests_for(config.registers, config.device_id, config.max_registers)
        self._units = {request.device_id for request in self._requests}
        self._silent: dict[int, tuple[int, float]] = {}
        """Units that did not answer: how often, and the monotonic time until which they are left alone."""

    def read(self, sink: Sink) -> None:
        """Implements :meth:`Reader.read <wheeltapper_agent.source.stream.Reader.read>`."""
        config = self._config
        client: Any = ModbusTcpClient(config.host, port=config.port, timeout=config.timeout_seconds, retries=0)
        try:
            self._connect(client)
            self._poll(client, sink)
        finally:
            client.close()

    def _connect(self, client: Any) -> None:
        """Make the connection; raise ``source.unreachable`` if that fails."""
        if not client.connect():
            raise AgentError("source.unreachable", f"the Modbus server {self._address} does not answer")

    def _poll(self, client: Any, sink: Sink) -> None:
        """Push one sample into ``sink`` at each due moment until it is closed."""
        ticks = PollSchedule(sink, self._config.sample_rate_hz)
        answered = False
        while not sink.closed.wait(ticks.due_in_seconds()):
            try:
                row, reasons = self._sample(client, sink)
            except (ModbusException, OSError) as error:
                raise AgentError(
                    "source.unreachable", f"the connection to the Modbus server {self._address} broke: {error}"
                ) from error
            if not answered:
                sink.connected()
                answered = True
            sink.missing_values(reasons)
            sink.push(np.array([row]), t_s=ticks.t_s)

    def _sample(self, client: Any, sink: Sink) -> tuple[list[float], dict[str, str]]:
        """Return the physical values of all channels, NaN where the server had no value, and why it had none."""
        row = [math.nan] * len(self._config.registers)
        reasons: dict[str, str] = {}
        waiting = deque(self._requests)
        while waiting:
            request = waiting.popleft()
            found = self._asked(client, request, sink)
            if isinstance(found, list):
                for channel in request.channels:
                    entry = self._config.registers[channel]
                    first = entry.address - request.address
                    read = register_reading(entry, found[first : first + entry.registers])
                    row[channel] = read.value
                    if read.reason:
                        reasons[f"{entry.name} {kind_of(read.reason)}"] = f"{entry.name}: {read.reason}"
            elif found in _TOO_MUCH or found == _ILLEGAL_FUNCTION:
                waiting.extendleft(reversed(self._divided(request, int(found))))
            else:
                reasons[f"{request} {found}"] = f"{request}: {_meaning(found)}"
        return row, reasons

    def _asked(self, client: Any, request: Request, sink: Sink) -> list[int] | int | str:
        """Return the registers; or the exception code of the server; or what is wrong with its answer."""
        again = _REPEATS if self._config.sample_rate_hz * _REPEAT_PERIOD_SECONDS <= 1 else 0
        while True:
            found = self._asked_once(client, request, sink)
            if (
                isinstance(found, list)
                or found not in _REPEATED_EXCEPTIONS
                or not again
                or sink.closed.wait(_REPEAT_PAUSE_SECONDS)
            ):
                return found
            again -= 1

    def _asked_once(self, client: Any, request: Request, sink: Sink) -> list[int] | int | str:
        """As :meth:`_asked`, with one request.

        Raises:
            AgentError, ModbusException, OSError: the connection broke.
        """
        failures, until_s = self._silent.get(request.device_id, (0, 0.0))
        if sink.clock.monotonic() < until_s:
            return "no answer"
        try:
            answer = self._answer(client, request)
        except ModbusException:
            if len(self._units) == 1 or self._units <= {*self._silent, request.device_id}:
                self._silent.clear()
                raise
            rest_s = retry_delay_seconds(failures + 1, 0.5, _REST_FIRST_SECONDS, _REST_MAX_SECONDS)
            self._silent[request.device_id] = (failures + 1, sink.clock.monotonic() + rest_s)
            client.close()  # an answer that comes late must not be taken for the next one
            self._connect(client)
            return "no answer"
        self._silent.pop(request.device_id, None)
        if answer.isError():
            return int(getattr(answer, "exception_code", 0))
        if answer.function_code != (3 if request.table == "holding" else 4):
            return f"an answer with function {answer.function_code}"
        if len(answer.registers) != request.count:
            return f"an answer with {len(answer.registers)} registers instead of {request.count}"
        return list(answer.registers)

    def _answer(self, client: Any, request: Request) -> Any:
        """Return pymodbus's answer; ask once more on a new connection if the server ended the old one, as many do
        after half a minute without a request."""
        ask = client.read_holding_registers if request.table == "holding" else client.read_input_registers
        try:
            return ask(request.address, count=request.count, device_id=request.device_id)
        except (ConnectionException, ConnectionError):
            client.close()
            self._connect(client)
        return ask(request.address, count=request.count, device_id=request.device_id)

    def _divided(self, request: Request, code: int) -> list[Request]:
        """Return the requests to make instead of one that the server refuses, now and from now on.

        Raises:
            AgentError: ``source.refused``: it cannot be divided.
        """
        parts = split_request(request, self._config.registers) if code in _TOO_MUCH else []
        if not parts:
            names = ", ".join(self._config.registers[channel].name for channel in request.channels)
            raise AgentError(
                "source.refused",
                f"the Modbus server {self._address} refuses {request} ({names}): exception {_meaning(code)}",
            )
        _LOG.info("%s: %s are refused at once (%s) and read in %d parts", self._address, request, code, len(parts))
        at = self._requests.index(request)
        self._requests[at : at + 1] = parts
        return parts

    @property
    def _address(self) -> str:
        """Host and port, for messages."""
        return f"{self._config.host}:{self._config.port}"


def _meaning(found: int | str) -> str:
    """Return an exception code with its name, or what is wrong with the answer."""
    return f"{found} ({_MEANINGS.get(found, 'not in the standard')})" if isinstance(found, int) else found


def _make(config: ModbusConfig, context: SourceContext) -> StreamSource:
    """Return the source that a configuration describes; ``make`` of :data:`KIND`."""
    return StreamSource(ModbusReader(config), config, context.clock, context.pipeline)


KIND = SourceKind(ModbusConfig, _make)

"""Registers of a real pymodbus server: types, orders, a server that dies, one that refuses, one that is slow."""

from __future__ import annotations

import math
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.agent.servers import until
from tests.agent.source.rig import concatenated, open_source, running
from tests.agent.source.servers import ModbusServer
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.modbus import ModbusConfig, ModbusReader, RegisterConfig, register_value


def _words(form: str, value: float) -> list[int]:
    content = struct.pack(f">{form}", value)
    return list(struct.unpack(f">{len(content) // 2}H", content))


@pytest.fixture
def server() -> Iterator[ModbusServer]:
    holding = [0] * 300
    holding[0:1] = _words("h", -123)
    holding[1:3] = _words("f", 1.5)
    holding[3:5] = _words("i", -70000)[::-1]
    holding[200:204] = _words("d", math.pi)
    made = ModbusServer(holding, [7, 0x8000, 9])
    yield made
    made.close()


def _source(port: int, registers: str, more: str = "", rate_hz: float = 50) -> str:
    return (
        f"kind = 'modbus'\nhost = '127.0.0.1'\nport = {port}\nsample_rate_hz = {rate_hz}\nwindow_samples = 5\n"
        f"retry_first_seconds = 0.05\nretry_max_seconds = 0.2\ntimeout_seconds = 0.5\nregisters = [{registers}]\n{more}"
    )


ALL = (
    '{ name = "speed", address = 0, scale = 0.1, unit = "Hz" },'
    '{ name = "level", address = 1, type = "float32" },'
    '{ name = "count", address = 3, type = "int32", word_order = "little", offset = 70001 },'
    '{ name = "far", address = 200, type = "float64" },'
    '{ name = "in", address = 0, table = "input", type = "uint16" },'
    '{ name = "none", address = 1, table = "input", missing_value = -32768 },'
)


def test_every_kind_of_register(tmp_path: Path, server: ModbusServer) -> None:
    with running(tmp_path, _source(server.port, ALL)) as taken:
        window = taken.until(2)[1]
        assert taken.source.spec.channels == ("speed", "level", "count", "far", "in", "none")
        assert taken.source.spec.units == ("Hz", "", "", "", "", "")
        expected = np.array([-12.3, 1.5, 1, math.pi, 7, math.nan], np.float32)
        np.testing.assert_allclose(window.samples[-1], expected, rtol=1e-6)


def test_it_samples_at_its_rate_and_follows(tmp_path: Path, server: ModbusServer) -> None:
    with running(tmp_path, _source(server.port, '{ name = "x", address = 0 }')) as taken:
        taken.until(1)
        server.write(0, [55])
        until(lambda: taken.windows[-1].samples[-1, 0] == 55, 10, "the new value")
        steps = np.diff([window.t_s for window in taken.until(4)])
        np.testing.assert_allclose(steps * 10, np.round(steps * 10), atol=1e-3)  # whole hops of the grid


def test_a_server_that_dies_is_found_again(tmp_path: Path, server: ModbusServer) -> None:
    with running(tmp_path, _source(server.port, '{ name = "x", address = 1, type = "float32" }')) as taken:
        taken.until(1)
        server.kill()
        taken.until_state("source.unreachable")
        count = len(taken.windows)
        server.start()
        taken.until_state("running")
        after = taken.until(count + 2)[count:]
        lost = sum(window.gap_samples for window in after) + int(np.isnan(concatenated(after)).sum())
        assert lost > 0
        assert after[-1].samples[-1, 0] == 1.5


@pytest.mark.parametrize(
    "registers", ['{ name = "x", address = 5000 }', '{ name = "x", address = 299, type = "int32" }']
)
def test_registers_that_do_not_exist_are_refused(tmp_path: Path, server: ModbusServer, registers: str) -> None:
    with running(tmp_path, _source(server.port, registers)) as taken:
        taken.until_state("source.refused")


def test_a_server_that_says_nothing_is_unreachable(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        source = _source(listener.getsockname()[1], '{ name = "x", address = 0 }')
        with running(tmp_path, source) as taken:
            taken.until_state("source.unreachable")


def test_a_busy_and_slow_server_gives_missing_samples(tmp_path: Path) -> None:
    """It answers the third request as busy (exception 6) and takes its time for the sixth."""
    pause = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            for number in range(10_000):
                request = connection.recv(12)
                if len(request) < 12:
                    return
                if number == 5:
                    pause.wait(0.25)
                body = b"\x01\x83\x06" if number == 2 else b"\x01\x03\x02" + struct.pack(">h", number)
                connection.sendall(request[:4] + struct.pack(">H", len(body)) + body)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        with running(tmp_path, _source(listener.getsockname()[1], '{ name = "x", address = 0 }', rate_hz=20)) as taken:
            found = concatenated(taken.until(4))[:, 0]
    assert np.flatnonzero(np.isnan(found))[0] == 2
    assert np.isnan(found[3:]).sum() >= 3  # a quarter of a second at 20 Hz
    real = found[np.isfinite(found)]
    assert (np.diff(real) >= 1).all()  # nothing is repeated in the place of what is missing


def test_reads_as_few_blocks_as_there_may_be() -> None:
    registers = tuple(RegisterConfig(name=f"r{at}", address=at) for at in (0, 1, 5, 100, 130, 131, 260))
    inputs = RegisterConfig(name="i", address=2, table="input")
    reader = ModbusReader(ModbusConfig(host="x", sample_rate_hz=1, window_samples=1, registers=(*registers, inputs)))
    blocks = [(block.table, block.address, block.count) for block in reader._requests]
    assert blocks == [
        ("holding", 0, 6), ("holding", 100, 1), ("holding", 130, 2), ("holding", 260, 1), ("input", 2, 1),
    ]  # fmt: skip
    wide = tuple(RegisterConfig(name=f"w{at}", address=at) for at in range(300))
    many = ModbusReader(ModbusConfig(host="x", sample_rate_hz=1, window_samples=1, registers=wide[:64]))
    assert [block.count for block in many._requests] == [64]
    assert max(block.count for block in many._requests) <= 125


@pytest.mark.parametrize("form", ["int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"])
@pytest.mark.parametrize("words", ["big", "little"])
@pytest.mark.parametrize("order", ["big", "little"])
def test_register_orders(form: str, words: str, order: str) -> None:
    value = 0x1234 if "int" in form else 0.15625
    size = {"16": 2, "32": 4, "64": 8}[form[-2:]]
    content = value.to_bytes(size, "big") if isinstance(value, int) else struct.pack(">f" if size == 4 else ">d", value)
    registers = [
        int.from_bytes(content[at : at + 2], "big" if order == "big" else "little") for at in range(0, size, 2)
    ]
    entry = RegisterConfig(name="x", address=0, type=form, word_order=words, byte_order=order)  # type: ignore[arg-type]  # of the parameters above
    assert register_value(entry, registers if words == "big" else registers[::-1]) == value


@pytest.mark.parametrize(
    "more",
    [
        "device_id = 300",
        "channels = ['q']",
        "scale = [1.0]",
        "port = 0",
        "timeout_seconds = 0",
        "sample_rate_hz = 5000",
    ],
)
def test_impossible_configurations(tmp_path: Path, more: str) -> None:
    text = f"kind='modbus'\nhost='x'\nwindow_samples=1\nregisters=[{{ name = 'y', address = 0 }}]\n{more}"
    with pytest.raises(AgentError) as refused:
        open_source(tmp_path, text if "sample_rate" in more else f"sample_rate_hz = 1\n{text}")
    assert refused.value.code == "config.invalid"
    with pytest.raises(AgentError) as refused:
        open_source(tmp_path, "kind='modbus'\nhost='x'\nsample_rate_hz=1\nwindow_samples=1\nregisters=[{nome='y'}]")
    assert refused.value.code == "config.unknown_key"

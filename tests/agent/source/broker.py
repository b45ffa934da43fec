"""A real broker beside the machine, without the fleet's TLS."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.agent.servers import Broker


class PlainBroker(Broker):
    """A Mosquitto without TLS unless ``lines`` says otherwise."""

    def __init__(self, folder: Path, *lines: str) -> None:
        anonymous = () if any("password_file" in line for line in lines) else ("allow_anonymous true",)
        super().__init__(folder, *anonymous, *lines)

    def client(self, username: str = "", password: str = "", ca: Path | None = None) -> paho.Client:
        """A connected publisher."""
        client = paho.Client(CallbackAPIVersion.VERSION2)
        if username:
            client.username_pw_set(username, password)
        if ca:
            client.tls_set(str(ca))
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        return client


class ScriptedBroker:
    """An MQTT 3.1.1 broker that answers nothing but CONNECT and SUBSCRIBE.

    Args:
        judge: gets the client id; returns the code of the CONNACK, or None to close the connection without one.
        granted: QoS that it grants to each subscription.
    """

    def __init__(self, judge: Callable[[str], int | None], granted: int = 0) -> None:
        self.client_ids: list[str] = []
        self._judge, self._granted = judge, granted
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, IndexError, struct.error):
            packet = connection.recv(4096)
            (length,) = struct.unpack(">H", packet[12:14])
            self.client_ids.append(packet[14 : 14 + length].decode())
            code = self._judge(self.client_ids[-1])
            if code is None:
                return
            connection.sendall(bytes([0x20, 2, 0, code]))
            while packet := connection.recv(4096):
                if packet[0] == 0x82:
                    connection.sendall(bytes([0x90, 3, *packet[2:4], self._granted]))
                elif packet[0] == 0xC0:
                    connection.sendall(b"\xd0\x00")

    def __enter__(self) -> ScriptedBroker:
        return self

    def __exit__(self, *_error: object) -> None:
        self._listener.close()

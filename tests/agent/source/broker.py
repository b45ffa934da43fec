"""A real broker beside the machine, without the fleet's TLS."""

from __future__ import annotations

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

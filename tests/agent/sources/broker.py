"""A real broker beside the machine, without the fleet's TLS."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.agent.servers import free_port


class PlainBroker:
    """A Mosquitto without TLS unless ``lines`` says otherwise."""

    def __init__(self, folder: Path, *lines: str) -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        anonymous = "" if any("password_file" in line for line in lines) else "allow_anonymous true\n"
        self._config.write_text(f"listener {self.port} 127.0.0.1\n{anonymous}user root\n" + "\n".join(lines) + "\n")
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["/usr/sbin/mosquitto", "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
                return
            time.sleep(0.05)
        raise AssertionError("mosquitto did not start")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

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

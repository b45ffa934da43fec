"""paho's client with a buffer below it: many packets are read by one call of the socket.

paho reads a packet in three or more calls of ``recv``, each through TLS, and asks ``select`` before each packet. With
thousands of small messages a second that is most of what a message costs.

Invariants:
    * The bytes and their order are those of the socket.
    * When the socket has nothing, ``recv`` says so as the socket would (:class:`ssl.SSLWantReadError`,
      :class:`BlockingIOError`, or empty bytes at its end).
"""

from __future__ import annotations

from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import MQTTErrorCode

__all__ = ["BufferedClient", "BufferedSocket"]

_READ_BYTES: Final = 256 * 1024
_PACKETS: Final = 500
"""Read in a row; then paho looks after what it has to send."""


class BufferedSocket:
    """A socket that reads ahead; everything else is the socket's own."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._buffer = b""
        self._at = 0

    def recv(self, size: int) -> bytes:
        """Up to ``size`` bytes, as :meth:`socket.socket.recv`."""
        if self._at >= len(self._buffer):
            self._buffer, self._at = self._socket.recv(_READ_BYTES), 0
        found: bytes = self._buffer[self._at : self._at + size]
        self._at += len(found)
        return found

    def pending(self) -> int:
        """How many bytes can be read without asking the system."""
        below: int = self._socket.pending() if hasattr(self._socket, "pending") else 0
        return len(self._buffer) - self._at + below

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class BufferedClient(mqtt.Client):
    """paho's client, over a :class:`BufferedSocket`."""

    def _create_socket(self) -> Any:
        return BufferedSocket(super()._create_socket())

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Read what has come, some hundreds of packets at most."""
        for _ in range(_PACKETS):
            result = super().loop_read(max_packets)
            socket: Any = self._sock
            if result != MQTTErrorCode.MQTT_ERR_SUCCESS or socket is None or not socket.pending():
                return result
        return MQTTErrorCode.MQTT_ERR_SUCCESS

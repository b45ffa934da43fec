"""paho's client with a buffer below it: many packets are read in a row.

paho reads a packet in three or more calls of ``recv``, each through TLS, and asks ``select`` before each packet; then
it makes an object of each message and takes four locks around its callback. With thousands of small messages a second
that is most of what a message costs. So what the socket has is read first, until it has no more or the buffer is full.
Messages at QoS 0, which need no answer, are taken out of the buffer here; everything else is paho's.

Invariants:
    * The bytes and their order are those of the socket; messages are passed on in the order in which they came.
    * A packet that is not whole, or that is malformed, is left to paho.
    * When the socket has nothing, ``recv`` says so as the socket would (:class:`ssl.SSLWantReadError`,
      :class:`BlockingIOError`, or empty bytes at its end).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import MQTTErrorCode

__all__ = ["BufferedClient", "BufferedSocket", "published"]

_READ_BYTES: Final = 64 * 1024
_BUFFER_BYTES: Final = 256 * 1024
_PUBLISH_QOS_0: Final = (0x30, 0x31)
"""The first byte of a PUBLISH packet at QoS 0, without and with RETAIN."""
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

    def read_ahead(self) -> None:
        """Read what the socket has, each TLS record by a call of its own, until the buffer is full.

        What the socket says at its end, or of a fault, it says again to :meth:`recv`.
        """
        parts, size = [self._buffer[self._at :]], len(self._buffer) - self._at
        try:
            while size < _BUFFER_BYTES and (part := self._socket.recv(_READ_BYTES)):
                parts.append(part)
                size += len(part)
        except OSError:
            pass  # it has nothing now, or is broken
        self._buffer, self._at = b"".join(parts), 0

    @property
    def ahead(self) -> memoryview:
        """What was read ahead."""
        return memoryview(self._buffer)[self._at :]

    def skip(self, size: int) -> None:
        """Leave out so many bytes of what was read ahead."""
        self._at += size

    def pending(self) -> int:
        """How many bytes can be read without asking the system."""
        below: int = self._socket.pending() if hasattr(self._socket, "pending") else 0
        return len(self._buffer) - self._at + below

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class BufferedClient(mqtt.Client):
    """paho's client, over a :class:`BufferedSocket`.

    ``on_published`` is called with topic and payload of each message at QoS 0, instead of ``on_message``, which may
    get some of them too.
    """

    on_published: Callable[[str, bytes], None] | None = None

    def _create_socket(self) -> Any:
        return BufferedSocket(super()._create_socket())

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Read what has come, some hundreds of packets at most."""
        for _ in range(_PACKETS):
            if self._take_published():
                return MQTTErrorCode.MQTT_ERR_SUCCESS
            result = super().loop_read(max_packets)
            socket: Any = self._sock
            if result != MQTTErrorCode.MQTT_ERR_SUCCESS or socket is None or not socket.pending():
                return result
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _take_published(self) -> bool:
        """Take the messages at QoS 0 that the socket has, if a packet begins; returns whether that was all it had."""
        socket: Any = self._sock
        if self.on_published is None or socket is None or self._in_packet["command"] != 0:
            return False
        socket.read_ahead()
        size, found = published(socket.ahead, of_version_5=self._protocol == mqtt.MQTTv5)
        socket.skip(size)
        for topic, payload in found:
            self.on_published(topic, payload)
        return size > 0 and not socket.pending()


def published(ahead: memoryview, *, of_version_5: bool) -> tuple[int, list[tuple[str, bytes]]]:
    """The messages at QoS 0 that ``ahead`` begins with, as whole packets (OASIS MQTT 3.1.1 and 5.0, 3.3).

    Returns:
        How many bytes they take, and topic and payload of each. It ends before a packet of another kind, one that is
        not whole, and one that is malformed.
    """
    found: list[tuple[str, bytes]] = []
    at, end = 0, len(ahead)
    while at + 2 <= end and ahead[at] in _PUBLISH_QOS_0:
        length, begin = _variable(ahead, at + 1, end)
        stop = begin + length
        if not begin or stop > end or length < 2:
            break
        start = begin + 2 + (ahead[begin] << 8 | ahead[begin + 1])
        topic_end = start
        if of_version_5:
            properties, start = _variable(ahead, start, stop)
            start = start + properties if start else stop + 1
        if start > stop:
            break
        try:
            topic = str(ahead[begin + 2 : topic_end], "utf-8")
        except UnicodeDecodeError:
            break
        found.append((topic, bytes(ahead[start:stop])))
        at = stop
    return at, found


def _variable(ahead: memoryview, at: int, end: int) -> tuple[int, int]:
    """A variable byte integer (MQTT 5.0, 1.5.5) that begins at ``at``, and where it ends; zeros if it is not whole or
    too long."""
    value = shift = 0
    for place in range(at, min(at + 4, end)):
        byte = ahead[place]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place + 1
        shift += 7
    return 0, 0

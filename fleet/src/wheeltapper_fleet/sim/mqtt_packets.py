"""The part of MQTT 3.1.1 that a device needs, from values to bytes and back. Pure.

Source: OASIS Standard MQTT Version 3.1.1; the numbers in the docstrings are its sections. A paho client is a
thread, so it does not do for thousands of devices in one process.

What this module does not do: keep a session. QoS 2 is neither sent nor asked for.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

__all__ = [
    "DISCONNECT",
    "PINGREQ",
    "Connack",
    "MalformedError",
    "Packet",
    "Puback",
    "Publish",
    "Reader",
    "Suback",
    "connect_packet",
    "puback_packet",
    "publish_packet",
    "subscribe_packet",
]

PINGREQ: Final = b"\xc0\x00"
DISCONNECT: Final = b"\xe0\x00"
_MAX_LENGTH: Final = 1024 * 1024


class MalformedError(ValueError):
    """The bytes are no MQTT packet that a server sends to a client."""


@dataclass(frozen=True, slots=True)
class Connack:
    """The server's answer to CONNECT (3.2). ``code`` 0: accepted."""

    code: int


@dataclass(frozen=True, slots=True)
class Publish:
    """A message for the device (3.3)."""

    topic: str
    payload: bytes
    qos: int
    packet_id: int
    retain: bool


@dataclass(frozen=True, slots=True)
class Puback:
    """The server has the message of this packet id (3.4)."""

    packet_id: int


@dataclass(frozen=True, slots=True)
class Suback:
    """The server's answer to SUBSCRIBE (3.9); a code of 128 is a refusal."""

    packet_id: int
    codes: bytes


Packet = Connack | Publish | Puback | Suback


def connect_packet(client_id: str, keepalive_seconds: int, will_topic: str, will: bytes) -> bytes:
    """CONNECT (3.1) with a clean session and a will that is retained, at QoS 1."""
    flags = 0x02 | 0x04 | (1 << 3) | 0x20
    head = _text("MQTT") + bytes((4, flags)) + struct.pack("!H", keepalive_seconds)
    return _packet(0x10, head + _text(client_id) + _text(will_topic) + _block(will))


def subscribe_packet(packet_id: int, topic_filter: str) -> bytes:
    """SUBSCRIBE (3.8) to one filter at QoS 0."""
    return _packet(0x82, struct.pack("!H", packet_id) + _text(topic_filter) + b"\x00")


def publish_packet(topic: str, payload: bytes, packet_id: int, *, retain: bool = False) -> bytes:
    """PUBLISH (3.3) at QoS 1."""
    return _packet(0x32 | retain, _text(topic) + struct.pack("!H", packet_id) + payload)


def puback_packet(packet_id: int) -> bytes:
    """PUBACK (3.4), for a message that came at QoS 1."""
    return b"\x40\x02" + struct.pack("!H", packet_id)


class Reader:
    """Cuts a stream of bytes into packets.

    Example:
        >>> reader = Reader()
        >>> reader.feed(b"\\x20\\x02\\x00")
        []
        >>> reader.feed(b"\\x00")
        [Connack(code=0)]
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that are complete with ``data``.

        Raises:
            MalformedError: the bytes are none; the connection is to be ended (4.8).
        """
        self._buffer += data
        found: list[Packet] = []
        while True:
            head = self._remaining_length()
            if head is None or len(self._buffer) < sum(head):
                return found
            start, length = head
            body = bytes(self._buffer[start : start + length])
            first = self._buffer[0]
            del self._buffer[: start + length]
            packet = _read(first, body)
            if packet is not None:
                found.append(packet)

    def _remaining_length(self) -> tuple[int, int] | None:
        """Where the first packet's body begins and how long it is (2.2.3); None: not known yet."""
        length = 0
        for index in range(1, min(len(self._buffer), 5)):
            digit = self._buffer[index]
            length |= (digit & 0x7F) << (7 * (index - 1))
            if not digit & 0x80:
                if length > _MAX_LENGTH:
                    raise MalformedError(f"a packet of {length} bytes")
                return index + 1, length
        if len(self._buffer) >= 5:
            raise MalformedError("the remaining length has more than four bytes")
        return None


def _read(first: int, body: bytes) -> Packet | None:
    """The packet of which ``first`` is the first byte; None: it says nothing that a device acts on."""
    kind = first >> 4
    try:
        match kind:
            case 2:
                return Connack(body[1])
            case 3:
                return _read_publish(first, body)
            case 4:
                return Puback(*struct.unpack("!H", body))
            case 9:
                return Suback(struct.unpack("!H", body[:2])[0], body[2:])
            case 13:
                return None
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise MalformedError(f"a packet of type {kind} cannot be read: {error}") from error
    raise MalformedError(f"a packet of type {kind}")


def _read_publish(first: int, body: bytes) -> Publish:
    (length,) = struct.unpack("!H", body[:2])
    if len(body) < 2 + length:
        raise MalformedError(f"a topic of {length} bytes in a packet of {len(body)}")
    topic = body[2 : 2 + length].decode()
    qos, at, packet_id = (first >> 1) & 3, 2 + length, 0
    if qos:
        (packet_id,) = struct.unpack("!H", body[at : at + 2])
        at += 2
    return Publish(topic, body[at:], qos, packet_id, bool(first & 1))


def _packet(first: int, body: bytes) -> bytes:
    length, head = len(body), bytearray((first,))
    while True:
        length, digit = divmod(length, 128)
        head.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(head) + body


def _text(text: str) -> bytes:
    return _block(text.encode())


def _block(content: bytes) -> bytes:
    return struct.pack("!H", len(content)) + content

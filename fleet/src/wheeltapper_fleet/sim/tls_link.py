"""One MQTT connection of a simulated device over TLS, on an asyncio loop.

asyncio's own TLS keeps a buffer of 256 KiB for each connection, 2.5 GB for ten thousand devices; here OpenSSL works on
two memory BIOs, which hold what has not been sent or read yet.

What this module does not do: connect again, know what a message means.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, cast

from wheeltapper_fleet.sim.messages import Say
from wheeltapper_fleet.sim.mqtt_packets import (
    DISCONNECT,
    PINGREQ,
    Connack,
    MalformedError,
    Packet,
    Puback,
    Publish,
    Reader,
    Suback,
    connect_packet,
    puback_packet,
    publish_packet,
    subscribe_packet,
)
from wheeltapper_protocols.wire.topics import Up, down_filter, up_prefix, up_topic

__all__ = ["TlsLink"]

_READ_BYTES: Final = 64 * 1024
_REFUSED: Final = 128
KEEPALIVE_SECONDS: Final = 60


class TlsLink(asyncio.Protocol):
    """A connection of ``device``. It ends with ``on_lost``, once, whatever happens.

    Args:
        device: its id, which is the client id.
        will: the payload that the broker publishes as its status when the connection is lost.
        make_tls: makes the client's side of the TLS connection over two BIOs.
        on_ready: the connection stands and is subscribed.
        on_message: called with (topic, payload).
        on_lost: called with the reason.
    """

    __slots__ = (
        "_ended", "_id", "_incoming", "_on_lost", "_on_message", "_on_ready", "_outgoing", "_prefix", "_reader",
        "_shaken", "_tls", "_transport", "_will", "device", "pubacks", "sent",
    )  # fmt: skip

    def __init__(
        self,
        device: str,
        will: bytes,
        make_tls: Callable[[ssl.MemoryBIO, ssl.MemoryBIO], ssl.SSLObject],
        on_ready: Callable[[], None],
        on_message: Callable[[str, bytes], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self.device, self._will = device, will
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = make_tls(self._incoming, self._outgoing)
        self._on_ready, self._on_message, self._on_lost = on_ready, on_message, on_lost
        self._reader = Reader()
        self._prefix = up_prefix(device)
        self._transport: asyncio.Transport | None = None
        self._shaken = self._ended = False
        self._id = 0
        self.sent = self.pubacks = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._transport = cast("asyncio.Transport", transport)
        self._work()

    def data_received(self, data: bytes) -> None:
        """Bytes came from the broker."""
        self._incoming.write(data)
        self._work()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._lose(type(exc).__name__ if exc is not None else "closed")

    def publish(self, said: Say) -> None:
        """Publish at QoS 1."""
        self._id = self._id % 65_535 + 1
        self.sent += 1
        self._write(publish_packet(self._prefix + said.kind.value, said.payload, self._id, retain=said.retain))

    def ping(self) -> None:
        """Keep the connection alive."""
        self._write(PINGREQ)

    def cut(self) -> None:
        """End the connection without a word, as a cable does: the broker publishes the will."""
        if self._transport is not None:
            self._transport.abort()
        self._lose("cut")

    def leave(self) -> None:
        """End the connection cleanly: there will be no will."""
        self._write(DISCONNECT)
        if self._transport is not None:
            self._transport.close()

    def _work(self) -> None:
        """Bring the handshake on, or read what came."""
        try:
            if not self._shaken:
                self._tls.do_handshake()
                self._shaken = True
                topic = up_topic(self.device, Up.STATUS)
                self._tls.write(connect_packet(self.device, KEEPALIVE_SECONDS, topic, self._will))
            while True:
                data = self._tls.read(_READ_BYTES)
                if not data:
                    break
                for packet in self._reader.feed(data):
                    self._on_packet(packet)
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLError, MalformedError) as error:
            self._flush()
            self._fail(f"{type(error).__name__}: {error}")
            return
        self._flush()

    def _on_packet(self, packet: Packet) -> None:
        match packet:
            case Connack(code=0):
                self._write(subscribe_packet(1, down_filter(self.device)))
            case Connack(code=code):
                self._fail(f"refused with code {code}")
            case Suback(codes=codes):
                if any(code >= _REFUSED for code in codes):
                    self._fail("the subscription was refused")
                else:
                    self._id = 1
                    self._on_ready()
            case Publish(qos=qos, packet_id=packet_id) as message:
                if qos:
                    self._write(puback_packet(packet_id))
                self._on_message(message.topic, message.payload)
            case Puback():
                self.pubacks += 1

    def _write(self, data: bytes) -> None:
        if self._ended or not self._shaken:
            return
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            self._fail(f"{type(error).__name__}: {error}")
            return
        self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending and self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._outgoing.read())

    def _fail(self, reason: str) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._lose(reason)

    def _lose(self, reason: str) -> None:
        if not self._ended:
            self._ended = True
            self._on_lost(reason)

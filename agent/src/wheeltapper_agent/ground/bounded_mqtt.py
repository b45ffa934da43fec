"""An MQTT client that never holds a packet above a size limit, whatever the broker sends, and whose thread sleeps while
there is nothing to do.

With MQTT 5 the client tells the broker its Maximum Packet Size (OASIS MQTT 5.0, section 3.1.2.11.4), and the broker
does not send larger packets. MQTT 3.1.1 has no such property, and paho would read a packet of any size: there the
connection is closed as soon as the length of a packet is known to exceed the limit.
"""

from __future__ import annotations

from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

__all__ = ["BoundedClient"]

_SLEEP_SECONDS: Final = 5.0
"""Packets wake the thread. It wakes by itself only to keep the connection alive, for which this is often enough."""


class BoundedClient(paho.Client):
    """A paho client with a size limit for packets that it receives.

    Args:
        args, options: as for :class:`paho.mqtt.client.Client`.
        max_packet_bytes: the limit.
    """

    def __init__(self, *args: Any, max_packet_bytes: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._max_packet_bytes = max_packet_bytes
        self.too_large_bytes = 0
        """Length of the packet for which the connection was closed; 0 if there was none."""

    def connect_bounded(self, host: str, port: int, keepalive: int) -> None:
        """Connect, and tell a broker that speaks MQTT 5 the size limit.

        Args:
            host: name or address of the broker.
            port: its TCP port.
            keepalive: seconds.

        Raises:
            OSError, ValueError: no connection was made.
        """
        properties = None
        if self.protocol == MQTTProtocolVersion.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's is not typed
            properties.MaximumPacketSize = self._max_packet_bytes
        self.connect(host, port, keepalive=keepalive, properties=properties)

    def loop_forever(self, timeout: float = _SLEEP_SECONDS, retry_first_connection: bool = False) -> MQTTErrorCode:
        """As paho's method, but with a longer timeout: paho's own thread wakes once a second."""
        return super().loop_forever(timeout, retry_first_connection)

    def _sock_recv(self, bufsize: int) -> bytes:
        if bufsize > self._max_packet_bytes:  # paho asks for the whole rest of a packet
            self.too_large_bytes = bufsize
            raise ConnectionError(f"the broker sends a packet of {bufsize} bytes, more than {self._max_packet_bytes}")
        return super()._sock_recv(bufsize)

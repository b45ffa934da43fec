"""An MQTT client that never holds a packet above a bound, whatever the broker sends, and that sleeps while nothing is
to be done.

MQTT 5's Maximum Packet Size (OASIS MQTT 5.0, 3.1.2.11.4) asks the broker to leave larger ones out. MQTT 3.1.1 has no
such word, and paho reads whatever is announced: there the connection is dropped as soon as the length is known.
"""

from __future__ import annotations

from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

__all__ = ["BoundedClient"]

_SLEEP_SECONDS: Final = 5.0
"""What is sent or comes in wakes the thread; it looks by itself for the keepalive alone, which is far longer."""


class BoundedClient(paho.Client):
    """As paho's; see there for all other arguments.

    Args:
        max_packet_bytes: of a packet that comes in.
    """

    def __init__(self, *args: Any, max_packet_bytes: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._max_packet_bytes = max_packet_bytes
        self.too_large_bytes = 0
        """Length of the packet for which the connection was dropped."""

    def connect_bounded(self, host: str, port: int, keepalive: int) -> None:
        """As ``connect``; with MQTT 5 the broker is told the bound.

        Raises:
            OSError, ValueError: there is no connection.
        """
        properties = None
        if self.protocol == MQTTProtocolVersion.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's is not typed
            properties.MaximumPacketSize = self._max_packet_bytes
        self.connect(host, port, keepalive=keepalive, properties=properties)

    def loop_forever(self, timeout: float = _SLEEP_SECONDS, retry_first_connection: bool = False) -> MQTTErrorCode:
        """As paho's, whose own thread wakes each second."""
        return super().loop_forever(timeout, retry_first_connection)

    def _sock_recv(self, bufsize: int) -> bytes:
        if bufsize > self._max_packet_bytes:  # paho asks for all that is left of a packet
            self.too_large_bytes = bufsize
            raise ConnectionError(f"the broker sends a packet of {bufsize} bytes")
        return super()._sock_recv(bufsize)

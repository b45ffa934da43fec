"""The fleet's own MQTT connection: says things to devices, hears what they say.

Invariants: :meth:`FleetLink.publish` never blocks and may be called from any thread; the link comes back by itself
after the broker does; what arrives is handed on as bytes, unread.

What this module does not do: remember what could not be sent. Assignments, commands and acks are all said again by
their owners when a device says where it stands.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from wheeltapper_fleet.broker.auth import FLEET_CLIENT_ID
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.topics import ALL_UP

__all__ = ["FleetLink"]

_LOG: Final = logging.getLogger(__name__)
OnMessage = Callable[[str, bytes], None]


class FleetLink:
    """One mutually authenticated MQTT connection.

    Args:
        certificate, key: PEM files of the fleet's client certificate (CN ``fleet.ingest``). ca: PEM of the fleet's CA.
    """

    def __init__(self, *, host: str, port: int, ca: Path, certificate: Path, key: Path) -> None:
        self._address = (host, port)
        self._connected = threading.Event()
        self._subscribed = threading.Event()
        self.on_message: OnMessage = lambda topic, payload: None
        self.on_connected: list[Callable[[], None]] = []
        context = ssl.create_default_context(cafile=str(ca))
        context.load_cert_chain(str(certificate), str(key))
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=FLEET_CLIENT_ID, protocol=mqtt.MQTTv311)
        client.tls_set_context(context)
        client.reconnect_delay_set(min_delay=1, max_delay=2)
        client.max_queued_messages_set(20_000)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        self._client = client

    @property
    def connected(self) -> bool:
        """Whether the broker is reached now."""
        return self._connected.is_set()

    def start(self, timeout_seconds: float = 15.0) -> None:
        """Connect, subscribe, and wait until both are done.

        Raises:
            FleetError: ``broker.link_failed``.
        """
        self._client.connect_async(*self._address, keepalive=30)
        self._client.loop_start()
        if not self._subscribed.wait(timeout_seconds):
            self.stop()
            raise FleetError("broker.link_failed", "the fleet could not connect to its broker", 500)

    def stop(self) -> None:
        """Disconnect; done when the network thread is gone."""
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: bytes | str, retain: bool = False, qos: int | None = None) -> None:
        """Say something. Retained messages go at QoS 1, others at QoS 0, unless ``qos`` says otherwise."""
        self._client.publish(topic, payload, qos=(1 if retain else 0) if qos is None else qos, retain=retain)

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            _LOG.warning("the broker refuses the fleet: %s", reason)
            return
        self._connected.set()
        client.subscribe(ALL_UP, qos=0)

    def _on_subscribe(self, _client: Any, _data: Any, _mid: Any, codes: Any, _properties: Any) -> None:
        if any(code.is_failure for code in codes):
            _LOG.error("the broker refuses the fleet's subscription")
            return
        self._subscribed.set()
        for callback in self.on_connected:
            try:
                callback()
            except Exception:  # noqa: BLE001  # the network thread must live
                _LOG.exception("a callback on connection failed")

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._connected.clear()
        _LOG.info("the link to the broker ended: %s", reason)

    def _on_message(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        try:
            self.on_message(message.topic, bytes(message.payload))
        except Exception:  # noqa: BLE001  # the network thread must live
            _LOG.exception("a message could not be handed on")

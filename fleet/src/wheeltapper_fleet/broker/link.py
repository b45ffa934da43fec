"""The fleet's own MQTT connection: publishes messages to devices and receives theirs.

Invariants:
    * :meth:`FleetLink.publish` never blocks and may be called from any thread.
    * The connection is restored automatically after the broker restarted.
    * Received messages are passed on as bytes; they are not decoded here.

What this module does not do: store messages that could not be sent. The senders of assignments, commands and acks
publish them again when a device reports its status.
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

from wheeltapper_fleet.broker.permissions import FLEET_CLIENT_ID
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.topics import ALL_UP_FILTER

__all__ = ["FleetLink"]

_LOG: Final = logging.getLogger(__name__)
OnMessage = Callable[[str, bytes], None]


class FleetLink:
    """One MQTT connection over mutual TLS.

    Set :attr:`on_message` and append to :attr:`on_connected` before :meth:`start`. Both are called on the MQTT client's
    thread and must return quickly.

    Args:
        host, port: the broker's MQTT listener.
        ca: PEM file of the fleet's CA.
        certificate, key: PEM files of the service's own client certificate and its key.
    """

    def __init__(self, *, host: str, port: int, ca: Path, certificate: Path, key: Path) -> None:
        self._address = (host, port)
        self._connected = threading.Event()
        self._subscribed = threading.Event()
        self.on_message: OnMessage = lambda topic, payload: None
        self.on_connected: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._stopped = False
        self._client = self._make_client(ca, certificate, key)

    def _make_client(self, ca: Path, certificate: Path, key: Path) -> mqtt.Client:
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
        return client

    @property
    def connected(self) -> bool:
        """Whether the connection to the broker is up."""
        return self._connected.is_set()

    def start(self, timeout_seconds: float = 15.0) -> None:
        """Connect, subscribe to all devices' messages, and wait until the broker confirmed both.

        Raises:
            FleetError: ``broker.link_failed``.
        """
        self._client.connect_async(*self._address, keepalive=30)
        self._client.loop_start()
        if not self._subscribed.wait(timeout_seconds):
            self.stop()
            raise FleetError(
                "broker.link_failed",
                "the fleet service could not connect to its broker; see nats.log in the broker's folder",
                500,
            )

    def renew(self, *, ca: Path, certificate: Path, key: Path) -> None:
        """Connect anew with another certificate.

        What devices send meanwhile is not acknowledged, so they send it again; what they are to hear is published again
        when the connection stands.

        Args:
            ca, certificate, key: PEM files, as for the first connection.

        Raises:
            OSError: the files cannot be used; the connection stays as it is.
        """
        client = self._make_client(ca, certificate, key)
        with self._lock:
            if self._stopped:
                return
            before, self._client = self._client, client
            before.disconnect()
            before.loop_stop()
            client.connect_async(*self._address, keepalive=30)
            client.loop_start()

    def stop(self) -> None:
        """Disconnect and wait for the client's thread to end."""
        with self._lock:
            self._stopped = True
            self._client.disconnect()
            self._client.loop_stop()

    def publish(self, topic: str, payload: bytes | str, retain: bool = False, qos: int | None = None) -> None:
        """Publish a message, at QoS 1 if it is retained and at QoS 0 if not, unless ``qos`` is given."""
        self._client.publish(topic, payload, qos=(1 if retain else 0) if qos is None else qos, retain=retain)

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            _LOG.warning("the broker refused the fleet's own connection: %s", reason)
            return
        self._connected.set()
        client.subscribe(ALL_UP_FILTER, qos=0)

    def _on_subscribe(self, _client: Any, _data: Any, _mid: Any, codes: Any, _properties: Any) -> None:
        if any(code.is_failure for code in codes):
            _LOG.error("the broker refused the fleet's own subscription")
            return
        self._subscribed.set()
        for callback in self.on_connected:
            try:
                callback()
            except Exception:  # noqa: BLE001  # an error must not end the client's thread
                _LOG.exception("a callback after connecting to the broker failed")

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._connected.clear()
        _LOG.info("the connection to the broker ended: %s", reason)

    def _on_message(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        try:
            self.on_message(message.topic, bytes(message.payload))
        except Exception:  # noqa: BLE001  # an error must not end the client's thread
            _LOG.exception("a received message could not be passed to the ingest")

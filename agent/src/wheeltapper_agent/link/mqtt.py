"""The connection to the broker: MQTT over mutual TLS 1.2 or later; MQTT 5, or 3.1.1 where the broker does not speak 5.

Invariants:
    * It publishes only below the device's own ``up/``, and subscribes to its own ``down/+`` at QoS 0 with a clean
      session.
    * The will says that the device is offline.
    * A lost or refused connection is tried again for ever. The wait grows up to a maximum, with jitter, and is reset
      only by a connection that stood for a while.
    * An exception in ``on_connected`` ends the connection: a device that seems connected also receives.
    * A packet larger than the protocol allows is never held in memory.

Not done here: what the payloads mean; what must be sent again (:mod:`wheeltapper_agent.records.delivery`).
"""

from __future__ import annotations

import logging
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from wheeltapper_agent.ground.bounded_mqtt import BoundedClient
from wheeltapper_protocols.wire.codec import MAX_PAYLOAD_BYTES, encode
from wheeltapper_protocols.wire.messages import Status
from wheeltapper_protocols.wire.topics import Down, Up, down_filter, down_topic, up_topic

__all__ = ["BrokerAddress", "Link", "tls_context"]

_LOG = logging.getLogger(__name__)
_CONNECT_SECONDS: Final = 15.0
_KEEPALIVE_SECONDS: Final = 30
_MAX_PACKET_BYTES: Final = MAX_PAYLOAD_BYTES + 64 * 1024
"""A payload together with topic and properties."""
_STOOD_SECONDS: Final = 30.0
"""After a connection that stood so long, the next attempt comes soon. A broker that accepts connections and then drops
them is tried with growing waits."""
_THREAD_CHECK_SECONDS: Final = 5.0
"""How often it is checked that the thread of a connection still runs."""
_VERSIONS: Final = (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311)


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """The broker's address, and the device's id and TLS files."""

    device: str
    host: str
    port: int
    ca: Path
    certificate: Path
    key: Path


def tls_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """A TLS client context that trusts only ``ca`` and presents the device's certificate."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(str(certificate), str(key))
    return context


class Link:
    """Keeps one connection to the broker. The callbacks run in the connection's thread and must be quick.

    Args:
        address: the broker and the device's identity.
        on_connected: called when the connection stands and the subscription is made.
        on_message: called with the kind and the payload of each message for this device.
        reconnect_max_seconds: longest wait between two attempts.
        instance: of the agent, for the will.
    """

    def __init__(
        self,
        address: BrokerAddress,
        on_connected: Callable[[], None],
        on_message: Callable[[Down, bytes], None],
        reconnect_max_seconds: float = 10.0,
        instance: str | None = None,
    ) -> None:
        self._address = address
        self._on_connected = on_connected
        self._on_message = on_message
        self._reconnect_max_seconds = reconnect_max_seconds
        self._kinds = {down_topic(address.device, kind): kind for kind in Down}
        self._client: BoundedClient | None = None
        self._up = threading.Event()
        self._ended = threading.Event()
        self._stopping = threading.Event()
        self._reader: threading.Thread | None = None
        """The thread of the connection, known from its first callback on."""
        self._version = 0
        self._instance = instance
        self.disconnects: Counter[str] = Counter()
        """How often a connection ended that stood, or was refused, since the start, by stable code."""
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    @property
    def connected(self) -> bool:
        """Whether the connection stands, as far as is known, and the subscription is made."""
        return self._up.is_set()

    @property
    def protocol(self) -> str:
        """The version of MQTT that is in use, or that the next attempt uses: ``5`` or ``3.1.1``."""
        return "5" if _VERSIONS[self._version] is MQTTProtocolVersion.MQTTv5 else "3.1.1"

    def alive(self) -> bool:
        """Whether the thread runs, or was told to end."""
        return self._thread.is_alive() or self._stopping.is_set()

    def start(self) -> None:
        """Start the thread that connects."""
        self._thread.start()

    def publish(self, kind: Up, payload: bytes, retain: bool = False) -> bool:
        """Publish at QoS 1, without waiting for the broker.

        Args:
            kind: names the topic below the device's own ``up/``.
            payload: of the message.
            retain: whether the broker keeps it for later subscribers.

        Returns:
            False if there is no connection. True does not mean that the broker has the message.
        """
        client = self._client
        if client is None or not self._up.is_set():
            return False
        info = client.publish(up_topic(self._address.device, kind), payload, qos=1, retain=retain)
        return bool(info.rc == paho.MQTT_ERR_SUCCESS)

    def stop(self, last_status: bytes | None = None, timeout_seconds: float = 3.0) -> None:
        """Publish ``last_status``, disconnect and end the thread.

        Args:
            last_status: says that the device is offline; after a clean end the broker does not publish the will.
            timeout_seconds: for the status, and again for the thread.
        """
        self._stopping.set()
        client = self._client
        if client is not None and self._up.is_set():
            if last_status is not None:
                info = client.publish(up_topic(self._address.device, Up.STATUS), last_status, qos=1, retain=True)
                try:
                    info.wait_for_publish(timeout_seconds)
                except (RuntimeError, ValueError) as error:
                    _LOG.info("mqtt: the last status was not sent: %s", error)
            client.disconnect()
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=timeout_seconds)

    def _make_client(self) -> BoundedClient:
        client = BoundedClient(
            CallbackAPIVersion.VERSION2,
            max_packet_bytes=_MAX_PACKET_BYTES,
            client_id=self._address.device,
            protocol=_VERSIONS[self._version],
            clean_session=None if _VERSIONS[self._version] is MQTTProtocolVersion.MQTTv5 else True,
            reconnect_on_failure=False,
        )
        client.tls_set_context(tls_context(self._address.ca, self._address.certificate, self._address.key))
        will = encode(Status(online=False, instance=self._instance))
        client.will_set(up_topic(self._address.device, Up.STATUS), will, qos=1, retain=True)
        client.max_inflight_messages_set(100)
        client.connect_timeout = 10.0
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._subscribed
        client.on_message = self._message
        return client

    def _connected(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            _LOG.warning("mqtt.refused: the broker refused the connection: %s", reason)
            self._ended.set()
            return
        client.subscribe(down_filter(self._address.device), qos=0)

    def _subscribed(self, client: paho.Client, _data: Any, _mid: Any, reasons: Any, _properties: Any) -> None:
        if client is not self._client or self._stopping.is_set():
            return
        if any(reason.is_failure for reason in reasons):
            _LOG.error("mqtt.subscription: the broker refused the device's own topics: %s", reasons)
            self._ended.set()
            return
        self._reader = threading.current_thread()
        self._up.set()
        _LOG.info("mqtt: connected to %s:%d, MQTT %s", self._address.host, self._address.port, self.protocol)
        try:
            self._on_connected()
        except Exception:  # noqa: BLE001  # else this thread would end, and the device would receive nothing
            _LOG.exception("mqtt: the work after connecting failed; the connection is made again")
            self._ended.set()

    def _disconnected(self, client: paho.Client, _data: Any, _flags: Any, _reason: Any, _properties: Any) -> None:
        if client is self._client:
            self._ended.set()

    def _message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        kind = self._kinds.get(message.topic)
        if kind is None:
            return
        try:
            self._on_message(kind, bytes(message.payload))
        except Exception:  # noqa: BLE001  # no payload may end the connection
            _LOG.exception("mqtt: a %s could not be handled", kind.value)

    def _attempt(self) -> bool:
        """Connect, and stay until the connection ends; returns whether it stood for a while."""
        client = self._client = self._make_client()
        self._ended.clear()
        if self._stopping.is_set():
            return False
        try:
            client.connect_bounded(self._address.host, self._address.port, _KEEPALIVE_SECONDS)
        except (OSError, ValueError) as error:
            _LOG.info("mqtt: no connection to %s:%d: %s", self._address.host, self._address.port, error)
            return False
        client.loop_start()
        try:
            waited = 0.0
            while not self._up.is_set() and not self._ended.is_set() and waited < _CONNECT_SECONDS:
                waited += 0.0 if self._up.wait(0.05) else 0.05
            if not self._up.is_set():
                # No answer to CONNECT that paho understands: perhaps the broker does not speak this version.
                self._version = (self._version + 1) % len(_VERSIONS)
                return False
            up_at = time.monotonic()
            while not self._ended.wait(_THREAD_CHECK_SECONDS):
                if self._reader is not None and not self._reader.is_alive():
                    _LOG.error("mqtt: the thread of the connection ended; the connection is made again")
                    break
            if client.too_large_bytes:
                _LOG.warning(
                    "mqtt.too_large: the broker sent a packet of %d bytes; the connection was closed",
                    client.too_large_bytes,
                )
            return time.monotonic() - up_at >= _STOOD_SECONDS
        finally:
            self._up.clear()
            client.disconnect()
            client.loop_stop()

    def _run(self) -> None:
        """The thread: one connection after the other, with waits in between."""
        failures = 0
        while not self._stopping.is_set():
            version = self._version
            try:
                stood = self._attempt()
            except Exception:  # noqa: BLE001  # the next attempt must come, whatever happened
                _LOG.exception("mqtt: the attempt to connect failed")
                stood = False
            failures = 0 if stood else failures + 1
            fell_back = self._version != version and failures == 1
            delay = 0.05 if fell_back else min(self._reconnect_max_seconds, 0.25 * 2 ** min(failures, 10))
            self._stopping.wait(delay * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, not a secret

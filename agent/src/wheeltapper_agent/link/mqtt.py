"""The connection to the broker: MQTT over mutual TLS 1.2 or later, MQTT 5 first, 3.1.1 where the broker does not
speak it.

Invariants: publishes only below the device's own ``up/``; subscribes to its own ``down/+`` at QoS 0 with a clean
session; the will says
that the device is offline; a lost or refused connection is tried again for ever, with capped backoff and jitter that
only a connection which stood for a while resets; what ``on_connected`` raises ends the connection, so that a device
that seems connected hears what comes down; no packet above the protocol's cap is held.

Not done here: what the payloads mean; what must be sent again (:mod:`delivery`).
"""

from __future__ import annotations

import logging
import random
import ssl
import threading
import time
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
"""With topic and properties."""
_STOOD_SECONDS: Final = 30.0
"""A connection that stood so long was good: the next attempt comes at once. A broker that accepts and then drops is
not tried in a loop."""
_LOOK_SECONDS: Final = 5.0
"""How often is asked whether the thread of a connection still runs."""
_VERSIONS: Final = (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311)


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where the broker is and how the device shows who it is."""

    device: str
    host: str
    port: int
    ca: Path
    certificate: Path
    key: Path


def tls_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """A client context that trusts ``ca`` alone and presents the device's certificate."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(str(certificate), str(key))
    return context


class Link:
    """Keeps one connection. Callbacks run in the connection's thread and must be quick.

    Args:
        address: the broker and the device's identity.
        on_connected: called after each subscription was made.
        on_message: called with the kind and the payload of what came down.
        reconnect_max_seconds: cap of the backoff.
    """

    def __init__(
        self,
        address: BrokerAddress,
        on_connected: Callable[[], None],
        on_message: Callable[[Down, bytes], None],
        reconnect_max_seconds: float = 10.0,
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
        """The thread of the connection, once it has said something."""
        self._version = 0
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    @property
    def connected(self) -> bool:
        """Whether the broker accepted the connection and it still stands, as far as is known."""
        return self._up.is_set()

    @property
    def protocol(self) -> str:
        """The version of MQTT in use or tried next: ``5`` or ``3.1.1``."""
        return "5" if _VERSIONS[self._version] is MQTTProtocolVersion.MQTTv5 else "3.1.1"

    def alive(self) -> bool:
        """Whether the thread runs, or was stopped."""
        return self._thread.is_alive() or self._stopping.is_set()

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def publish(self, kind: Up, payload: bytes, retain: bool = False) -> bool:
        """Hand ``payload`` to the connection at QoS 1; False if there is none. True does not say that it arrived."""
        client = self._client
        if client is None or not self._up.is_set():
            return False
        info = client.publish(up_topic(self._address.device, kind), payload, qos=1, retain=retain)
        return bool(info.rc == paho.MQTT_ERR_SUCCESS)

    def stop(self, last_status: bytes | None = None, timeout_seconds: float = 3.0) -> None:
        """Say ``last_status`` (a clean end does not fire the will), disconnect and end the thread."""
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

    def _make(self) -> BoundedClient:
        client = BoundedClient(
            CallbackAPIVersion.VERSION2,
            max_packet_bytes=_MAX_PACKET_BYTES,
            client_id=self._address.device,
            protocol=_VERSIONS[self._version],
            clean_session=None if _VERSIONS[self._version] is MQTTProtocolVersion.MQTTv5 else True,
            reconnect_on_failure=False,
        )
        client.tls_set_context(tls_context(self._address.ca, self._address.certificate, self._address.key))
        client.will_set(up_topic(self._address.device, Up.STATUS), encode(Status(online=False)), qos=1, retain=True)
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
        except Exception:  # noqa: BLE001  # else this thread ends, and with it whatever comes down
            _LOG.exception("mqtt: the connection could not be taken up")
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
        except Exception:  # noqa: BLE001  # the connection must outlive whatever a payload does
            _LOG.exception("mqtt: a %s could not be handled", kind.value)

    def _attempt(self) -> bool:
        """One connection from beginning to end; returns whether it stood for a while."""
        client = self._client = self._make()
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
                # No answer to CONNECT that we can read: perhaps a broker that does not speak this version.
                self._version = (self._version + 1) % len(_VERSIONS)
                return False
            up_at = time.monotonic()
            while not self._ended.wait(_LOOK_SECONDS):
                if self._reader is not None and not self._reader.is_alive():
                    _LOG.error("mqtt: the thread of the connection ended")
                    break
            if client.too_large_bytes:
                _LOG.warning("mqtt.too_large: the broker sent a packet of %d bytes", client.too_large_bytes)
            return time.monotonic() - up_at >= _STOOD_SECONDS
        finally:
            self._up.clear()
            client.disconnect()
            client.loop_stop()

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            version = self._version
            try:
                stood = self._attempt()
            except Exception:  # noqa: BLE001  # whatever the network does, the next attempt must come
                _LOG.exception("mqtt: the attempt to connect failed")
                stood = False
            failures = 0 if stood else failures + 1
            fell_back = self._version != version and failures == 1
            delay = 0.05 if fell_back else min(self._reconnect_max_seconds, 0.25 * 2 ** min(failures, 10))
            self._stopping.wait(delay * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, not a secret

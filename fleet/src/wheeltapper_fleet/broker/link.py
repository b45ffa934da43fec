"""The fleet's own MQTT connection: publishes messages to devices and receives theirs.

Invariants:
    * :meth:`FleetLink.publish` never blocks and may be called from any thread.
    * The connection is restored automatically after the broker restarted; of a cluster, at the next node.
    * Received messages are passed on as bytes; they are not decoded here. Their topics are those that devices publish
      to, whichever partition they came by.

What this module does not do: store messages that could not be sent. The senders of assignments, commands and acks
publish them again when a device reports its status.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from wheeltapper_fleet.broker.buffered_client import BufferedClient
from wheeltapper_fleet.broker.partitions import STATUS_FILTER, device_topic, is_mine, partition_filter
from wheeltapper_fleet.broker.permissions import FLEET_CLIENT_ID
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.topics import ALL_UP_FILTER

__all__ = ["SHARED_UP_FILTER", "FleetLink"]

_LOG: Final = logging.getLogger(__name__)
OnMessage = Callable[[str, bytes], None]
SHARED_UP_FILTER: Final = f"$share/wheeltapper/{ALL_UP_FILTER}"
"""Shares what devices send among the processes that subscribe to it (OASIS MQTT 5.0, 4.8.2)."""
_RETAINED_SECONDS: Final = 10.0
"""How long after its subscription a broker sends retained messages at most."""
_VERSIONS: Final = {5: (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311), 3: (MQTTProtocolVersion.MQTTv311,)}
_UNSUPPORTED_VERSION: Final = 132
"""Reason code "Unsupported Protocol Version" (OASIS MQTT 5.0, 3.2.2.2)."""


class FleetLink:
    """One MQTT connection over mutual TLS.

    Set :attr:`on_message` and append to :attr:`on_connected` before :meth:`start`. Both are called on the MQTT client's
    thread and must return quickly.

    Args:
        host, port: the broker's MQTT listener.
        ca: PEM file of the fleet's CA.
        certificate, key: PEM files of this process's own client certificate and its key.
        others: host and port of the listeners of the cluster's other nodes.
        client_id: belongs to the certificate (:func:`permissions.client_id_of`).
        filters: what is subscribed to; empty: this process only publishes.
        partitions: those that are subscribed to instead (:mod:`partitions`).
        retained: what is subscribed to for as long as retained messages come: a shared subscription gets none.
        newest_mqtt: 5 where the broker may speak it (else 3.1.1 is tried), 3 where it does not.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        ca: Path,
        certificate: Path,
        key: Path,
        others: Sequence[tuple[str, int]] = (),
        client_id: str = FLEET_CLIENT_ID,
        filters: Sequence[str] = (ALL_UP_FILTER,),
        partitions: Collection[int] | None = None,
        retained: str = "",
        newest_mqtt: int = 3,
    ) -> None:
        self._addresses = ((host, port), *others)
        self._client_id = client_id
        self._partitions = partitions
        self._filters = set(filters) if partitions is None else _filters_of(partitions)
        self._retained = retained
        self._versions = _VERSIONS[newest_mqtt]
        self._version = self._place = 0
        self._connected = threading.Event()
        self._subscribed = threading.Event()
        self.on_message: OnMessage = lambda topic, payload: None
        self.on_connected: list[Callable[[], None]] = []
        self._told = False
        self._lock = threading.Lock()
        self._subscribing = threading.Lock()
        """Another one: whoever holds the first may wait for the client's thread, which takes this one."""
        self._stopped = False
        self._timer: threading.Timer | None = None
        self._files = ca, certificate, key
        self._client = self._make_client()

    def _make_client(self) -> mqtt.Client:
        ca, certificate, key = self._files
        context = ssl.create_default_context(cafile=str(ca))
        context.load_cert_chain(str(certificate), str(key))
        version = self._versions[self._version]
        client = BufferedClient(CallbackAPIVersion.VERSION2, client_id=self._client_id, protocol=version)
        client.tls_set_context(context)
        client.reconnect_delay_set(min_delay=1, max_delay=2)
        client.max_queued_messages_set(20_000)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = lambda _client, _data, message: self._received(message.topic, bytes(message.payload))
        client.on_published = self._received
        return client

    @property
    def connected(self) -> bool:
        """Whether the connection to the broker is up."""
        return self._connected.is_set()

    @property
    def protocol(self) -> str:
        """The version of MQTT that is in use: ``5`` or ``3.1.1``."""
        return "5" if self._versions[self._version] is MQTTProtocolVersion.MQTTv5 else "3.1.1"

    def start(self, timeout_seconds: float = 15.0) -> None:
        """Connect, subscribe to what devices send, and wait until the broker confirmed both.

        Raises:
            FleetError: ``broker.link_failed``.
        """
        self._begin(self._client)
        ready = self._subscribed if self._filters else self._connected
        if not ready.wait(timeout_seconds):
            self.stop()
            raise FleetError(
                "broker.link_failed",
                f"the fleet service could not connect to its broker at {self._where()}; see the broker's log",
                500,
            )

    def take(self, partitions: Collection[int]) -> None:
        """From now on receive what is of these partitions, and nothing else. May be called from any thread.

        Every status comes again, as the broker retains it: those of new partitions were left to another process.
        """
        with self._subscribing:
            before, self._filters, self._partitions = self._filters, _filters_of(partitions), frozenset(partitions)
            if self._connected.is_set():
                added = (self._filters - before) | {STATUS_FILTER}
                self._client.subscribe([(each, 0) for each in sorted(added)])
                if gone := before - self._filters:
                    self._client.unsubscribe(sorted(gone))

    def renew(self, *, ca: Path, certificate: Path, key: Path) -> None:
        """Connect anew with another certificate.

        What devices send meanwhile is not acknowledged, so they send it again; what they are to hear is published again
        when the connection stands.

        Args:
            ca, certificate, key: PEM files, as for the first connection.

        Raises:
            OSError: the files cannot be used; the connection stays as it is.
        """
        before_files, self._files = self._files, (ca, certificate, key)
        try:
            client = self._make_client()
        except OSError:
            self._files = before_files
            raise
        self._replace(client)

    def stop(self) -> None:
        """Disconnect and wait for the client's thread to end."""
        with self._lock:
            self._stopped = True
            if self._timer is not None:
                self._timer.cancel()
            self._client.disconnect()
            self._client.loop_stop()

    def publish(self, topic: str, payload: bytes | str, retain: bool = False, qos: int | None = None) -> None:
        """Publish a message, at QoS 1 if it is retained and at QoS 0 if not, unless ``qos`` is given."""
        self._client.publish(topic, payload, qos=(1 if retain else 0) if qos is None else qos, retain=retain)

    def _where(self) -> str:
        return ", ".join(f"{host}:{port}" for host, port in self._addresses)

    def _begin(self, client: mqtt.Client) -> None:
        host, port = self._addresses[self._place]
        client.connect_async(host, port, keepalive=30)
        client.loop_start()

    def _replace(self, client: mqtt.Client) -> None:
        """Connect with another client instead of the present one, whose thread is not the caller."""
        with self._lock:
            if self._stopped:
                return
            before, self._client = self._client, client
            before.disconnect()
            before.loop_stop()
            self._connected.clear()
            self._begin(client)

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            if reason.value == _UNSUPPORTED_VERSION and self._version + 1 < len(self._versions):
                self._fall_back()
                return
            _LOG.warning("the broker refused the fleet's own connection: %s", reason)
            return
        with self._subscribing:
            self._connected.set()
            if self._filters:
                client.subscribe([(each, 0) for each in sorted(self._filters)])
            if self._retained:
                client.subscribe(self._retained, qos=0)
                self._timer = threading.Timer(_RETAINED_SECONDS, client.unsubscribe, (self._retained,))
                self._timer.daemon = True
                self._timer.start()
        if not self._filters:
            self._tell()

    def _fall_back(self) -> None:
        """Connect with the older version from now on."""
        self._version += 1
        _LOG.info("the broker does not speak MQTT 5; MQTT %s is used", self.protocol)
        threading.Thread(target=lambda: self._replace(self._make_client()), name="fleet-link", daemon=True).start()

    def _on_subscribe(self, _client: Any, _data: Any, _mid: Any, codes: Any, _properties: Any) -> None:
        if any(code.is_failure for code in codes):
            _LOG.error("the broker refused the fleet's own subscription")
            return
        self._subscribed.set()
        if not self._told:
            self._tell()

    def _tell(self) -> None:
        """Say that the connection stands, once for each connection."""
        self._told = True
        for callback in self.on_connected:
            try:
                callback()
            except Exception:  # noqa: BLE001  # an error must not end the client's thread
                _LOG.exception("a callback after connecting to the broker failed")

    def _on_connect_fail(self, client: mqtt.Client, _data: Any) -> None:
        self._next_node(client)

    def _on_disconnect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._connected.clear()
        self._told = False
        if client is self._client and not self._stopped:
            _LOG.info("the connection to the broker ended: %s", reason)
            self._next_node(client)

    def _next_node(self, client: mqtt.Client) -> None:
        """Let the client try the next node of the cluster."""
        if len(self._addresses) > 1 and not self._stopped:
            self._place = (self._place + 1) % len(self._addresses)
            client.connect_async(*self._addresses[self._place], keepalive=30)

    def _received(self, topic: str, payload: bytes) -> None:
        try:
            if self._partitions is None or is_mine(topic, self._partitions):
                self.on_message(device_topic(topic), payload)
        except Exception:  # noqa: BLE001  # an error must not end the client's thread
            _LOG.exception("a received message could not be passed to the ingest")


def _filters_of(partitions: Collection[int]) -> set[str]:
    return {STATUS_FILTER, *map(partition_filter, partitions)}

"""The connection to the broker: MQTT over mutual TLS 1.2 or later; MQTT 5, or 3.1.1 where the broker does not speak 5.

Invariants:
    * It publishes only below the device's own ``up/``, and subscribes to its own ``down/+`` at QoS 0 with a clean
      session.
    * The will says that the device is offline.
    * A lost or refused connection is tried again for ever, of a cluster at the next node. The wait grows up to a
      maximum, with jitter, and is reset only by a connection that stood for a while. It grows longest where the broker
      refuses the device, which is revoked or unknown until somebody does something about it.
    * What goes wrong again and again is logged once, then with a count. That a broker speaks MQTT 3.1.1 only is no
      fault.
    * An exception in ``on_connected`` ends the connection: a device that seems connected also receives.
    * A packet larger than the protocol allows is never held in memory.
    * What the broker has not acknowledged is bounded (:mod:`wheeltapper_agent.link.unacknowledged`): beyond that
      :meth:`Link.publish` returns False, and a broker that acknowledges nothing for a minute is left.
    * Why a connection ended is counted, logged and shown (:mod:`wheeltapper_agent.link.disconnects`).

Not done here: what the payloads mean; what must be sent again (:mod:`wheeltapper_agent.records.delivery`).
"""

from __future__ import annotations

import logging
import random
import ssl
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from wheeltapper_agent.ground.bounded_mqtt import BoundedClient
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.repeated import RepeatedFaults
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.link.disconnects import TAKEN_OVER, disconnect_code, disconnect_text
from wheeltapper_agent.link.unacknowledged import MAX_MESSAGES, Unacknowledged
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
_REFUSED_MAX_SECONDS: Final = 600.0
"""Longest wait between two attempts while the broker refuses the device."""
_TAKEN_OVER_SECONDS: Final = 5.0
_TAKEN_OVER_MAX_SECONDS: Final = 600.0
"""First and longest wait after another agent with the same identity took over the connection. One that stood for as
long as the latter begins anew."""
_SOON_ENDED: Final = 5
_SOON_ENDED_MAX_SECONDS: Final = 60.0
"""Longest wait after so many connections in a row that ended soon: many brokers do not say that another agent took
over."""
_OVER_WHEN_CONNECTED: Final = ("mqtt.refused", "mqtt.subscription", "mqtt.unreachable", "mqtt.no_answer")
_UNSUPPORTED_VERSION: Final = 132
"""Reason code "Unsupported Protocol Version" (OASIS MQTT 5.0, 3.2.2.2); paho gives it for code 1 of MQTT 3.1.1 too."""
_VERSIONS: Final = (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311)


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """The broker's address, and the device's id and TLS files; ``others`` are the other nodes of a cluster."""

    device: str
    host: str
    port: int
    ca: Path
    certificate: Path
    key: Path
    others: tuple[tuple[str, int], ...] = ()


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
        reconnect_max_seconds: longest wait between two attempts, unless the broker refuses the device, or another agent
            has the same identity.
        clock: measures how long a fault lasts.
        instance: of the agent, for the will.
    """

    def __init__(
        self,
        address: BrokerAddress,
        on_connected: Callable[[], None],
        on_message: Callable[[Down, bytes], None],
        reconnect_max_seconds: float = 10.0,
        clock: Clock | None = None,
        instance: str | None = None,
    ) -> None:
        self._address = address
        self._on_connected = on_connected
        self._on_message = on_message
        self._reconnect_max_seconds = reconnect_max_seconds
        self._nodes = ((address.host, address.port), *address.others)
        self._node = zlib.crc32(address.device.encode()) % len(self._nodes)
        """Which one is tried next; devices begin at different ones."""
        self._kinds = {down_topic(address.device, kind): kind for kind in Down}
        self._client: BoundedClient | None = None
        self._up = threading.Event()
        self._ended = threading.Event()
        self._stopping = threading.Event()
        self._reader: threading.Thread | None = None
        """The thread of the connection, known from its first callback on."""
        self._version = 0
        self._clock = clock or SystemClock()
        self._faults = RepeatedFaults(_LOG, self._clock)
        self._instance = instance
        self.disconnects: Counter[str] = Counter()
        """How often a connection could not be made or ended, since the start, by stable code."""
        self._end: tuple[str, str] | None = None
        """Code and reason of the end of the present connection."""
        self._soon_ended = self._takeovers = 0
        """How many connections in a row ended soon, and because another agent took over."""
        self.unacknowledged = Unacknowledged()
        self._refusal: int | None = None
        """Reason code with which the broker refused the attempt under way."""
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
            False if there is no connection, or too much is on its way already. True does not mean that the broker has
            the message.
        """
        client, waiting = self._client, self.unacknowledged
        if client is None or not self._up.is_set() or not waiting.has_room(len(payload)):
            return False
        info = client.publish(up_topic(self._address.device, kind), payload, qos=1, retain=retain)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            return False
        waiting.add(info.mid, len(payload), self._clock.monotonic())
        return True

    def reconnect(self) -> None:
        """End the connection and make it anew, with the certificate that the device has by now."""
        self._ended.set()

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
        client.max_inflight_messages_set(MAX_MESSAGES)
        client.max_queued_messages_set(2 * MAX_MESSAGES)
        waiting = self.unacknowledged = Unacknowledged()
        clock = self._clock

        def published(_client: paho.Client, _data: Any, number: int, _reason: Any, _properties: Any) -> None:
            waiting.acknowledged(number, clock.monotonic())

        client.on_publish = published
        client.connect_timeout = 10.0
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._subscribed
        client.on_message = self._message
        return client

    def _connected(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._refusal = reason.value
            if reason.value == _UNSUPPORTED_VERSION and client.protocol == MQTTProtocolVersion.MQTTv5:
                _LOG.debug("mqtt: the broker does not speak MQTT 5; MQTT 3.1.1 is tried")
            else:
                what = f"mqtt.refused: the broker refuses this device ({reason}): ask the fleet whether it is revoked"
                self._count("mqtt.refused", what)
            self._ended.set()
            return
        client.subscribe(down_filter(self._address.device), qos=0)

    def _subscribed(self, client: paho.Client, _data: Any, _mid: Any, reasons: Any, _properties: Any) -> None:
        if client is not self._client or self._stopping.is_set():
            return
        if any(reason.is_failure for reason in reasons):
            what = f"mqtt.subscription: the broker refused the device's own topics: {reasons}"
            self._count("mqtt.subscription", what, logging.ERROR)
            self._ended.set()
            return
        self._reader = threading.current_thread()
        self._up.set()
        for kind in _OVER_WHEN_CONNECTED:
            self._faults.ended(kind)
        _LOG.info("mqtt: connected to %s:%d, MQTT %s", *self._nodes[self._node], self.protocol)
        try:
            self._on_connected()
        except Exception:  # noqa: BLE001  # else this thread would end, and the device would receive nothing
            _LOG.exception("mqtt: the work after connecting failed; the connection is made again")
            self._ended.set()

    def _disconnected(self, client: paho.Client, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
        if client is self._client:
            if self._end is None:
                self._end = disconnect_code(reason.value, flags.is_disconnect_packet_from_server), str(reason)
            self._ended.set()

    def _count(self, code: str, text: str, level: int = logging.WARNING) -> None:
        """Count a connection that could not be made or ended, and log it."""
        self.disconnects[code] += 1
        self._faults.happened(text, code, level)

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
        self._refusal = self._end = None
        if self._stopping.is_set():
            return False
        try:
            client.connect_bounded(*self._nodes[self._node], _KEEPALIVE_SECONDS)
        except (OSError, ValueError) as error:
            where = ":".join(map(str, self._nodes[self._node]))
            self._count("mqtt.unreachable", f"mqtt: no connection to {where}: {error}", logging.INFO)
            return False
        client.loop_start()
        try:
            waited = 0.0
            while not self._up.is_set() and not self._ended.is_set() and waited < _CONNECT_SECONDS:
                waited += 0.0 if self._up.wait(0.05) else 0.05
            if not self._up.is_set():
                self._not_up()
                return False
            up_at = time.monotonic()
            while not self._ended.wait(_THREAD_CHECK_SECONDS):
                if self._reader is not None and not self._reader.is_alive():
                    _LOG.error("mqtt: the thread of the connection ended; the connection is made again")
                    break
                if self.unacknowledged.overdue(self._clock.monotonic()):
                    self._end = "mqtt.unacknowledged", f"{self.unacknowledged.messages} messages wait"
                    break
            return self._ended_after(time.monotonic() - up_at, client.too_large_bytes)
        finally:
            self._up.clear()
            client.disconnect()
            client.loop_stop()

    def _ended_after(self, seconds: float, too_large_bytes: int) -> bool:
        """Count and log the end of a connection that stood for ``seconds``; return whether that was for a while."""
        code, reason = self._end or ("mqtt.lost", "")
        if too_large_bytes:
            code, reason = "mqtt.too_large", f"{too_large_bytes} bytes"
        stood = seconds >= _STOOD_SECONDS and code != "mqtt.unacknowledged"
        self._soon_ended = 0 if stood else self._soon_ended + 1
        if code == TAKEN_OVER:
            self._takeovers += 1
        elif seconds >= _TAKEN_OVER_MAX_SECONDS:
            self._takeovers = 0
        if not self._stopping.is_set():
            self._count(code, disconnect_text(code, reason, self._soon_ended))
        return stood

    def _not_up(self) -> None:
        """The attempt failed after the TLS handshake: decide which version the next one uses."""
        if self._refusal not in (None, _UNSUPPORTED_VERSION):
            return
        if self._refusal is None and not self._stopping.is_set():
            self._count("mqtt.no_answer", "mqtt: the broker ended the connection without an answer", logging.INFO)
        # No answer that paho understands may also mean that the broker does not speak this version.
        self._version = (self._version + 1) % len(_VERSIONS)

    def _run(self) -> None:
        """The thread: one connection after the other, with waits in between."""
        failures = refusals = 0
        while not self._stopping.is_set():
            version = self._version
            try:
                stood = self._attempt()
            except Exception:  # noqa: BLE001  # the next attempt must come, whatever happened
                _LOG.exception("mqtt: the attempt to connect failed")
                stood = False
            failures = 0 if stood else failures + 1
            if self._refusal != _UNSUPPORTED_VERSION:
                self._node = (self._node + 1) % len(self._nodes)
            if self._version > version and (failures == 1 or self._refusal == _UNSUPPORTED_VERSION):
                delay = 0.05
            else:
                # A broker that just started may refuse everybody for some seconds, so only refusals in a row count.
                refused = self._refusal not in (None, _UNSUPPORTED_VERSION)
                refusals = refusals + 1 if refused else 0
                longest = _REFUSED_MAX_SECONDS if refused else self._reconnect_max_seconds
                if self._soon_ended >= _SOON_ENDED:
                    longest = max(longest, _SOON_ENDED_MAX_SECONDS)
                delay = min(longest, 0.25 * 2 ** min(refusals or failures, 12))
            if (
                self._end is not None and self._end[0] == TAKEN_OVER
            ):  # else two devices would push each other out for ever
                delay = max(
                    delay, min(_TAKEN_OVER_MAX_SECONDS, _TAKEN_OVER_SECONDS * 2 ** min(self._takeovers - 1, 10))
                )
            self._stopping.wait(delay * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, not a secret

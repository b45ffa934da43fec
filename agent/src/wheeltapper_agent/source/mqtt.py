"""The kind ``mqtt``: payloads of a topic on a broker near the machine.

Invariants:
    * The connection is the source's own, never the agent's to the fleet. Its session is clean: the broker keeps nothing
      for it.
    * The password comes from a file that only its owner can read.
    * No packet above the cap is held in memory.
    * A retained payload without a time is left out: its age is unknown, and it comes again with each connection.
    * The client id is the same at each connection, and another for each device and pipeline.

What this module does not do: receive what was published while it was away; subscribe to several topics for one pipeline
(samples of two topics have no common order).
"""

from __future__ import annotations

import hashlib
import platform
import ssl
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from wheeltapper_agent.ground.bounded_mqtt import BoundedClient
from wheeltapper_agent.ground.bounds import Bounds
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.base import SourceContext, SourceKind
from wheeltapper_agent.source.payload import MAX_PAYLOAD_BYTES, PayloadConfig, PayloadReader
from wheeltapper_agent.source.secret_file import check_private, read_secret
from wheeltapper_agent.source.stream import Sink, StreamSource

__all__ = ["KIND", "MqttConfig", "MqttReader", "default_client_id"]

_KEEPALIVE_SECONDS: Final = 10
_CONNECT_SECONDS: Final = 10.0
_WAIT_SECONDS: Final = 0.2
_MAX_PACKET_BYTES: Final = MAX_PAYLOAD_BYTES + 128 * 1024
"""A payload with its topic and properties."""
_MACHINE_ID: Final = Path("/etc/machine-id")
_CLIENT_ID_LETTERS: Final = 23
"""Every broker takes an id of so many letters and digits (OASIS MQTT 3.1.1, 3.1.3.1)."""
_MAX_CLIENT_ID_BYTES: Final = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttConfig(PayloadConfig):
    """A topic, and how to reach its broker."""

    kind: Literal["mqtt"] = "mqtt"
    host: str = "127.0.0.1"
    port: Annotated[int, Bounds(1, 65535)] = 1883
    topic: str
    qos: Annotated[int, Bounds(0, 1)] = 0
    protocol: Literal["3.1.1", "5"] = "3.1.1"
    client_id: str = ""
    """Empty: letters and digits that are made of the device, the state folder and the pipeline."""
    username: str = ""
    password_file: Path | None = None
    tls: bool = False
    ca_file: Path | None = None
    """Certificates of the authorities that may have signed the broker's; None: those of the system."""
    certificate_file: Path | None = None
    key_file: Path | None = None

    def __post_init__(self) -> None:
        PayloadConfig.__post_init__(self)
        if not self.topic or any(sign in self.topic for sign in "+#\0"):
            raise AgentError(
                "config.invalid",
                f"topic cannot be {self.topic[:80]!r}; set one topic without wildcards, since the samples of two topics"
                " have no common order",
            )
        if not self.host:
            raise AgentError("config.invalid", "host must be the name or the address of the broker")
        if len(self.client_id.encode()) > _MAX_CLIENT_ID_BYTES or not self.client_id.isprintable():
            raise AgentError("config.invalid", f"client_id must be a text of at most {_MAX_CLIENT_ID_BYTES} bytes")
        if (self.ca_file or self.certificate_file or self.key_file) and not self.tls:
            raise AgentError("config.invalid", "ca_file, certificate_file and key_file need tls = true")
        if (self.certificate_file is None) != (self.key_file is None):
            raise AgentError("config.invalid", "certificate_file and key_file belong together")


class MqttReader:
    """Reads one topic. A call of :meth:`read` is one connection.

    Args:
        config: of the source.
        client_id: for a configuration that names none.
    """

    def __init__(self, config: MqttConfig, client_id: str) -> None:
        self._config = config
        self._payloads = PayloadReader(config)
        self._client_id = config.client_id or client_id

    def read(self, sink: Sink) -> None:
        """Implements :meth:`Reader.read <wheeltapper_agent.source.stream.Reader.read>`."""
        refused: list[AgentError] = []
        ended: list[str] = []
        client = self._client(sink, refused, ended)
        where = f"{self._config.host}:{self._config.port}"
        try:
            client.connect_bounded(self._config.host, self._config.port, _KEEPALIVE_SECONDS)
        except (OSError, ValueError) as error:
            raise AgentError("source.unreachable", f"the broker {where} cannot be reached: {error}") from error
        deadline_s = sink.clock.monotonic() + _CONNECT_SECONDS
        try:
            while not sink.closed.is_set():
                code = client.loop(_WAIT_SECONDS)
                if refused:
                    raise refused[0]
                if client.too_large_bytes:
                    sink.malformed_payloads += 1
                    text = f"it has {client.too_large_bytes} bytes; at most {MAX_PAYLOAD_BYTES} are read"
                    raise AgentError("source.payload", f"a payload cannot be read: {text}")
                if code != paho.MQTT_ERR_SUCCESS:
                    raise self._broken(where, paho.error_string(code), ended)
                if sink.heard_at_s is None and sink.clock.monotonic() > deadline_s:
                    raise AgentError(
                        "source.unreachable", f"the broker {where} did not answer within {_CONNECT_SECONDS:g} s"
                    )
        finally:
            client.disconnect()

    def _broken(self, where: str, what: str, said: list[str]) -> AgentError:
        """Return the error for a connection that ended.

        Args:
            where: address of the broker.
            what: paho's word for it.
            said: what the broker said: first that it accepts the connection, then why it ended it.
        """
        if not said:
            return AgentError(
                "source.refused",
                f"the broker {where} closed the connection without an answer; check client_id (it is"
                f" {self._client_id!r}), user and certificate",
            )
        why = ", ".join(said[1:]) or what.rstrip(".")
        return AgentError(
            "source.unreachable",
            f"the connection to the broker {where} broke: {why}; if that repeats, another client may have the"
            f" client_id {self._client_id!r}",
        )

    def _client(self, sink: Sink, refused: list[AgentError], said: list[str]) -> BoundedClient:
        """Return a client that is set up but not connected.

        It appends to ``refused`` what the broker refuses, and to ``said`` what :meth:`_broken` wants to know.
        """
        config = self._config
        five = config.protocol == "5"
        client = BoundedClient(
            CallbackAPIVersion.VERSION2,
            max_packet_bytes=_MAX_PACKET_BYTES,
            client_id=self._client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
            clean_session=None if five else True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _CONNECT_SECONDS
        if config.username or config.password_file:
            password = read_secret(config.password_file) if config.password_file else None
            client.username_pw_set(config.username, password)
        if config.tls:
            client.tls_set_context(_tls_context(config))

        def on_connect(_client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            if reason.is_failure:
                text = f"the broker refuses the connection: {reason} (client_id is {self._client_id!r})"
                refused.append(AgentError("source.refused", text))
            else:
                said.append("accepted")
                client.subscribe(config.topic, qos=config.qos)

        def on_subscribe(_client: paho.Client, _data: Any, _mid: Any, reasons: Any, _properties: Any) -> None:
            if any(reason.is_failure for reason in reasons):
                refused.append(AgentError("source.refused", f"the broker refuses the topic {config.topic}"))
            else:
                sink.connected()
                if (granted := min(reason.value for reason in reasons)) < config.qos:
                    sink.warn(f"the broker grants QoS {granted} for {config.topic}, not {config.qos}")

        def on_disconnect(_client: paho.Client, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
            if flags.is_disconnect_packet_from_server:
                said.append(f"the broker ended it: {reason}")

        def on_message(_client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
            try:
                samples, t_s = self._payloads.read(message.payload)
            except AgentError as error:
                sink.refuse(error)
                return
            if message.retain and t_s is None:
                sink.lost(f"the retained payload of {config.topic} has no time and is left out; set time_key")
            else:
                sink.push(samples, t_s)

        client.on_connect, client.on_subscribe = on_connect, on_subscribe
        client.on_disconnect, client.on_message = on_disconnect, on_message
        return client


def default_client_id(pipeline: str, state_dir: Path) -> str:
    """Return the client id of a pipeline: the same at each start, and another on each device.

    A broker ends the older one of two connections with one id. A fresh id at each connection would leave sessions
    behind, and no policy of a broker could name it.

    Args:
        pipeline: its name.
        state_dir: of the agent, of which one machine may run several.
    """
    try:
        machine = _MACHINE_ID.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        machine = ""
    parts = (machine or f"{uuid.getnode():x}", platform.node(), str(state_dir.absolute()), pipeline)
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()
    return f"wt{digest}"[:_CLIENT_ID_LETTERS]


def _tls_context(config: MqttConfig) -> ssl.SSLContext:
    """Return the TLS context: TLS 1.2 or later, with the broker's name checked."""
    try:
        context = ssl.create_default_context(cafile=str(config.ca_file) if config.ca_file else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if config.certificate_file and config.key_file:
            check_private(config.key_file)
            context.load_cert_chain(config.certificate_file, config.key_file)
    except (OSError, ssl.SSLError) as error:
        raise AgentError("source.secret", f"the certificates for the broker cannot be read: {error}") from error
    return context


def _make(config: MqttConfig, context: SourceContext) -> StreamSource:
    """Return the source that a configuration describes; ``make`` of :data:`KIND`."""
    reader = MqttReader(config, default_client_id(context.pipeline, context.state_dir))
    return StreamSource(reader, config, context.clock, context.pipeline)


KIND = SourceKind(MqttConfig, _make)

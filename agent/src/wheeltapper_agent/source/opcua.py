"""The kind ``opcua``: nodes of an OPC UA server, polled or subscribed to.

``mode = "poll"`` reads all nodes at each sample. ``mode = "subscribe"`` lets the server say what changed and takes, at
each sample, what each node holds then: a server does not repeat a value that stays the same (OPC 10000-4, 5.13.1), so
this is what was measured, not an interpolation. With ``array = true`` each value of the one node is a list of samples,
its source time stamp being that of the last one.

Invariants: a value whose status is not good is a missing sample; a node that the server does not know, that holds no
number, or that it does not watch for us, ends the connection. So does a subscription that the server dropped, said or
unsaid: its clock is watched with the nodes, and where that stands still, what was said last is not the present.

What this module does not do: write, call methods, browse.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from asyncua import Client, ua
from asyncua.crypto import security_policies
from cryptography import x509
from numpy.typing import NDArray

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.base import SourceContext, SourceKind
from wheeltapper_agent.source.polling import PollSchedule, check_poll_rate
from wheeltapper_agent.source.secret_file import check_private, read_secret
from wheeltapper_agent.source.stream import Sink, StreamSource
from wheeltapper_agent.source.stream_config import StreamConfig

__all__ = ["KIND", "NodeConfig", "OpcuaConfig", "OpcuaReader"]

_WAIT_SECONDS: Final = 0.2
_LIVENESS_SECONDS: Final = 1.0
_SILENCE_SECONDS: Final = 10.0
_SILENT_PUBLISHES: Final = 5
"""A subscription that says nothing, not even the time, for both of these is dead."""
_END_SECONDS: Final = 2.0
_ARRAY_QUEUE: Final = 20
_MAX_ARRAY_VALUES: Final = 2**20
_SERVER_STATE: Final = "i=2259"
_CURRENT_TIME: Final = "i=2258"
_REFUSING: Final = frozenset(
    {
        "BadNodeIdUnknown", "BadNodeIdInvalid", "BadNotReadable", "BadUserAccessDenied", "BadAttributeIdInvalid",
        "BadIdentityTokenRejected", "BadIdentityTokenInvalid", "BadSecurityChecksFailed", "BadCertificateInvalid",
        "BadCertificateUntrusted", "BadSecurityPolicyRejected", "BadSecurityModeRejected",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """One channel."""

    name: str
    node_id: str
    """As ``ns=2;s=Spindle.Vibration`` or ``ns=3;i=1042``."""
    scale: float = 1.0
    """Physical value = (value + offset) * scale."""
    offset: float = 0.0
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpcuaConfig(StreamConfig):
    """A server and its nodes; ``channels``, ``units``, ``scale`` and ``offset`` come from ``nodes``."""

    kind: Literal["opcua"] = "opcua"
    url: str
    """As ``opc.tcp://192.168.0.10:4840``."""
    nodes: tuple[NodeConfig, ...]
    mode: Literal["poll", "subscribe"] = "poll"
    array: bool = False
    publish_seconds: float = 0.1
    """How often the server sends what changed."""
    timeout_seconds: float = 4.0
    security: Literal["none", "Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"] = "none"
    certificate_file: Path | None = None
    key_file: Path | None = None
    server_certificate_file: Path | None = None
    username: str = ""
    password_file: Path | None = None

    def __post_init__(self) -> None:
        names = tuple(entry.name for entry in self.nodes)
        if self.scale or self.offset or self.units or self.channels not in (("x",), names):
            raise AgentError("config.invalid", "say names, units, scale and offset of an OPC UA source in nodes")
        object.__setattr__(self, "channels", names)
        object.__setattr__(self, "units", tuple(entry.unit for entry in self.nodes))
        StreamConfig.__post_init__(self)
        if any(entry.scale == 0 for entry in self.nodes):
            raise AgentError("config.invalid", "scale must not be 0")
        if self.array and (self.mode != "subscribe" or len(self.nodes) != 1):
            raise AgentError("config.invalid", "array = true needs mode = 'subscribe' and one node")
        if not self.array and (wrong := check_poll_rate(self)):
            raise AgentError("config.invalid", wrong)
        if not 0 < self.timeout_seconds <= 60 or not 0.01 <= self.publish_seconds <= 60:
            raise AgentError("config.invalid", "timeout_seconds or publish_seconds is out of range")
        files = (self.certificate_file, self.key_file, self.server_certificate_file)
        if self.security != "none" and None in files:
            raise AgentError("config.invalid", "security needs certificate_file, key_file and server_certificate_file")
        for entry in self.nodes:
            try:
                ua.NodeId.from_string(entry.node_id)
            except (ua.UaError, ValueError) as error:
                raise AgentError("config.invalid", f"node {entry.name}: {entry.node_id!r} is not a node id") from error


class _Handler:
    """What a subscription says; whether it still does."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.heard_at_s = clock.monotonic()
        self.clock_ticks = 0
        """How often the server told its time."""
        self.ended = ""
        """Why the server ended the subscription."""

    def datachange_notification(self, node: Any, _value: Any, data: Any) -> None:
        self.heard_at_s = self._clock.monotonic()
        if node.nodeid.to_string() == _CURRENT_TIME:
            self.clock_ticks += 1
        else:
            self.take(node, data.monitored_item.Value)

    def status_change_notification(self, status: Any) -> None:
        if not status.Status.is_good():
            self.ended = status.Status.name

    def take(self, node: Any, found: Any) -> None:
        """A node has the value ``found``."""
        raise NotImplementedError


class _Latest(_Handler):
    """What the server said last of each node."""

    def __init__(self, nodes: Sequence[Any], clock: Clock) -> None:
        super().__init__(clock)
        self.values: dict[str, Any] = {node.nodeid.to_string(): None for node in nodes}

    def take(self, node: Any, found: Any) -> None:
        self.values[node.nodeid.to_string()] = found


class _Arrays(_Handler):
    """Pushes each array as it comes."""

    def __init__(self, config: OpcuaConfig, sink: Sink) -> None:
        super().__init__(sink.clock)
        self._config, self._sink = config, sink

    def take(self, _node: Any, found: Any) -> None:
        try:
            samples = self._samples(found)
        except ValueError as error:
            self._sink.refuse(AgentError("source.payload", f"a value of {self._config.nodes[0].name}: {error}"))
            return
        stamp = found.SourceTimestamp
        ended_s = None if stamp is None else stamp.replace(tzinfo=datetime.UTC).timestamp()
        began_s = None if ended_s is None else max(0.0, ended_s - len(samples) / self._config.sample_rate_hz)
        self._sink.push(samples, t_s=began_s)

    def _samples(self, found: Any) -> NDArray[np.float64]:
        values = found.Value.Value if found.Value is not None else None
        if not found.StatusCode.is_good() or not isinstance(values, list) or not 0 < len(values) <= _MAX_ARRAY_VALUES:
            raise ValueError(f"it is not a list of samples ({found.StatusCode.name})")
        if any(not isinstance(value, int | float) for value in values):
            raise ValueError("it does not hold numbers")
        entry = self._config.nodes[0]
        return ((np.array(values, dtype=np.float64) + entry.offset) * entry.scale)[:, None]


class _Subscription:
    """Has the server watch nodes, and looks whether it still does.

    Args:
        config: of the source.
        client: connected.
        handler: takes what is said.
        clock: time.
    """

    def __init__(self, config: OpcuaConfig, client: Client, handler: _Handler, clock: Clock) -> None:
        self._config, self._client, self._handler, self._clock = config, client, handler, clock
        self._limit_seconds = 0.0
        self._looked_at_s = clock.monotonic()

    async def start(self, nodes: Sequence[Any], **how: Any) -> None:
        """Have ``nodes`` watched, and the server's clock: it never stands still.

        Raises:
            AgentError: ``source.refused``.
        """
        made = await self._client.create_subscription(1e3 * self._config.publish_seconds, self._handler)
        publish_s = made.parameters.RequestedPublishingInterval / 1e3  # or what the server made of it
        self._limit_seconds = max(_SILENCE_SECONDS, _SILENT_PUBLISHES * publish_s)
        results = await made.subscribe_data_change(nodes, **how)
        for entry, result in zip(self._config.nodes, results, strict=True):
            if isinstance(result, ua.StatusCode):
                raise AgentError("source.refused", f"node {entry.node_id} ({entry.name}): {result.name}")
        # Where a small server refuses this one more, only its answers and its own word tell that it lives.
        await made.subscribe_data_change([self._client.get_node(_CURRENT_TIME)], sampling_interval=1e3)

    async def check(self) -> None:
        """Now and then, look whether server and subscription live.

        Raises:
            AgentError: ``source.unreachable``.
        """
        now_s, handler = self._clock.monotonic(), self._handler
        silent_s = now_s - handler.heard_at_s if handler.clock_ticks > 1 else 0.0
        if handler.ended or silent_s > self._limit_seconds:
            why = handler.ended or f"nothing for {silent_s:.0f} s"
            raise AgentError(
                "source.unreachable", f"the OPC UA server {self._config.url} ended the subscription: {why}"
            )
        if now_s - self._looked_at_s > _LIVENESS_SECONDS:
            await self._client.read_attributes([self._client.get_node(_SERVER_STATE)])
            self._looked_at_s = self._clock.monotonic()


class OpcuaReader:
    """Reads one server; one session a call of :meth:`read`."""

    def __init__(self, config: OpcuaConfig) -> None:
        self._config = config

    def read(self, sink: Sink) -> None:
        """See :class:`~wheeltapper_agent.source.stream.Reader`."""
        asyncio.run(self._session(sink))

    async def _session(self, sink: Sink) -> None:
        config = self._config
        client = Client(url=config.url, timeout=config.timeout_seconds)
        try:
            await self._secure(client)
            await asyncio.wait_for(client.connect(), 3 * config.timeout_seconds)
            nodes = [client.get_node(entry.node_id) for entry in config.nodes]
            await self._check(client, nodes)
            sink.connected()
            if config.array:
                await self._follow_arrays(client, nodes, sink)
            else:
                await self._sample(client, nodes, sink)
        except ua.UaError as error:
            name = type(error).__name__
            code = "source.refused" if name in _REFUSING else "source.unreachable"
            raise AgentError(code, f"the OPC UA server {config.url}: {name}: {error}") from error
        except (OSError, TimeoutError) as error:
            raise AgentError(
                "source.unreachable", f"no answer from the OPC UA server {config.url}: {error or 'timeout'}"
            ) from error
        finally:
            with contextlib.suppress(Exception):  # it may be gone; whatever it says now does not matter
                await asyncio.wait_for(client.disconnect(), _END_SECONDS)

    async def _secure(self, client: Client) -> None:
        config = self._config
        if config.username:
            client.set_user(config.username)
        if config.password_file:
            client.set_password(read_secret(config.password_file))
        if config.security == "none" or not config.key_file:
            return
        check_private(config.key_file)
        try:
            client.application_uri = _application_uri(config.certificate_file) or client.application_uri
            await client.set_security(
                getattr(security_policies, f"SecurityPolicy{config.security}"),
                certificate=str(config.certificate_file),
                private_key=str(config.key_file),
                server_certificate=str(config.server_certificate_file),
            )
        except (OSError, ValueError) as error:
            raise AgentError("source.secret", f"the certificates for {config.url} cannot be read: {error}") from error

    async def _check(self, client: Client, nodes: Sequence[Any]) -> None:
        """Refuse nodes that never will give a number."""
        for entry, found in zip(self._config.nodes, await client.read_attributes(nodes), strict=True):
            if found.StatusCode.name in _REFUSING:
                raise AgentError("source.refused", f"node {entry.node_id} ({entry.name}): {found.StatusCode.name}")
            value = found.Value.Value if found.Value is not None else None
            if not self._config.array and value is not None and not isinstance(value, int | float):
                raise AgentError("source.refused", f"node {entry.node_id} ({entry.name}) holds no number")

    async def _sample(self, client: Client, nodes: Sequence[Any], sink: Sink) -> None:
        config = self._config
        latest = _Latest(nodes, sink.clock)
        subscription = _Subscription(config, client, latest, sink.clock)
        if config.mode == "subscribe":
            await subscription.start(nodes, sampling_interval=1e3 / config.sample_rate_hz)
        keys = [node.nodeid.to_string() for node in nodes]
        ticks = PollSchedule(sink, config.sample_rate_hz)
        while await _waited(sink, ticks.due_in_seconds()):
            if config.mode == "poll":
                found = await client.read_attributes(nodes)
            else:
                await subscription.check()
                found = [latest.values[key] for key in keys]
            row = [_physical(entry, value) for entry, value in zip(config.nodes, found, strict=True)]
            sink.push(np.array([row]), t_s=ticks.t_s)

    async def _follow_arrays(self, client: Client, nodes: Sequence[Any], sink: Sink) -> None:
        subscription = _Subscription(self._config, client, _Arrays(self._config, sink), sink.clock)
        await subscription.start(nodes, queuesize=_ARRAY_QUEUE, sampling_interval=0)
        while await _waited(sink, _LIVENESS_SECONDS):
            await subscription.check()


def _application_uri(path: Path | None) -> str:
    """The URI in a certificate, PEM or DER: a server compares it with what the client calls itself (OPC 10000-4,
    6.1.3)."""
    content = path.read_bytes() if path else b""
    load = x509.load_pem_x509_certificate if content.startswith(b"-----") else x509.load_der_x509_certificate
    try:
        names = load(content).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    return next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), "")


async def _waited(sink: Sink, seconds: float) -> bool:
    """Wait; False if the source was closed meanwhile."""
    deadline_s = sink.clock.monotonic() + seconds
    while not sink.closed.is_set():
        left_s = deadline_s - sink.clock.monotonic()
        if left_s <= 0:
            return True
        await asyncio.sleep(min(left_s, _WAIT_SECONDS))
    return False


def _physical(entry: NodeConfig, found: Any) -> float:
    """The physical value; NaN where there is none or its status is not good."""
    if found is None or found.Value is None or not found.StatusCode.is_good():
        return math.nan
    value = found.Value.Value
    return (float(value) + entry.offset) * entry.scale if isinstance(value, int | float) else math.nan


def _make(config: OpcuaConfig, context: SourceContext) -> StreamSource:
    return StreamSource(OpcuaReader(config), config, context.clock, context.pipeline)


KIND = SourceKind(OpcuaConfig, _make)

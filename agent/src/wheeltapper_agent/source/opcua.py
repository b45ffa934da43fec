"""The kind ``opcua``: nodes of an OPC UA server, polled or subscribed to.

``mode = "poll"`` reads all nodes at each sample. ``mode = "subscribe"`` lets the server report changes, and takes at
each sample the value that each node has then. A server does not repeat a value that stays the same (OPC 10000-4,
5.13.1), so this is what was measured, not an interpolation. With ``array = true`` each value of the one node is a list
of samples, and its source time stamp is the time of the last sample.

Invariants:
    * A value whose status is not good is a missing sample; the status is named and counted. An uncertain value is
      taken if ``accept_uncertain``.
    * A namespace that has another number after a restart of the server is found by its URI.
    * A node that the server does not know, that holds no number or that the server does not monitor ends the
      connection.
    * A subscription that the server ended, with or without telling, ends the connection. The server's clock is
      monitored with the nodes; if it stands still, the last values are not the present ones.

What this module does not do: write, call methods, browse.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import numpy as np
from asyncua import Client, ua
from asyncua.crypto import security_policies
from cryptography import x509
from numpy.typing import NDArray

from wheeltapper_agent.ground.bounds import YEAR_SECONDS, Bounds
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.repeated import kind_of
from wheeltapper_agent.source.base import SourceContext, SourceKind
from wheeltapper_agent.source.opcua_nodes import Namespaces, NodeConfig, is_usable, reading, status_name
from wheeltapper_agent.source.polling import PollSchedule, check_poll_rate
from wheeltapper_agent.source.secret_file import check_private, read_secret
from wheeltapper_agent.source.stream import Sink, StreamSource
from wheeltapper_agent.source.stream_config import StreamConfig

__all__ = ["KIND", "NodeConfig", "OpcuaConfig", "OpcuaReader"]

logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # it logs each bad status and each lost server, without end
_WAIT_SECONDS: Final = 0.2
_LIVENESS_SECONDS: Final = 1.0
_SILENCE_SECONDS: Final = 10.0
_SILENT_PUBLISHES: Final = 5
"""A subscription that reports nothing, not even the time, for :data:`_SILENCE_SECONDS` and for so many publishing
intervals is dead."""
_END_SECONDS: Final = 2.0
_ARRAY_QUEUE: Final = 20
"""Values that the server keeps between two publications."""
_MAX_ARRAY_VALUES: Final = 2**20
_PACE_SHARE: Final = 1.08
"""By how much the server may be slower than the sample rate."""
_SERVER_STATE: Final = "i=2259"
_CURRENT_TIME: Final = "i=2258"
_TOO_MUCH: Final = frozenset({"BadTooManyOperations", "BadResponseTooLarge", "BadEncodingLimitsExceeded"})
"""The server answers fewer nodes at once."""
_REFUSING: Final = frozenset(
    {
        "BadNodeIdUnknown", "BadNodeIdInvalid", "BadNotReadable", "BadUserAccessDenied", "BadAttributeIdInvalid",
        "BadIdentityTokenRejected", "BadIdentityTokenInvalid", "BadSecurityChecksFailed", "BadCertificateInvalid",
        "BadCertificateUntrusted", "BadSecurityPolicyRejected", "BadSecurityModeRejected",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class OpcuaConfig(StreamConfig):
    """A server and its nodes. ``channels`` and ``units`` come from ``nodes``."""

    kind: Literal["opcua"] = "opcua"
    url: str
    """Such as ``opc.tcp://192.168.0.10:4840``."""
    nodes: tuple[NodeConfig, ...]
    mode: Literal["poll", "subscribe"] = "poll"
    array: bool = False
    """Whether each value of the one node is a list of samples."""
    accept_uncertain: bool = False
    """Whether a value with an uncertain status is taken; it is a missing sample otherwise."""
    stale_seconds: Annotated[float, Bounds(0.001, YEAR_SECONDS, "seconds", zero="any age")] = 0.0
    """How much older than the server's clock a polled value may be."""
    publish_seconds: Annotated[float, Bounds(0.01, 60, "seconds")] = 0.1
    """How often the server sends changes."""
    timeout_seconds: Annotated[float, Bounds(0.01, 60, "seconds")] = 4.0
    security: Literal["none", "Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"] = "none"
    certificate_file: Path | None = None
    key_file: Path | None = None
    server_certificate_file: Path | None = None
    username: str = ""
    password_file: Path | None = None

    def __post_init__(self) -> None:
        names = tuple(entry.name for entry in self.nodes)
        if self.scale or self.offset or self.units or self.channels not in (("x",), names):
            raise AgentError(
                "config.invalid", "give the names, units, scales and offsets of an OPC UA source under nodes"
            )
        object.__setattr__(self, "channels", names)
        object.__setattr__(self, "units", tuple(entry.unit for entry in self.nodes))
        StreamConfig.__post_init__(self)
        if self.array and (self.mode != "subscribe" or len(self.nodes) != 1):
            raise AgentError("config.invalid", "array = true needs mode = 'subscribe' and one node")
        if not self.array and (wrong := check_poll_rate(self)):
            raise AgentError("config.invalid", wrong)
        if not _is_url(self.url):
            raise AgentError("config.invalid", f"url cannot be {self.url[:80]!r}; set one like opc.tcp://host:4840")
        if self.stale_seconds and self.mode != "poll":
            raise AgentError(
                "config.invalid",
                "stale_seconds needs mode = 'poll': a subscription does not repeat a value that stays the same",
            )
        files = (self.certificate_file, self.key_file, self.server_certificate_file)
        if self.security != "none" and None in files:
            raise AgentError("config.invalid", "security needs certificate_file, key_file and server_certificate_file")


class _DataChangeHandler:
    """Receives the notifications of a subscription, and knows when the last one came."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.heard_at_s = clock.monotonic()
        self.clock_ticks = 0
        """How often the server reported its time."""
        self.ended = ""
        """Why the server ended the subscription; empty: it did not."""

    def datachange_notification(self, node: Any, _value: Any, data: Any) -> None:
        """Called by asyncua: a monitored node has a new value."""
        self.heard_at_s = self._clock.monotonic()
        if node.nodeid.to_string() == _CURRENT_TIME:
            self.clock_ticks += 1
        else:
            self.take(node, data.monitored_item.Value)

    def status_change_notification(self, status: Any) -> None:
        """Called by asyncua: the status of the subscription changed."""
        if not status.Status.is_good():
            self.ended = status.Status.name

    def take(self, node: Any, value: Any) -> None:
        """Take ``value``, the new ``DataValue`` of ``node``."""
        raise NotImplementedError


class _LatestValues(_DataChangeHandler):
    """Keeps the last value that the server reported for each node."""

    def __init__(self, nodes: Sequence[Any], clock: Clock) -> None:
        super().__init__(clock)
        self.values: dict[str, Any] = {node.nodeid.to_string(): None for node in nodes}

    def take(self, node: Any, value: Any) -> None:
        """See :meth:`_DataChangeHandler.take`."""
        self.values[node.nodeid.to_string()] = value


class _ArraySamples(_DataChangeHandler):
    """Pushes each array of samples into the sink as it comes."""

    def __init__(self, config: OpcuaConfig, sink: Sink) -> None:
        super().__init__(sink.clock)
        self._config, self._sink = config, sink

    def take(self, _node: Any, value: Any) -> None:
        """See :meth:`_DataChangeHandler.take`."""
        try:
            samples = self._samples(value)
        except ValueError as error:
            self._sink.refuse(AgentError("source.payload", f"a value of {self._config.nodes[0].name}: {error}"))
            return
        stamp = value.SourceTimestamp
        ended_s = None if stamp is None else stamp.replace(tzinfo=datetime.UTC).timestamp()
        began_s = None if ended_s is None else max(0.0, ended_s - len(samples) / self._config.sample_rate_hz)
        self._sink.push(samples, t_s=began_s)

    def _samples(self, value: Any) -> NDArray[np.float64]:
        """Return the samples in ``value``, [sample, 1] in physical units; ValueError if it holds none."""
        values = value.Value.Value if value.Value is not None else None
        if not is_usable(value.StatusCode, self._config.accept_uncertain):
            raise ValueError(f"its status is {status_name(value.StatusCode)}")
        if not isinstance(values, list) or not 0 < len(values) <= _MAX_ARRAY_VALUES:
            raise ValueError(f"it is not a list of 1 to {_MAX_ARRAY_VALUES} samples")
        if any(not isinstance(entry, int | float) for entry in values):
            raise ValueError("it does not hold numbers")
        node = self._config.nodes[0]
        return ((np.array(values, dtype=np.float64) + node.offset) * node.scale)[:, None]


class _Subscription:
    """Lets the server monitor nodes, and checks that it still does.

    Args:
        config: of the source.
        client: connected.
        handler: receives the values.
        clock: the device's.
    """

    def __init__(self, config: OpcuaConfig, client: Client, handler: _DataChangeHandler, clock: Clock) -> None:
        self._config, self._client, self._handler, self._clock = config, client, handler, clock
        self._limit_seconds = 0.0
        self._checked_at_s = clock.monotonic()

    async def start(self, nodes: Sequence[Any], **options: Any) -> None:
        """Let the server monitor ``nodes``, and its own clock, which never stands still.

        Args:
            nodes: to monitor.
            options: of asyncua's ``subscribe_data_change``.

        Raises:
            AgentError: ``source.refused``.
        """
        subscription = await self._client.create_subscription(1e3 * self._config.publish_seconds, self._handler)
        publish_s = subscription.parameters.RequestedPublishingInterval / 1e3  # as the server revised it
        self._limit_seconds = max(_SILENCE_SECONDS, _SILENT_PUBLISHES * publish_s)
        results = await subscription.subscribe_data_change(nodes, **options)
        for entry, result in zip(self._config.nodes, results, strict=True):
            if isinstance(result, ua.StatusCode):
                raise AgentError("source.refused", f"node {entry.node_id} ({entry.name}): {result.name}")
        # A small server may refuse this one; then check() relies on its answers and status notifications.
        await subscription.subscribe_data_change([self._client.get_node(_CURRENT_TIME)], sampling_interval=1e3)

    async def check(self) -> None:
        """Check that server and subscription are alive.

        Raises:
            AgentError: ``source.unreachable``.
        """
        now_s, handler = self._clock.monotonic(), self._handler
        silent_s = now_s - handler.heard_at_s if handler.clock_ticks > 1 else 0.0
        if handler.ended or silent_s > self._limit_seconds:
            reason = handler.ended or f"no notification for {silent_s:.0f} s"
            raise AgentError(
                "source.unreachable", f"the OPC UA server {self._config.url} ended the subscription: {reason}"
            )
        if now_s - self._checked_at_s > _LIVENESS_SECONDS:
            await self._client.read_attributes([self._client.get_node(_SERVER_STATE)])
            self._checked_at_s = self._clock.monotonic()


class OpcuaReader:
    """Reads one server. A call of :meth:`read` is one session."""

    def __init__(self, config: OpcuaConfig) -> None:
        self._config = config
        self._namespaces = Namespaces(config.nodes)
        self._nodes_at_once = len(config.nodes)

    def read(self, sink: Sink) -> None:
        """Implements :meth:`Reader.read <wheeltapper_agent.source.stream.Reader.read>`."""
        asyncio.run(self._session(sink))

    async def _session(self, sink: Sink) -> None:
        """Connect, and push samples until the source is closed."""
        config = self._config
        client = Client(url=config.url, timeout=config.timeout_seconds)
        try:
            await self._secure(client)
            await asyncio.wait_for(client.connect(), 3 * config.timeout_seconds)
            nodes = [client.get_node(node_id) for node_id in self._namespaces.resolve(await _namespaces_of(client))]
            await self._check(client, nodes)
            if not config.array:
                await self._check_pace(client, nodes, sink)
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
            with contextlib.suppress(Exception):  # the server may be gone; the session is over anyway
                await asyncio.wait_for(client.disconnect(), _END_SECONDS)

    async def _secure(self, client: Client) -> None:
        """Set user, password, certificates and security policy of the client."""
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
        """Refuse nodes that will never give a number."""
        for entry, attribute in zip(self._config.nodes, await self._read_all(client, nodes), strict=True):
            if attribute.StatusCode.name in _REFUSING:
                raise AgentError("source.refused", f"node {entry.node_id} ({entry.name}): {attribute.StatusCode.name}")
            value = attribute.Value.Value if attribute.Value is not None else None
            if not self._config.array and value is not None and not isinstance(value, int | float):
                held = f"{value[:20]!r}" if isinstance(value, str) else f"a {type(value).__name__}"
                hint = "; array = true reads lists of samples" if isinstance(value, list) else ""
                raise AgentError(
                    "source.refused", f"node {entry.node_id} ({entry.name}) holds no number but {held}{hint}"
                )

    async def _check_pace(self, client: Client, nodes: Sequence[Any], sink: Sink) -> None:
        """Say which values are measured less often than they are taken: they would repeat (OPC 10000-3, 5.6.2)."""
        try:
            found = await client.read_attributes(nodes, ua.AttributeIds.MinimumSamplingInterval)
        except ua.UaStatusCodeError:
            return
        period_ms = 1e3 / self._config.sample_rate_hz
        for entry, attribute in zip(self._config.nodes, found, strict=True):
            least_ms = attribute.Value.Value if attribute.Value is not None else None
            if isinstance(least_ms, int | float) and least_ms > _PACE_SHARE * period_ms:
                sink.warn(
                    f"the server measures node {entry.name} each {least_ms:g} ms at most and it is taken each"
                    f" {period_ms:g} ms, so values repeat; lower sample_rate_hz"
                )

    async def _read_all(self, client: Client, nodes: Sequence[Any]) -> list[Any]:
        """Return the ``DataValue`` of each node, in as few requests as the server answers."""
        found: list[Any] = []
        while len(found) < len(nodes):
            try:
                found += await client.read_attributes(nodes[len(found) : len(found) + self._nodes_at_once])
            except ua.UaStatusCodeError as error:
                if type(error).__name__ not in _TOO_MUCH or self._nodes_at_once == 1:
                    raise
                self._nodes_at_once = (self._nodes_at_once + 1) // 2
        return found

    async def _sample(self, client: Client, nodes: Sequence[Any], sink: Sink) -> None:
        """Push one sample of all nodes at each due moment."""
        config = self._config
        latest = _LatestValues(nodes, sink.clock)
        subscription = _Subscription(config, client, latest, sink.clock)
        if config.mode == "subscribe":
            await subscription.start(nodes, sampling_interval=1e3 / config.sample_rate_hz)
        keys = [node.nodeid.to_string() for node in nodes]
        ticks = PollSchedule(sink, config.sample_rate_hz)
        while await _waited(sink, ticks.due_in_seconds()):
            if config.mode == "poll":
                found = await self._read_all(client, nodes)
            else:
                await subscription.check()
                found = [latest.values[key] for key in keys]
            readings = [
                reading(entry, value, config.accept_uncertain, config.stale_seconds)
                for entry, value in zip(config.nodes, found, strict=True)
            ]
            sink.missing_values(
                {
                    f"{entry.name} {kind_of(each.reason)}": f"{entry.name}: {each.reason}"
                    for entry, each in zip(config.nodes, readings, strict=True)
                    if each.reason
                }
            )
            sink.push(np.array([[each.value for each in readings]]), t_s=ticks.t_s)

    async def _follow_arrays(self, client: Client, nodes: Sequence[Any], sink: Sink) -> None:
        """Push the arrays of the one node as they come."""
        subscription = _Subscription(self._config, client, _ArraySamples(self._config, sink), sink.clock)
        await subscription.start(nodes, queuesize=_ARRAY_QUEUE, sampling_interval=0)
        while await _waited(sink, _LIVENESS_SECONDS):
            await subscription.check()


def _application_uri(path: Path | None) -> str:
    """Return the URI in a certificate, PEM or DER. A server compares it with the client's application URI (OPC 10000-4,
    6.1.3)."""
    content = path.read_bytes() if path else b""
    load = x509.load_pem_x509_certificate if content.startswith(b"-----") else x509.load_der_x509_certificate
    try:
        names = load(content).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    return next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), "")


async def _namespaces_of(client: Client) -> list[str]:
    """Return the namespaces of a server by their numbers; none where the server does not tell."""
    try:
        return list(await client.get_namespace_array())
    except ua.UaStatusCodeError:
        return []


def _is_url(url: str) -> bool:
    """Whether a text is the address of an OPC UA server."""
    try:
        parts = urlsplit(url)
        return parts.scheme == "opc.tcp" and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


async def _waited(sink: Sink, seconds: float) -> bool:
    """Wait for ``seconds``; return False if the source was closed meanwhile."""
    deadline_s = sink.clock.monotonic() + seconds
    while not sink.closed.is_set():
        left_s = deadline_s - sink.clock.monotonic()
        if left_s <= 0:
            return True
        await asyncio.sleep(min(left_s, _WAIT_SECONDS))
    return False


def _make(config: OpcuaConfig, context: SourceContext) -> StreamSource:
    """Return the source that a configuration describes; ``make`` of :data:`KIND`."""
    return StreamSource(OpcuaReader(config), config, context.clock, context.pipeline)


KIND = SourceKind(OpcuaConfig, _make)

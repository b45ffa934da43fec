"""Nodes of an OPC UA server: which one a channel is, and what number its value is, or why it is none.

Source: OPC 10000-4, 7.39 (status codes: the two highest bits say good, uncertain or bad; the lower 16 only add to it),
and OPC 10000-6, 5.3.1.10 (``nsu=``: a namespace by its URI).
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from asyncua import ua

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.physical_value import Reading, physical_reading
from wheeltapper_agent.source.stream_config import FACTOR

__all__ = ["Namespaces", "NodeConfig", "is_usable", "reading", "status_name"]

_NAME_BITS: Final = 0xFFFF0000


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """One channel: a node, and what its value means."""

    name: str
    node_id: str
    """Such as ``ns=2;s=Spindle.Vibration``, ``ns=3;i=1042`` or ``nsu=http://plant.example/line3;s=Spindle``."""
    scale: Annotated[float, FACTOR] = 1.0
    """Physical value = (value + offset) * scale."""
    offset: Annotated[float, FACTOR] = 0.0
    unit: str = ""

    def __post_init__(self) -> None:
        if self.scale == 0:
            raise AgentError("config.invalid", f"node {self.name}: scale must not be 0")
        try:
            ua.NodeId.from_string(self.node_id)
        except (ua.UaError, ValueError) as error:
            raise AgentError("config.invalid", f"node {self.name}: {self.node_id!r} is not a node id") from error


class Namespaces:
    """Finds the nodes of a configuration in a server whose namespaces may move.

    A server numbers its namespaces anew when it starts (OPC 10000-3, 8.2.2). Whoever writes ``ns=2`` means the
    namespace that has this number at the first connection: if its URI has another number later, the node is looked for
    there.
    """

    def __init__(self, nodes: Sequence[NodeConfig]) -> None:
        self._nodes = nodes
        self._uris: dict[int, str] = {}
        """The URI of each number at the first connection."""

    def resolve(self, uris: Sequence[str]) -> list[ua.NodeId]:
        """Return the ids of the nodes in a server with these namespaces, in the order of the configuration.

        Raises:
            AgentError: ``source.refused``: a namespace is not there.
        """
        found = []
        for entry in self._nodes:
            node_id = ua.NodeId.from_string(entry.node_id)
            index = node_id.NamespaceIndex
            uri = getattr(node_id, "NamespaceUri", None) or self._uris.get(index)
            if uri is not None and index < len(uris) and uris[index] == uri:
                uri = None  # it is where it was
            if uri is not None:
                if uri not in uris:
                    there = ", ".join(map(str, uris))
                    raise AgentError(
                        "source.refused",
                        f"node {entry.node_id} ({entry.name}): the server has no namespace {uri}; it has {there}",
                    )
                index = uris.index(uri)
            found.append(ua.NodeId(node_id.Identifier, index, node_id.NodeIdType))
        if not self._uris:
            self._uris = {index: str(uri) for index, uri in enumerate(uris) if index}
        return found


def status_name(status: ua.StatusCode) -> str:
    """Return the name of a status, such as ``UncertainSensorNotAccurate``, without the bits that only add to it."""
    return str(ua.StatusCode(status.value & _NAME_BITS).name)


def is_usable(status: ua.StatusCode, accept_uncertain: bool) -> bool:
    """Whether a value of this status is taken."""
    return bool(status.is_good() or (accept_uncertain and status.is_uncertain()))


def reading(entry: NodeConfig, reported: Any, accept_uncertain: bool, stale_seconds: float) -> Reading:
    """Return what a ``DataValue`` says.

    Args:
        entry: the node.
        reported: the ``DataValue``; None: nothing yet.
        accept_uncertain: whether an uncertain value is taken.
        stale_seconds: how much older than the server's clock a value may be; 0: any age.
    """
    if reported is None:
        return Reading(math.nan)
    if not is_usable(reported.StatusCode, accept_uncertain):
        name = status_name(reported.StatusCode)
        hint = "; accept_uncertain = true would take the value" if reported.StatusCode.is_uncertain() else ""
        return Reading(math.nan, f"{name}{hint}")
    value = reported.Value.Value if reported.Value is not None else None
    if value is None:
        return Reading(math.nan, "no value")
    if not isinstance(value, int | float):
        return Reading(math.nan, f"{type(value).__name__}, not a number")
    if stale_seconds and (age_s := _age_seconds(reported)) > stale_seconds:
        return Reading(math.nan, f"a value that is older than {stale_seconds:g} s: {age_s:.0f} s")
    return physical_reading(value, entry.offset, entry.scale)


def _age_seconds(reported: Any) -> float:
    """Return how much older the value is than the server's answer; 0 if the server does not say both."""
    source: datetime.datetime | None = reported.SourceTimestamp
    server: datetime.datetime | None = reported.ServerTimestamp
    return (server - source).total_seconds() if source is not None and server is not None else 0.0

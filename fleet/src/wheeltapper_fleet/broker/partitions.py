"""How several processes share what devices send. Pure.

A NATS cluster maps what a device publishes, ``wt/v1/<device>/up/telemetry``, to
``wtp/v1/<partition>/<device>/up/telemetry``: the server computes the partition from the device's name, so all of one
device goes the same way. Each ingest process subscribes to its own partitions. Which these are follows from the names
of the processes that are alive (:func:`partitions_of`); nobody hands them out.

A status is not mapped: the server maps no will, and what it retains for one topic must be one message. Each process
hears every status, and takes those of its partitions (:func:`partition_of`).

Two processes that see the living ones differently for some seconds may both hear a device, or none does: what comes
twice is stored once, and what is not acknowledged is sent again. Neither is lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from wheeltapper_protocols.wire.topics import ALL_UP_FILTER, Up

__all__ = [
    "PARTITIONS",
    "STATUS_FILTER",
    "SUBJECT_MAPPINGS",
    "device_topic",
    "is_mine",
    "partition_filter",
    "partition_of",
    "partitions_of",
]

PARTITIONS: Final = 32
"""More than the number of ingest processes that one database feeds. It is in the brokers' configuration."""
_PREFIX: Final = "wtp/v1/"
_UP: Final = ALL_UP_FILTER.partition("+")[0]
STATUS_FILTER: Final = f"{_UP}+/up/{Up.STATUS.value}"
SUBJECT_MAPPINGS: Final = {
    f"wt.v1.*.up.{kind.value}": f"wtp.v1.{{{{partition({PARTITIONS},1)}}}}.{{{{wildcard(1)}}}}.up.{kind.value}"
    for kind in Up
    if kind is not Up.STATUS
}
"""For nats-server's ``mappings`` of the fleet's account."""
_FNV_OFFSET, _FNV_PRIME = 0x811C9DC5, 0x01000193


def partition_filter(partition: int) -> str:
    """The MQTT filter of one partition."""
    return f"{_PREFIX}{partition}/+/up/+"


def partition_of(device: str) -> int:
    """The partition of a device, as nats-server computes it: FNV-1a, 32 bits, of the name (NATS documentation,
    "Deterministic Subject Token Partitioning"; G. Fowler, L. C. Noll, K.-P. Vo, 1991).
    """
    value = _FNV_OFFSET
    for byte in device.encode():
        value = (value ^ byte) * _FNV_PRIME & 0xFFFFFFFF
    return value % PARTITIONS


def device_topic(topic: str) -> str:
    """The topic that the device published to; ``topic`` itself if it is not of a partition."""
    if not topic.startswith(_PREFIX):
        return topic
    return _UP + topic.removeprefix(_PREFIX).partition("/")[2]


def is_mine(topic: str, partitions: Collection[int]) -> bool:
    """Whether a process with these partitions is to take what came by ``topic``, which is as it came."""
    return topic.startswith(_PREFIX) or partition_of(topic.removeprefix(_UP).partition("/")[0]) in partitions


def partitions_of(name: str, alive: Iterable[str]) -> range:
    """The partitions of the process ``name``, of those that are alive: every n-th, by the order of the names."""
    names = sorted({name, *alive})
    return range(names.index(name), PARTITIONS, len(names))

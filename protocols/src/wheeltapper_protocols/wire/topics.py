"""MQTT topics: a device publishes to ``wt/v1/<device>/up/<kind>`` and subscribes to ``wt/v1/<device>/down/<kind>``.

A device may publish below its own ``up/`` and subscribe below its own ``down/``, nothing else.
"""

from __future__ import annotations

from enum import StrEnum

from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.ids import device_id

__all__ = ["ALL_UP_FILTER", "Down", "Up", "down_filter", "down_topic", "parse_up_topic", "up_prefix", "up_topic"]

_PREFIX = "wt/v1"
ALL_UP_FILTER = f"{_PREFIX}/+/up/+"
"""The topic filter that covers everything that devices send."""


class Up(StrEnum):
    """The kinds of messages that a device sends."""

    STATUS = "status"
    TELEMETRY = "telemetry"
    ALERT = "alert"
    REPORT = "report"


class Down(StrEnum):
    """The kinds of messages that a device receives."""

    ASSIGNMENT = "assignment"
    COMMAND = "command"
    ACK = "ack"


def up_prefix(device: str) -> str:
    """The prefix below which ``device`` may publish, with the closing slash."""
    return f"{_PREFIX}/{device_id(device)}/up/"


def up_topic(device: str, kind: Up) -> str:
    """The topic on which ``device`` publishes messages of ``kind``."""
    return up_prefix(device) + kind.value


def down_filter(device: str) -> str:
    """The topic filter that covers everything sent to ``device``."""
    return f"{_PREFIX}/{device_id(device)}/down/+"


def down_topic(device: str, kind: Down) -> str:
    """The topic on which ``device`` receives messages of ``kind``."""
    return f"{_PREFIX}/{device_id(device)}/down/{kind.value}"


def parse_up_topic(topic: str) -> tuple[str, Up]:
    """The device id and the kind of message in an ``up`` topic.

    Raises:
        WireError: ``wire.topic``.
    """
    parts = topic.split("/")
    try:
        if len(parts) != 5 or "/".join(parts[:2]) != _PREFIX or parts[3] != "up":
            raise ValueError(topic)
        return device_id(parts[2]), Up(parts[4])
    except (ValueError, WireError) as error:
        raise WireError(
            "wire.topic",
            f"{topic[:160]!r} is not a topic that a device publishes to: need {_PREFIX}/<device>/up/<kind>",
        ) from error

"""From a topic and a payload to a message of a device, or to the reason why it is refused. Pure."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Final

from wheeltapper_fleet.telemetry.rules import Refusal
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.codec import decode
from wheeltapper_protocols.wire.ids import device_id
from wheeltapper_protocols.wire.messages import Ack, Alert, Command, Report, Status, Telemetry
from wheeltapper_protocols.wire.topics import Up, parse_up_topic

__all__ = ["DeviceMessage", "read_message"]

_UNKNOWN_DEVICE: Final = "unknown"


@dataclass(frozen=True)
class DeviceMessage:
    """A valid message, and the device that sent it."""

    device: str
    message: Status | Telemetry | Alert | Report
    payload: bytes = field(default=b"", compare=False)
    """Its bytes as they came; empty: to be encoded anew."""


def read_message(topic: str, payload: bytes) -> DeviceMessage | Refusal:
    """Read one MQTT message. Never raises: what cannot be read becomes a refusal with the error's code."""
    try:
        device, kind = _parsed(topic)
        message = decode(kind, payload)
    except WireError as error:
        return Refusal(_device_of(topic), error.code, error.message)
    if isinstance(message, Command | Ack):
        return Refusal(device, "wire.topic", "only the fleet sends this kind of message; a device may not")
    return DeviceMessage(device, message, payload)


@functools.lru_cache(maxsize=65_536)
def _parsed(topic: str) -> tuple[str, Up]:
    """The device and the kind that a topic names; a device sends to the same few topics for ever."""
    parts = topic.split("/")
    if len(parts) > 2:
        device_id(parts[2])
    return parse_up_topic(topic)


def _device_of(topic: str) -> str:
    """The device that a topic names, though it is no topic of a device's messages."""
    parts = topic.split("/")
    try:
        return device_id(parts[2]) if len(parts) > 2 else _UNKNOWN_DEVICE
    except WireError:
        return _UNKNOWN_DEVICE

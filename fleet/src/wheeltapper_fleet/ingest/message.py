"""From a topic and a payload to a message of a device, or to the reason why it is refused. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from wheeltapper_fleet.telemetry.rules import Refusal
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.codec import decode
from wheeltapper_protocols.wire.ids import device_id
from wheeltapper_protocols.wire.messages import Ack, Alert, Command, Report, Status, Telemetry
from wheeltapper_protocols.wire.topics import parse_up_topic

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
    device = _UNKNOWN_DEVICE
    try:
        parts = topic.split("/")
        device = device_id(parts[2]) if len(parts) > 2 else _UNKNOWN_DEVICE
        device, kind = parse_up_topic(topic)
        message = decode(kind, payload)
    except WireError as error:
        return Refusal(device, error.code, error.message)
    if isinstance(message, Command | Ack):
        return Refusal(device, "wire.topic", "only the fleet sends this kind of message; a device may not")
    return DeviceMessage(device, message, payload)

"""One MQTT message that the fleet is to publish. Pure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Publication"]


@dataclass(frozen=True)
class Publication:
    """One message to a device. A retained one is given to the device at its next connection, too."""

    topic: str
    payload: bytes
    retain: bool = False

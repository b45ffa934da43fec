"""Presence: whether a device is online, and what its last status message said. In the caller's transaction."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection

from wheeltapper_fleet.devices.tables import devices
from wheeltapper_protocols.wire.messages import Status

__all__ = ["store_status"]


def store_status(connection: Connection, device: str, status: Status, now: float) -> None:
    """Store a status message. One that says "offline" (the MQTT last will) leaves the last known status in place."""
    values: dict[str, Any] = {"online": status.online}
    if status.online:
        values |= {"status": msgspec.to_builtins(status), "last_seen_at": now, "counter": status.counter}
    connection.execute(devices.update().where(devices.c.id == device).values(values))

"""Presence: whether a device is online, and what its last status message said. In the caller's transaction.

Invariants:
    * An "offline" (the MQTT last will) of another instance than the one that reported last changes nothing: it is the
      end of a connection that was replaced.
    * Two instances that report in turns under one identity are a notice, ``device.shared_identity``, and one log line.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, select

from wheeltapper_fleet.devices.connections import record_connection
from wheeltapper_fleet.devices.instances import Change, after_change, read_changes, sharing
from wheeltapper_fleet.devices.notices import store_notice
from wheeltapper_fleet.devices.reported import store_reported
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_protocols.wire.messages import Status

__all__ = ["store_status"]

_LOG: Final = logging.getLogger(__name__)


def store_status(connection: Connection, device: str, status: Status, now: float, address: str = "") -> None:
    """Store a status message. One that says "offline" leaves the last known status in place; one of a device that is
    not enrolled changes nothing.

    Args:
        connection: within the caller's transaction.
        device: the device that sent it.
        status: the message.
        now: Unix seconds.
        address: where the device's newest connection comes from; empty if the broker does not tell.
    """
    values: dict[str, Any] = {"online": status.online}
    columns = (devices.c.instances, devices.c.status, devices.c.online)
    row = connection.execute(select(*columns).where(devices.c.id == device)).one_or_none()
    if row is None:
        return
    if status.instance is not None:
        known = read_changes(row.instances)
        if not status.online and known and known[-1].instance != status.instance:
            return
        if status.online:
            changes = after_change(known, Change(status.instance, now, address))
            if len(changes) != len(known) or changes[-1] != known[-1]:
                values["instances"] = [[each.instance, each.at, each.address] for each in changes]
                _notice_sharing(connection, device, sharing(changes, now), now)
    if status.online:
        said = msgspec.to_builtins(status)
        values |= {"status": said, "last_seen_at": now, "counter": status.counter}
        store_reported(connection, device, row.status, said, now)
    connection.execute(devices.update().where(devices.c.id == device).values(values))
    if status.online != row.online:
        reason = "connected" if status.online else "ended" if status.at else "lost"  # a will has no time
        record_connection(connection, device, online=status.online, reason=reason, address=address, now=now)


def _notice_sharing(connection: Connection, device: str, turns: list[Change], now: float) -> None:
    if not turns:
        return
    where = " and ".join(sorted(each.address or "an unknown address" for each in turns))
    text = f"two devices use this identity in turns, at {where}: revoke it and enrol each board with an id of its own"
    if store_notice(connection, device, "device.shared_identity", text, now):
        _LOG.warning("device %s: %s [device.shared_identity]", device, text)

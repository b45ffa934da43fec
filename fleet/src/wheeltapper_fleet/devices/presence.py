"""Presence: whether a device is online, and what its last status message said. In the caller's transaction.

Invariants:
    * An "offline" (the MQTT last will) of another instance than the one that reported last changes nothing: it is the
      end of a connection that was replaced.
    * Two instances that report in turns under one identity are a notice, ``device.shared_identity``, and one log line.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, bindparam, select

from wheeltapper_fleet.devices import connections
from wheeltapper_fleet.devices.instances import Change, after_change, read_changes, sharing
from wheeltapper_fleet.devices.notices import store_notice
from wheeltapper_fleet.devices.reported import Said, store_reported
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_protocols.wire.messages import Status

__all__ = ["store_statuses"]

_LOG: Final = logging.getLogger(__name__)


def store_statuses(connection: Connection, said: Mapping[str, tuple[Status, str]], now: float) -> None:
    """Store one status message of each of several devices. One that says "offline" leaves the last known status in
    place; one of a device that is not enrolled changes nothing.

    Cost: one statement that reads, and one for each kind of change that writes.

    Args:
        connection: within the caller's transaction.
        said: by device, its message, and where its newest connection comes from (empty if the broker does not tell).
        now: Unix seconds.
    """
    columns = (devices.c.id, devices.c.instances, devices.c.status, devices.c.online)
    query = select(*columns).where(devices.c.id.in_(said)).order_by(devices.c.id)
    rows: Sequence[Any] = connection.execute(query).all()
    changes: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    of_themselves: list[Said] = []
    came_or_went: list[connections.Change] = []
    for row in rows:
        status, address = said[row.id]
        if _of_another_instance(status, row):
            continue
        values = _changed(connection, row, status, address, now)
        changes.setdefault(tuple(sorted(values)), []).append({"this": row.id, **values})
        if status.online:
            of_themselves.append(Said(row.id, row.status, values["status"]))
        if status.online != row.online:
            reason = "connected" if status.online else "ended" if status.at else "lost"  # a will has no time
            came_or_went.append(connections.Change(row.id, status.online, reason, address))
    for names, values_of_each in changes.items():
        statement = devices.update().where(devices.c.id == bindparam("this"))
        statement = statement.values({name: bindparam(name) for name in names})
        connection.execute(statement, values_of_each)
    store_reported(connection, of_themselves, now)
    connections.record_connections(connection, came_or_went, now)


def _of_another_instance(status: Status, row: Row[Any]) -> bool:
    """Whether this is the end of a connection that another instance has replaced."""
    known = read_changes(row.instances)
    return status.instance is not None and not status.online and bool(known) and known[-1].instance != status.instance


def _changed(connection: Connection, row: Row[Any], status: Status, address: str, now: float) -> dict[str, Any]:
    """What a status message changes in the row of its device, by column."""
    values: dict[str, Any] = {"online": status.online}
    if status.online and status.instance is not None:
        known = read_changes(row.instances)
        changes = after_change(known, Change(status.instance, now, address))
        if len(changes) != len(known) or changes[-1] != known[-1]:
            values["instances"] = [[each.instance, each.at, each.address] for each in changes]
            _notice_sharing(connection, row.id, sharing(changes, now), now)
    if status.online:
        values |= {"status": msgspec.to_builtins(status), "last_seen_at": now, "counter": status.counter}
    return values


def _notice_sharing(connection: Connection, device: str, turns: list[Change], now: float) -> None:
    if not turns:
        return
    where = " and ".join(sorted(each.address or "an unknown address" for each in turns))
    text = f"two devices use this identity in turns, at {where}: revoke it and enrol each board with an id of its own"
    if store_notice(connection, device, "device.shared_identity", text, now):
        _LOG.warning("device %s: %s [device.shared_identity]", device, text)

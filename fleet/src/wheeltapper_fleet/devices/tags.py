"""Tags: what people say of a device, as ``name: value``. In the caller's transaction.

Invariant: ``devices.tags``, which people read, and ``device_tags``, which queries read, say the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, bindparam, delete, insert, update

from wheeltapper_fleet.devices.tables import device_tags, devices
from wheeltapper_fleet.ground.query import natural, spelled_number

__all__ = ["write_tags"]


def write_tags(connection: Connection, tags_by_device: Mapping[str, Mapping[str, str]]) -> None:
    """Give each device these tags instead of those that it has; the devices are there already.

    Cost: three statements for all of them, some thousands at most.
    """
    if not tags_by_device:
        return
    connection.execute(delete(device_tags).where(device_tags.c.device.in_(list(tags_by_device))))
    rows = [
        {
            "device": device,
            "name": name,
            "value": value,
            "number": spelled_number(value),
            "sort_key": natural(value),
        }
        for device, tags in tags_by_device.items()
        for name, value in tags.items()
    ]
    if rows:
        connection.execute(insert(device_tags), rows)
    shown = [{"of": device, "shown": dict(tags)} for device, tags in tags_by_device.items()]
    connection.execute(update(devices).where(devices.c.id == bindparam("of")).values(tags=bindparam("shown")), shown)

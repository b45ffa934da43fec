"""Tags: what people say of a device, as ``name: value``. The tag ``site`` is the device's site.

Invariant: ``devices.tags``, which people read, ``device_tags`` and ``devices.site``, which queries read, say the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, bindparam, delete, insert, update

from wheeltapper_fleet.devices.tables import device_tags, devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.query import natural, spelled_number

__all__ = ["MAX_TAGS", "SITE", "TagChange", "changed_tags", "check_tags", "write_tags"]

MAX_TAGS: Final = 64
SITE: Final = "site"
_MAX_CHARACTERS: Final = 63
_UNSTORABLE: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")

TagChange = Mapping[str, str | None]
"""New values of tags by name; None removes the tag."""


def check_tags(change: TagChange) -> None:
    """Check names and values: 1 to 63 characters, none of them a control character.

    Raises:
        FleetError: ``tag.invalid``.
    """
    for name, value in change.items():
        for text in (name,) if value is None else (name, value):
            if not 0 < len(text) <= _MAX_CHARACTERS or _UNSTORABLE.search(text):
                message = f"the tag {name[:80]!r} has a name or a value that is not 1 to 63 printable characters"
                raise FleetError("tag.invalid", message, 422)


def changed_tags(tags: Mapping[str, str], change: TagChange, device: str) -> dict[str, str]:
    """``tags`` of ``device`` after ``change``.

    Raises:
        FleetError: ``tag.too_many``.
    """
    found = {**tags, **{name: value for name, value in change.items() if value is not None}}
    found = {name: value for name, value in found.items() if not (name in change and change[name] is None)}
    if len(found) > MAX_TAGS:
        raise FleetError("tag.too_many", f"{device} would have {len(found)} tags; at most {MAX_TAGS}", 422)
    return found


def write_tags(connection: Connection, tags_by_device: Mapping[str, Mapping[str, str]]) -> None:
    """Give each device these tags instead of those that it has; the devices are there already.

    In the caller's transaction. Cost: three statements for all of them, some thousands at most.
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
    shown = [{"of": device, "shown": dict(tags), "place": tags.get(SITE)} for device, tags in tags_by_device.items()]
    statement = update(devices).where(devices.c.id == bindparam("of"))
    connection.execute(statement.values(tags=bindparam("shown"), site=bindparam("place")), shown)

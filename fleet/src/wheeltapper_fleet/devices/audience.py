"""An audience: enrolled devices, chosen by name and by tags. In the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, select

from wheeltapper_fleet.devices.tables import devices
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["select_audience"]


def select_audience(connection: Connection, names: Collection[str], tags: Mapping[str, str]) -> list[str]:
    """Ids of the enrolled devices that are in ``names`` (empty: any) and carry all of ``tags``, in order.

    Revoked devices are in no audience.

    Raises:
        FleetError: ``device.not_found``: one of ``names`` is not enrolled, or is revoked.
    """
    rows = connection.execute(
        select(devices.c.id, devices.c.tags).where(devices.c.revoked.is_(False)).order_by(devices.c.id)
    ).all()
    if names:
        known = {row.id for row in rows}
        unknown = [device for device in names if device not in known]
        if unknown:
            raise FleetError("device.not_found", f"not enrolled, or revoked: {', '.join(unknown[:5])}")
        wanted = set(names)
        rows = [row for row in rows if row.id in wanted]
    return [row.id for row in rows if _has_tags(row.tags, tags)]


def _has_tags(tags: Any, wanted: Mapping[str, str]) -> bool:
    return not wanted or (isinstance(tags, dict) and all(tags.get(key) == value for key, value in wanted.items()))

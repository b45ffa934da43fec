"""An audience: active devices, chosen by name, by tags and by a query. In the caller's transaction.

Cost: one query, which reads the indexes of :mod:`wheeltapper_fleet.devices.selection`; the ids of 100,000 devices are
some 10 MB.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from sqlalchemy import ColumnElement, Connection, select

from wheeltapper_fleet.devices.rules import DeviceState
from wheeltapper_fleet.devices.selection import where
from wheeltapper_fleet.devices.tables import device_tags, devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.query import parse

__all__ = ["audience_among", "in_audience", "select_audience"]

_SLICE: Final = 5_000
"""Names that are asked for in one statement."""


def select_audience(
    connection: Connection, names: Collection[str], tags: Mapping[str, str], query: str = "", now: float = 0.0
) -> list[str]:
    """Ids of the active devices that are in ``names`` (empty: any), carry all of ``tags`` and match ``query``, in
    order.

    Devices that are pending, quarantined, revoked or retired are in no audience.

    Args:
        connection: within the caller's transaction.
        names: ids.
        tags: each with the value that it must have.
        query: in the language of :mod:`wheeltapper_fleet.ground.query`; empty: all.
        now: Unix seconds, for the ages in ``query``.

    Raises:
        FleetError: ``device.not_found``: one of ``names`` is not active; ``query.invalid``.
    """
    conditions = _conditions(tags, query, now)
    ids = select(devices.c.id).order_by(devices.c.id)
    if not names:
        return list(connection.execute(ids.where(*conditions)).scalars())
    active: set[str] = set()
    found: list[str] = []
    wanted = sorted(set(names))
    for begin in range(0, len(wanted), _SLICE):
        mine = devices.c.id.in_(wanted[begin : begin + _SLICE])
        active |= set(connection.execute(select(devices.c.id).where(mine, _ACTIVE)).scalars())
        found += connection.execute(ids.where(mine, *conditions)).scalars()
    unknown = [device for device in names if device not in active]
    if unknown:
        raise FleetError("device.not_found", f"not enrolled, or not active: {', '.join(unknown[:5])}")
    return found


def in_audience(
    connection: Connection,
    device: str,
    names: Collection[str],
    tags: Mapping[str, str],
    query: str = "",
    now: float = 0.0,
) -> bool:
    """Whether ``device`` is in the audience of :func:`select_audience` at ``now``. One indexed query."""
    if names and device not in names:
        return False
    wanted = select(devices.c.id).where(devices.c.id == device, *_conditions(tags, query, now))
    return connection.execute(wanted).first() is not None


def audience_among(
    connection: Connection, names: Collection[str], tags: Mapping[str, str], query: str = "", now: float = 0.0
) -> set[str]:
    """Those of ``names`` that are active, carry all of ``tags`` and match ``query`` at ``now``. Costs what it is asked
    about, not the fleet."""
    found: set[str] = set()
    wanted = sorted(set(names))
    for begin in range(0, len(wanted), _SLICE):
        mine = devices.c.id.in_(wanted[begin : begin + _SLICE])
        found |= set(connection.execute(select(devices.c.id).where(mine, *_conditions(tags, query, now))).scalars())
    return found


_ACTIVE: Final = devices.c.state == DeviceState.ACTIVE.value


def _conditions(tags: Mapping[str, str], query: str, now: float) -> list[ColumnElement[bool]]:
    has = [
        devices.c.id.in_(select(device_tags.c.device).where(device_tags.c.name == name, device_tags.c.value == value))
        for name, value in sorted(tags.items())
    ]
    return [_ACTIVE, *has, where(parse(query), now)]

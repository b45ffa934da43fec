"""When a device came and went: the newest changes of each, and why. Pages read them; nothing is decided on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine, delete, func, select

from wheeltapper_fleet.db.bulk import insert_rows
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.devices.schemas import ConnectionView
from wheeltapper_fleet.devices.tables import device_connections, devices
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page

__all__ = ["KEPT", "Change", "Gone", "gone_since", "list_connections", "record_connections"]

KEPT: Final = 200
"""Changes that are kept of each device."""
_CHANGES_READ: Final = 500


@dataclass(frozen=True)
class Change:
    """A device came or went.

    Args:
        device: its id.
        online: whether it came.
        reason: ``connected``, ``ended`` (the agent said that it stops) or ``lost`` (the broker says so in its place).
        address: where it came from; empty if the broker does not tell.
    """

    device: str
    online: bool
    reason: str
    address: str


@dataclass(frozen=True)
class Gone:
    """Devices that went and are still away, the newest first.

    Args:
        devices: each with the reason (as :class:`Change` has it).
        cut: whether there may be more: only the newest changes of the fleet were looked at.
    """

    devices: list[tuple[str, str]]
    cut: bool


def gone_since(engine: Engine, since: float) -> Gone:
    """The devices that went offline since ``since`` (Unix seconds) and are offline now.

    Looks at the newest :data:`_CHANGES_READ` changes of the fleet, by the primary key, and at the devices of those.
    """
    table = device_connections
    with reading(engine) as connection:
        rows = connection.execute(select(table).order_by(table.c.id.desc()).limit(_CHANGES_READ)).all()
        newest = {row.device: row for row in reversed(rows) if row.at >= since}
        names = [device for device, row in newest.items() if not row.online]
        away = select(devices.c.id).where(devices.c.id.in_(names), devices.c.online.is_(False))
        offline = set(connection.execute(away).scalars()) if names else set()
    gone = sorted((newest[device] for device in offline), key=lambda row: row.id, reverse=True)
    cut = len(rows) == _CHANGES_READ and rows[-1].at >= since
    return Gone([(row.device, row.reason) for row in gone], cut)


def record_connections(connection: Connection, changes: Sequence[Change], now: float) -> None:
    """Remember that devices came or went, each once, in the caller's transaction. Their oldest changes give way.

    Cost: at most three statements, for all of them.
    """
    if not changes:
        return
    table = device_connections
    rows = [(each.device, now, each.online, each.reason, each.address[:64]) for each in changes]
    insert_rows(connection, table, ("device", "at", "online", "reason", "address"), rows)
    devices = [each.device for each in changes]
    place = func.row_number().over(partition_by=table.c.device, order_by=table.c.id.desc()).label("place")
    placed = select(table.c.id, place).where(table.c.device.in_(devices)).subquery()
    oldest = connection.execute(select(placed.c.id).where(placed.c.place > KEPT)).scalars().all()
    if oldest:
        connection.execute(delete(table).where(table.c.id.in_(oldest)))


def list_connections(
    engine: Engine, device: str, limit: int = DEFAULT_LIMIT, after: str | None = None
) -> Page[ConnectionView]:
    """A page of when ``device`` came and went, newest first.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    query = select(device_connections).where(device_connections.c.device == device)
    with reading(engine) as connection:
        key = (device_connections.c.id,)
        rows, following = page_of(connection, query, key, limit=limit, after=after, descending=True)
    return Page([ConnectionView.model_validate(row, from_attributes=True) for row in rows], following)

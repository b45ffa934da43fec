"""When a device came and went: the newest changes of each, and why. Pages read them; nothing is decided on them."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, Engine, delete, insert, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.devices.schemas import ConnectionView
from wheeltapper_fleet.devices.tables import device_connections
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page

__all__ = ["KEPT", "list_connections", "record_connection"]

KEPT: Final = 200
"""Changes that are kept of each device."""


def record_connection(
    connection: Connection, device: str, *, online: bool, reason: str, address: str, now: float
) -> None:
    """Remember that ``device`` came or went, in the caller's transaction. Its oldest changes give way.

    Args:
        connection: within the caller's transaction.
        device: its id.
        online: whether it came.
        reason: ``connected``, ``ended`` (the agent said that it stops) or ``lost`` (the broker says so in its place).
        address: where it came from; empty if the broker does not tell.
        now: Unix seconds.
    """
    table = device_connections
    row = {"device": device, "at": now, "online": online, "reason": reason, "address": address[:64]}
    connection.execute(insert(table).values(row))
    newest = select(table.c.id).where(table.c.device == device).order_by(table.c.id.desc()).offset(KEPT).limit(1)
    if (oldest := connection.execute(newest).scalar_one_or_none()) is not None:
        connection.execute(delete(table).where(table.c.device == device, table.c.id <= oldest))


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

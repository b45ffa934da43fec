"""Notices: what is wrong with a device itself, as the fleet sees it; each is one row with a count.

Every function works in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, select

from wheeltapper_fleet.db.engine import upsert_statement
from wheeltapper_fleet.devices.tables import device_notices

__all__ = ["clear_notice", "clear_notices", "notices_by_device", "notices_of", "store_notice"]

_DETAIL_CHARACTERS: Final = 500


def store_notice(connection: Connection, device: str, code: str, detail: str, now: float, times: int = 1) -> bool:
    """Count that ``code`` was true of ``device``, ``times`` times by ``now`` (Unix seconds); True if this is the first
    time.

    ``detail`` replaces the one before.
    """
    same = (device_notices.c.device == device, device_notices.c.code == code)
    known = connection.execute(select(device_notices.c.device).where(*same)).first() is not None
    detail = detail[:_DETAIL_CHARACTERS]
    row = {"device": device, "code": code, "detail": detail, "first_at": now, "last_at": now, "count": times}
    changed = {"detail": detail, "last_at": now, "count": device_notices.c["count"] + times}
    statement = upsert_statement(connection, device_notices).values(row)
    connection.execute(statement.on_conflict_do_update(index_elements=["device", "code"], set_=changed))
    return not known


def notices_of(connection: Connection, device: str) -> Sequence[Row[Any]]:
    """The notices of ``device``, newest first."""
    query = select(device_notices).where(device_notices.c.device == device).order_by(device_notices.c.last_at.desc())
    return connection.execute(query).all()


def notices_by_device(connection: Connection, names: Sequence[str]) -> dict[str, list[Row[Any]]]:
    """The notices of those of ``names`` that have any, newest first. One statement."""
    found: dict[str, list[Row[Any]]] = {}
    query = select(device_notices).where(device_notices.c.device.in_(names))
    for row in connection.execute(query.order_by(device_notices.c.last_at.desc())):
        found.setdefault(row.device, []).append(row)
    return found


def clear_notice(connection: Connection, device: str, code: str) -> None:
    """Forget one notice of ``device``, if it has it: it is true no more."""
    connection.execute(delete(device_notices).where(device_notices.c.device == device, device_notices.c.code == code))


def clear_notices(connection: Connection, device: str) -> None:
    """Forget every notice of ``device``: it is enrolled anew."""
    connection.execute(delete(device_notices).where(device_notices.c.device == device))

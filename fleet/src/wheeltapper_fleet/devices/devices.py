"""Devices as people see them: identity, tags, last status, delivery."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, func, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.telemetry.tables import records, spools

__all__ = ["get_device", "list_devices"]

_COLUMNS = (
    devices.c.id,
    devices.c.tags,
    devices.c.enrolled_at,
    devices.c.certificate_expires_at,
    devices.c.revoked,
    devices.c.online,
    devices.c.last_seen_at,
    devices.c.status,
    devices.c.counter,
)


def list_devices(engine: Engine) -> list[dict[str, Any]]:
    """Every device, by id."""
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(select(*_COLUMNS).order_by(devices.c.id)).mappings()]


def get_device(engine: Engine, device: str) -> dict[str, Any]:
    """One device, with ``spools`` (delivery by epoch) and ``records`` (how many are stored).

    Raises:
        FleetError: ``device.not_found``.
    """
    with reading(engine) as connection:
        row = connection.execute(select(*_COLUMNS).where(devices.c.id == device)).mappings().one_or_none()
        if row is None:
            raise FleetError("device.not_found", f"there is no device {device[:63]!r}")
        spool_rows = connection.execute(select(spools).where(spools.c.device == device)).mappings().all()
        stored = connection.execute(
            select(func.count()).select_from(records).where(records.c.device == device)
        ).scalar_one()
    return {**row, "spools": [dict(each) for each in spool_rows], "records": stored}

"""The end of a device's enrolment: it is revoked, or removed so that its id can be enrolled again."""

from __future__ import annotations

from sqlalchemy import Engine, delete, update

from wheeltapper_fleet.devices.notices import clear_notices
from wheeltapper_fleet.devices.reported import clear_reported
from wheeltapper_fleet.devices.rules import DeviceState
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_fleet.devices.tags import write_tags
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["forget_device", "revoke_device"]


def revoke_device(engine: Engine, device: str) -> None:
    """Refuse ``device`` from now on: no connection, no download, no upload.

    Raises:
        FleetError: ``device.not_found``.
    """
    with engine.begin() as connection:
        _one(
            connection.execute(
                update(devices).where(devices.c.id == device).values(state=DeviceState.REVOKED.value)
            ).rowcount,
            device,
        )


def forget_device(engine: Engine, device: str) -> None:
    """Remove ``device``, so that its id can be enrolled again (for a board that lost its key).

    Its old certificate stays refused, since the database then knows none or another one. Its records stay.

    Raises:
        FleetError: ``device.not_found``.
    """
    with engine.begin() as connection:
        clear_notices(connection, device)
        clear_reported(connection, device)
        write_tags(connection, {device: {}})
        _one(connection.execute(delete(devices).where(devices.c.id == device)).rowcount, device)


def _one(rows: int, device: str) -> None:
    if rows != 1:
        raise FleetError("device.not_found", f"there is no device {device[:80]!r}")

"""Compares the certificate that a device shows with the one that the database knows as its current one.

The broker asks at every connection, the devices' API at every request, so a revoked device or an old certificate is
refused at once.
"""

from __future__ import annotations

from sqlalchemy import Engine, func, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.trust.ca import DEVICE_SECONDS
from wheeltapper_fleet.trust.expiry import ENDING_SHARE, Life, RenewedBy

__all__ = ["check_certificate", "current_certificate_sha256", "ending_certificates"]


def current_certificate_sha256(engine: Engine, device: str) -> str | None:
    """The fingerprint of a device's current certificate; None if the device is unknown or revoked."""
    query = select(devices.c.certificate_sha256).where(devices.c.id == device, devices.c.revoked.is_(False))
    with reading(engine) as connection:
        return connection.execute(query).scalar_one_or_none()


def check_certificate(engine: Engine, device: str, sha256: str | None) -> None:
    """Check that a device is known, not revoked, and shows its current certificate.

    Args:
        engine: the fleet's database.
        device: the common name of the certificate.
        sha256: the certificate's fingerprint.

    Raises:
        FleetError: ``device.unknown``, ``device.revoked``, ``device.certificate_replaced``.
    """
    query = select(devices.c.revoked, devices.c.certificate_sha256).where(devices.c.id == device)
    with reading(engine) as connection:
        row = connection.execute(query).first()
    if row is None:
        raise FleetError("device.unknown", f"{device[:80]!r} is not enrolled here")
    if row.revoked:
        raise FleetError("device.revoked", f"{device} is revoked")
    if row.certificate_sha256 != sha256:
        raise FleetError("device.certificate_replaced", f"{device} has enrolled again; this certificate is void", 403)


def ending_certificates(engine: Engine, now: float, life_seconds: float = DEVICE_SECONDS) -> list[Life]:
    """The devices whose certificates end soon or have ended, as one entry with the earliest end.

    Args:
        engine: the fleet's database.
        now: Unix seconds.
        life_seconds: how long a device's certificate lives.
    """
    soon = devices.c.certificate_expires_at < now + ENDING_SHARE * life_seconds
    query = select(func.count(), func.min(devices.c.certificate_expires_at)).where(soon, devices.c.revoked.is_(False))
    with reading(engine) as connection:
        count, first = connection.execute(query).one()
    if not count:
        return []
    return [
        Life("device certificate", first, life_seconds, RenewedBy.DEVICE, detail=f"the first of {count} that end soon")
    ]

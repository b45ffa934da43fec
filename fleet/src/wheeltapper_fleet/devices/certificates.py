"""Compares the certificate that a device shows with those that the database knows: its current one, and the next.

The broker asks at every connection, the devices' API at every request, so a revoked device or an old certificate is
refused at once.

Invariant: a device that renews its certificate is accepted with the current one until it shows the next one. From that
moment on the next one is the current one, and the old one is refused.
"""

from __future__ import annotations

from sqlalchemy import Engine, Row, func, select, update

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.rules import CONNECTING, may_connect
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.trust.ca import DEVICE_SECONDS
from wheeltapper_fleet.trust.expiry import ENDING_SHARE, Life, RenewedBy

__all__ = ["accepts_certificate", "check_certificate", "ending_certificates"]


def accepts_certificate(engine: Engine, device: str, sha256: str) -> bool:
    """Whether a device is known, not revoked, and shows a certificate of its own; see :func:`check_certificate`."""
    row = _row(engine, device)
    return row is not None and may_connect(row.state) and _is_own(engine, device, row, sha256)


def check_certificate(engine: Engine, device: str, sha256: str | None) -> None:
    """Check that a device is known, not revoked, and shows its current certificate, or its next one, which becomes the
    current one by that.

    Args:
        engine: the fleet's database.
        device: the common name of the certificate.
        sha256: the certificate's fingerprint.

    Raises:
        FleetError: ``device.unknown``, ``device.revoked``, ``device.certificate_replaced``.
    """
    row = _row(engine, device)
    if row is None:
        raise FleetError("device.unknown", f"{device[:80]!r} is not enrolled here")
    if not may_connect(row.state):
        raise FleetError("device.revoked", f"{device} is {row.state}")
    if sha256 is None or not _is_own(engine, device, row, sha256):
        message = f"{device} has a newer certificate, or has enrolled again; this certificate is void"
        raise FleetError("device.certificate_replaced", message, 403)


def _row(engine: Engine, device: str) -> Row[str, str | None, str | None] | None:
    columns = (devices.c.state, devices.c.certificate_sha256, devices.c.next_certificate_sha256)
    with reading(engine, for_devices=True) as connection:
        return connection.execute(select(*columns).where(devices.c.id == device)).first()


def _is_own(engine: Engine, device: str, row: Row[str, str | None, str | None], sha256: str) -> bool:
    """Whether the certificate is the current one, or the next one, which then becomes the current one."""
    if row.certificate_sha256 == sha256:
        return True
    if row.next_certificate_sha256 != sha256:
        return False
    shown = {
        "certificate_sha256": devices.c.next_certificate_sha256,
        "certificate_expires_at": devices.c.next_certificate_expires_at,
        "next_certificate_sha256": None,
        "next_certificate_expires_at": None,
    }
    same = (devices.c.id == device, devices.c.state.in_(CONNECTING), devices.c.next_certificate_sha256 == sha256)
    with engine.begin() as connection:
        if connection.execute(update(devices).where(*same).values(shown)).rowcount == 1:
            return True
    # Two connections that show it at once: the other one was faster. Or the device was revoked meanwhile.
    row_now = _row(engine, device)
    return row_now is not None and may_connect(row_now.state) and row_now.certificate_sha256 == sha256


def ending_certificates(engine: Engine, now: float, life_seconds: float = DEVICE_SECONDS) -> list[Life]:
    """The devices whose certificates end soon or have ended, as one entry with the earliest end.

    Reads one row of an index for each of these devices.

    Args:
        engine: the fleet's database.
        now: Unix seconds.
        life_seconds: how long a device's certificate lives.
    """
    soon = devices.c.certificate_expires_at < now + ENDING_SHARE * life_seconds
    query = select(func.count(), func.min(devices.c.certificate_expires_at)).where(
        soon, devices.c.state.in_(CONNECTING)
    )
    with reading(engine) as connection:
        count, first = connection.execute(query).one()
    if not count:
        return []
    return [
        Life("device certificate", first, life_seconds, RenewedBy.DEVICE, detail=f"the first of {count} that end soon")
    ]

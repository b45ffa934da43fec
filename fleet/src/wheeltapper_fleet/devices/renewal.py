"""Renewal: a device that shows its certificate gets the next one, for a new key, before the present one ends.

Invariants:
    * Only the device itself can ask, over mutual TLS; the next certificate has the same common name.
    * The present certificate stays good until the device has shown the next one
      (:mod:`wheeltapper_fleet.devices.certificates`). A device that lost the answer asks again, which voids the one
      before.
    * A device that is revoked, or that shows another certificate than the current one, gets none.

What this module does not do: decide when (the device does, with jitter); limit the rate
(:mod:`wheeltapper_fleet.device_api`). A certificate that has ended is not renewed: the device is enrolled again.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, update

from wheeltapper_fleet.devices.issued import record_issued
from wheeltapper_fleet.devices.rules import CONNECTING
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.trust.ca import FleetCA

__all__ = ["Renewed", "renew_certificate"]


@dataclass(frozen=True)
class Renewed:
    """The answer to a device: its next certificate (PEM), when it ends (Unix seconds), and the fleet's CA (PEM)."""

    certificate: str
    expires_at: float
    ca: str


def renew_certificate(engine: Engine, ca: FleetCA, device: str, shown_sha256: str, csr_pem: bytes) -> Renewed:
    """Issue the next certificate of ``device``.

    Args:
        engine: the fleet's database.
        ca: signs the certificate.
        device: who asks, from the certificate that it shows.
        shown_sha256: that certificate's fingerprint.
        csr_pem: PKCS#10 in PEM, signed by the new key, with the subject CN = ``device``.

    Raises:
        FleetError: ``enrol.csr_invalid``, ``enrol.cn_mismatch``, ``device.certificate_replaced``.
    """
    issued = ca.sign_device_csr(csr_pem, device)
    current = (devices.c.id == device, devices.c.state.in_(CONNECTING), devices.c.certificate_sha256 == shown_sha256)
    following = {"next_certificate_sha256": issued.sha256, "next_certificate_expires_at": issued.expires_at}
    with engine.begin() as connection:
        if connection.execute(update(devices).where(*current).values(following)).rowcount != 1:
            message = f"{device} was revoked or has a newer certificate; this one cannot be renewed"
            raise FleetError("device.certificate_replaced", message, 403)
        record_issued(connection, device, issued, ca.now())
    return Renewed(issued.pem.decode("ascii"), issued.expires_at, ca.pem.decode("ascii"))

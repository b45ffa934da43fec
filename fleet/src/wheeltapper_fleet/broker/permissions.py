"""The rules of who may connect to the broker, and which subjects each connection may publish and subscribe to.

Invariants:
    * The MQTT client id must be the certificate's common name, so that no device takes over another's session.
    * A device may publish below its own ``up/`` and subscribe below its own ``down/``, nothing else.
    * A device's certificate must be its current one, and the device must not be revoked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.names import FLEET_COMMON_NAME, FLEET_PREFIX
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.ids import device_id

__all__ = ["FLEET_CLIENT_ID", "Permissions", "client_id_of", "permissions_of"]


def client_id_of(common_name: str) -> str:
    """The MQTT client id of who shows a certificate of this name: nats-server accepts no dot in it, and no device id
    has an underscore.
    """
    return common_name.replace(".", "_") if common_name.startswith(FLEET_PREFIX) else common_name


FLEET_CLIENT_ID: Final = client_id_of(FLEET_COMMON_NAME)
"""MQTT client id of a service that is one process."""


@dataclass(frozen=True)
class Permissions:
    """The NATS subjects that one connection may publish and subscribe to (an MQTT ``/`` is a NATS ``.``)."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def permissions_of(
    common_name: str,
    fingerprint: str,
    client_id: str,
    current_fingerprint: Callable[[str], str | None],
    fleet_fingerprint: Callable[[str], str | None],
) -> Permissions:
    """The permissions of whoever connects with a certificate that the broker has verified.

    Args:
        common_name: the certificate's.
        fingerprint: SHA-256 (hex) of the certificate's DER.
        client_id: the MQTT client id.
        current_fingerprint: gives the fingerprint of a device's current certificate; None for a device that is unknown
            or revoked.
        fleet_fingerprint: gives the fingerprint of the certificate of a process of the service, by its common name;
            None if there is none.

    Raises:
        FleetError: ``device.unknown``, ``device.client_id``.
    """
    if client_id != client_id_of(common_name):
        raise FleetError("device.client_id", "the MQTT client id must be the certificate's common name", 403)
    if common_name.startswith(FLEET_PREFIX):
        if fingerprint != fleet_fingerprint(common_name):
            raise FleetError("device.unknown", "this is not the fleet's own certificate", 403)
        return Permissions(publish=("wt.v1.*.down.*",), subscribe=("wt.v1.*.up.*", "wtp.v1.*.*.up.*"))
    try:
        device = device_id(common_name)
    except WireError as error:
        raise FleetError("device.unknown", "the certificate's common name is not a device id", 403) from error
    if current_fingerprint(device) != fingerprint:
        raise FleetError("device.unknown", "the device is unknown, revoked, or has a newer certificate", 403)
    # nats-server looks at what a publish is mapped to (partitions.py); in any partition it is the device itself.
    own = (f"wt.v1.{device}.up.*", f"wtp.v1.*.{device}.up.*")
    return Permissions(publish=own, subscribe=(f"wt.v1.{device}.down.*",))

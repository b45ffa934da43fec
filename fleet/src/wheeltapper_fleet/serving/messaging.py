"""Messaging with devices: the broker, who may connect to it, the fleet's own connection, and the ingest.

========= ================================ ============================== ============================================
broker    who may connect                  a revoked device               several ingest processes
========= ================================ ============================== ============================================
embedded  the auth callout decides         its connection is ended        there is one process
nats      the auth callout decides         its connection is ended        each subscribes to its partitions
mosquitto its ACL and revocation list      is on the list, and taken over share one subscription
========= ================================ ============================== ============================================
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from sqlalchemy import Engine as Database

from wheeltapper_fleet.broker.auth_callout import AuthCallout
from wheeltapper_fleet.broker.config import BrokerConfig
from wheeltapper_fleet.broker.configure import auth_keys
from wheeltapper_fleet.broker.link import SHARED_UP_FILTER, FleetLink
from wheeltapper_fleet.broker.partitions import PARTITIONS, STATUS_FILTER, partitions_of
from wheeltapper_fleet.broker.permissions import client_id_of
from wheeltapper_fleet.broker.revocation import Revocation
from wheeltapper_fleet.broker.server import BrokerServer
from wheeltapper_fleet.config import FleetConfig
from wheeltapper_fleet.ground.names import fleet_name
from wheeltapper_fleet.ingest.ingest import Ingest
from wheeltapper_fleet.processes.membership import Membership
from wheeltapper_fleet.serving.process import reachable
from wheeltapper_fleet.trust.ca import FleetCA, TlsFiles
from wheeltapper_fleet.trust.certificates import certificate_sha256

__all__ = ["Messaging", "start_messaging"]

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Messaging:
    """The parts that talk to devices over MQTT, of those that this process has.

    Args:
        server_tls: the certificate of the embedded broker and of the devices' HTTPS server.
        own_tls: that with which this process connects.
        broker: the embedded one.
        auth: answers NATS who may connect.
        revocation: keeps the list of Mosquitto.
        link: this process's own connection.
        ingest: stores what comes.
    """

    server_tls: TlsFiles
    own_tls: TlsFiles
    broker: BrokerServer | None = None
    auth: AuthCallout | None = None
    revocation: Revocation | None = None
    link: FleetLink | None = None
    ingest: Ingest | None = None

    def failing(self) -> list[str]:
        """The names of the parts that do not work at the moment."""
        parts = {
            "broker": self.broker is None or self.broker.pid is not None,
            "link": self.link is None or self.link.connected,
        }
        return [name for name, works in parts.items() if not works]

    def disconnect(self, device: str) -> None:
        """End the connection of a device that was revoked; it is refused when it reconnects."""
        try:
            if self.auth is not None:
                self.auth.disconnect(device)
            if self.revocation is not None:
                self.revocation.disconnect(device)
        except Exception as error:  # noqa: BLE001  # the device is revoked in any case; the broker may be restarting
            _LOG.warning("device %s is revoked, but its connection could not be ended: %s", device, error)


def start_messaging(
    config: FleetConfig, mqtt_port: int, ca: FleetCA, database: Database, stack: ExitStack
) -> Messaging:
    """Start what this process has of broker, auth callout, its own connection and the ingest; ``stack`` ends them."""
    kind, process = config.broker.kind, config.process
    own = ca.ingest_files(process)
    parts: dict[str, Any] = {"server_tls": ca.server_files(config.public_hosts), "own_tls": own}
    if kind == "mosquitto":
        parts["revocation"] = Revocation(database, ca, config.broker)
    else:
        auth = _auth_callout(config, ca, own, database)
        urls = config.broker.client_urls
        if kind == "embedded":
            parts["broker"] = _embedded(config, mqtt_port, parts["server_tls"], auth, stack)
            urls = (parts["broker"].client_url,)
        stack.callback(auth.stop)
        auth.start(*urls, ca=own.ca if kind == "nats" else None)
        parts["auth"] = auth
    if config.role != "api":
        link = parts["link"] = _link(config, mqtt_port, own)
        if config.role != "engine":
            ingest = parts["ingest"] = Ingest(database, link.publish, **_addresses(parts.get("auth")))
            ingest.start()
            stack.callback(ingest.stop)
            link.on_message = ingest.offer
            _join(config, link, database, stack)
        stack.callback(link.stop)
        link.start()
    return Messaging(**parts)


def _join(config: FleetConfig, link: FleetLink, database: Database, stack: ExitStack) -> None:
    """Share what devices send with the other ingest processes, where the broker has partitions."""
    if config.role != "ingest":
        return

    def share(names: tuple[str, ...]) -> None:
        if config.broker.kind == "nats":
            link.take(partitions_of(config.process, names))

    membership = Membership(database, config.process, config.role, share)
    stack.callback(membership.stop)
    membership.start()


def _addresses(auth: AuthCallout | None) -> dict[str, Any]:
    """How the ingest learns where a device's connection comes from: only the auth callout knows."""
    return {} if auth is None else {"address_of": auth.address}


def _auth_callout(config: FleetConfig, ca: FleetCA, own: TlsFiles, database: Database) -> AuthCallout:
    """Raises FleetError ``broker.not_configured``."""
    keys = auth_keys(config.data_dir) if config.broker.kind == "nats" else None
    fingerprint = certificate_sha256(x509.load_pem_x509_certificate(own.certificate.read_bytes()))
    return AuthCallout(
        database, fleet_certificate_sha256=fingerprint, fleet_fingerprint=ca.fleet_fingerprint, keys=keys
    )


def _embedded(config: FleetConfig, mqtt_port: int, tls: TlsFiles, auth: AuthCallout, stack: ExitStack) -> BrokerServer:
    """Start the embedded broker."""
    settings = BrokerConfig(
        folder=(config.data_dir / "broker").resolve(),
        certificate=tls.certificate.resolve(),
        key=tls.key.resolve(),
        ca=tls.ca.resolve(),
        mqtt_host=config.mqtt_host,
        mqtt_port=mqtt_port,
        client_port=0,
    )
    broker = BrokerServer(settings, auth_user=auth.user, auth_issuer=auth.issuer)
    stack.callback(broker.stop)
    broker.start()
    return broker


def _link(config: FleetConfig, mqtt_port: int, own: TlsFiles) -> FleetLink:
    """This process's own connection, which hears of devices what is this process's to store."""
    kind = config.broker.kind
    options: dict[str, Any] = {}
    places = config.broker.own or ((reachable(config.mqtt_host), mqtt_port),)
    if config.role == "engine":
        options["filters"] = ()
    elif kind == "nats":
        options["partitions"] = range(PARTITIONS)
    elif kind == "mosquitto" and config.role == "ingest":
        options |= {"filters": (SHARED_UP_FILTER,), "retained": STATUS_FILTER}
    return FleetLink(
        host=places[0][0],
        port=places[0][1],
        others=places[1:],
        ca=own.ca,
        certificate=own.certificate,
        key=own.key,
        client_id=client_id_of(fleet_name(config.process)) if kind != "mosquitto" else fleet_name(config.process),
        newest_mqtt=5 if kind == "mosquitto" else 3,
        **options,
    )

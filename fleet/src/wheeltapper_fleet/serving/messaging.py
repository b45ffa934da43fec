"""Messaging with devices: the broker, who may connect to it, the fleet's own connection, and the ingest."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from sqlalchemy import Engine as Database

from wheeltapper_fleet.broker.auth_callout import AuthCallout
from wheeltapper_fleet.broker.config import BrokerConfig
from wheeltapper_fleet.broker.link import FleetLink
from wheeltapper_fleet.broker.server import BrokerServer
from wheeltapper_fleet.config import FleetConfig
from wheeltapper_fleet.ingest.ingest import Ingest
from wheeltapper_fleet.serving.process import reachable
from wheeltapper_fleet.trust.ca import FleetCA, TlsFiles
from wheeltapper_fleet.trust.certificates import certificate_sha256

__all__ = ["Messaging", "start_messaging"]

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class Messaging:
    """The parts that talk to devices over MQTT: broker, auth callout, the fleet's own connection, ingest."""

    broker: BrokerServer
    auth: AuthCallout
    link: FleetLink
    ingest: Ingest
    server_tls: TlsFiles
    own_tls: TlsFiles

    def failing(self) -> list[str]:
        """The names of the parts that do not work at the moment."""
        parts = {"broker": self.broker.pid is not None, "link": self.link.connected}
        return [name for name, works in parts.items() if not works]

    def disconnect(self, device: str) -> None:
        """End the connection of a device that was revoked; the auth callout refuses it when it reconnects."""
        try:
            self.auth.disconnect(device)
        except Exception:  # noqa: BLE001  # the device is revoked in any case; the broker may be restarting
            _LOG.warning(
                "device %s is revoked, but its connection could not be ended; it ends at its next reconnect", device
            )


def start_messaging(
    config: FleetConfig, mqtt_port: int, ca: FleetCA, database: Database, stack: ExitStack
) -> Messaging:
    """Start broker, auth callout, the fleet's own connection and the ingest; ``stack`` ends them."""
    server, own = ca.server_files(config.public_hosts), ca.ingest_files()
    fingerprint = certificate_sha256(x509.load_pem_x509_certificate(own.certificate.read_bytes()))
    auth = AuthCallout(database, fleet_certificate_sha256=fingerprint)
    broker_config = BrokerConfig(
        folder=(config.data_dir / "broker").resolve(),
        certificate=server.certificate.resolve(),
        key=server.key.resolve(),
        ca=server.ca.resolve(),
        mqtt_host=config.mqtt_host,
        mqtt_port=mqtt_port,
        client_port=0,
    )
    broker = BrokerServer(broker_config, auth_user=auth.user, auth_issuer=auth.issuer)
    stack.callback(broker.stop)
    broker.start()
    stack.callback(auth.stop)
    auth.start(broker.client_url)
    link = FleetLink(
        host=reachable(config.mqtt_host), port=mqtt_port, ca=own.ca, certificate=own.certificate, key=own.key
    )
    ingest = Ingest(database, link.publish, address_of=auth.address)
    ingest.start()
    stack.callback(ingest.stop)
    link.on_message = ingest.offer
    stack.callback(link.stop)
    link.start()
    return Messaging(broker, auth, link, ingest, server, own)

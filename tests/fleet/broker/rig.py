"""A real broker with real certificates: a test CA, paho clients as devices, and the fleet's services on a database."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import paho.mqtt.client as mqtt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy import Engine

from tests.agent.servers import with_key_identifiers
from wheeltapper_fleet.broker.auth_callout import AuthCallout
from wheeltapper_fleet.broker.config import BrokerConfig
from wheeltapper_fleet.broker.link import FleetLink
from wheeltapper_fleet.broker.server import BrokerServer
from wheeltapper_fleet.db.engine import open_database
from wheeltapper_fleet.ground.names import FLEET_COMMON_NAME
from wheeltapper_fleet.ingest.ingest import Ingest
from wheeltapper_fleet.tables import devices
from wheeltapper_protocols.wire.topics import down_filter


def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    """Wait until a condition holds; fails after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("the condition did not hold in time")
        time.sleep(0.02)


class Ca:
    """A certificate authority whose files are in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        certificate = self._build(self._name, self._key.public_key(), ca=True)
        self.path = folder / "ca.pem"
        self.path.write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(self, common_name: str, tag: str = "") -> tuple[Path, Path, str]:
        """Issue a certificate; gives the paths of certificate and key, and the fingerprint."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        certificate = self._build(subject, key.public_key(), ca=False)
        paths = self.folder / f"{common_name}{tag}.pem", self.folder / f"{common_name}{tag}.key"
        paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
        paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return *paths, hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()

    def _build(self, subject: x509.Name, key: Any, *, ca: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = with_key_identifiers(builder, key, self._key.public_key(), ca)
        return builder.sign(self._key, hashes.SHA256())


@dataclass
class Device:
    """A paho client that connects as an agent does: client id = CN, subscriptions at QoS 0, clean session."""

    client: mqtt.Client
    heard: list[tuple[str, bytes]] = field(default_factory=list)
    connections: int = 0
    refusals: int = 0
    connected: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class Rig:
    """Database, broker, auth callout, the fleet's connection and ingest, all real."""

    def __init__(self, folder: Path) -> None:
        self.ca = Ca(folder)
        self.database: Engine = open_database(f"sqlite:///{folder}/fleet.db")
        certificate, key, _ = self.ca.issue("localhost")
        fleet_certificate, fleet_key, fingerprint = self.ca.issue(FLEET_COMMON_NAME)
        self.auth = AuthCallout(self.database, fleet_certificate_sha256=fingerprint)
        config = BrokerConfig(
            folder=folder / "broker", certificate=certificate, key=key, ca=self.ca.path, mqtt_port=0, client_port=0
        )
        self.server = BrokerServer(config, auth_user=self.auth.user, auth_issuer=self.auth.issuer)
        self.server.start()
        self.auth.start(self.server.client_url)
        self.port = self.server.config.mqtt_port
        self.link = FleetLink(
            host="127.0.0.1", port=self.port, ca=self.ca.path, certificate=fleet_certificate, key=fleet_key
        )
        self.ingest = Ingest(self.database, self.link.publish, address_of=self.auth.address)
        self.link.on_message = self.ingest.offer
        self.link.start()
        self.ingest.start()
        self.certificates: dict[str, tuple[Path, Path]] = {}

    def stop(self) -> None:
        self.link.stop()
        self.ingest.stop()
        self.auth.stop()
        self.server.stop()
        self.database.dispose()

    def enrol(self, device: str, *, revoked: bool = False) -> None:
        certificate, key, fingerprint = self.ca.issue(device)
        self.certificates[device] = certificate, key
        with self.database.begin() as connection:
            connection.execute(
                devices.insert().values(
                    id=device,
                    tags={},
                    enrolled_at=0.0,
                    certificate_sha256=fingerprint,
                    certificate_expires_at=1e10,
                    state="revoked" if revoked else "active",
                )
            )

    def connect(
        self,
        device: str,
        *,
        client_id: str | None = None,
        files: tuple[Path, Path] | None = None,
        wait: bool = True,
        address: str = "",
    ) -> Device:
        context = ssl.create_default_context(cafile=str(self.ca.path))
        certificate, key = files or self.certificates[device]
        context.load_cert_chain(str(certificate), str(key))
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=device if client_id is None else client_id, protocol=mqtt.MQTTv311
        )
        client.tls_set_context(context)
        client.reconnect_delay_set(1, 1)
        client.will_set(f"wt/v1/{device}/up/status", b'{"online":false}', qos=1, retain=True)
        device_client = Device(client)

        def on_connect(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            if reason.is_failure:
                device_client.refusals += 1
                return
            client.subscribe(down_filter(device), qos=0)

        def on_subscribe(*_: Any) -> None:
            device_client.connections += 1
            device_client.connected.set()

        def on_disconnect(*_: Any) -> None:
            device_client.connected.clear()
            device_client.refusals += 1

        client.on_connect = on_connect
        client.on_subscribe = on_subscribe
        client.on_disconnect = on_disconnect
        client.on_message = lambda _c, _d, message: device_client.heard.append((message.topic, bytes(message.payload)))
        client.connect_async("127.0.0.1", self.port, keepalive=20, bind_address=address)
        client.loop_start()
        if wait:
            assert device_client.connected.wait(10), "the device could not connect"
        return device_client

"""Real TLS, a real broker and a real HTTPS server over several lives of their certificates.

Certificates are valid from an hour before their issue. The clock of the CA is set forward by less than that, so that
all that it issues is valid for the real clock, by which TLS is verified.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from cryptography import x509
from paho.mqtt.enums import CallbackAPIVersion

from tests.fleet.broker.rig import until
from tests.fleet.trust.world import MODEL, Clock, World
from wheeltapper_agent.config import load_config
from wheeltapper_agent.ground.profile import load_profile
from wheeltapper_agent.link.identity import enroll, load_identity, parse_token
from wheeltapper_agent.link.validity import read_validity
from wheeltapper_agent.service import Agent
from wheeltapper_fleet.broker.auth_callout import AuthCallout
from wheeltapper_fleet.broker.config import BrokerConfig
from wheeltapper_fleet.broker.link import FleetLink
from wheeltapper_fleet.broker.server import BrokerServer
from wheeltapper_fleet.device_api.app import DeviceApi, device_app
from wheeltapper_fleet.device_api.tls_server import device_server, listening_socket
from wheeltapper_fleet.devices.enrolment import Endpoints
from wheeltapper_fleet.reloading import AdminCertificate, IngestCertificate, ServerCertificate, on_loop
from wheeltapper_fleet.trust.ca import CertificateLives, FleetCA, TlsFiles
from wheeltapper_fleet.trust.certificates import certificate_sha256
from wheeltapper_fleet.trust.keys import init_keys
from wheeltapper_fleet.upkeep import Upkeep

LIFE_SECONDS = 1000.0
DEVICE_SECONDS = 14.0
RENEWED_SECONDS = 700.0
"""More than two thirds of the life."""


class Service:
    """The parts of the service that show certificates, as ``serve`` connects them; certificates live for seconds."""

    def __init__(self, folder: Path, device_seconds: float = LIFE_SECONDS) -> None:
        init_keys(folder / "offline", folder / "data", [MODEL])
        self.world = World(folder, Clock())
        lives = CertificateLives(
            ca_seconds=3 * LIFE_SECONDS,
            service_seconds=LIFE_SECONDS,
            device_seconds=device_seconds,
            device_backdate_seconds=1.0,
        )
        self.clock = self.world.clock
        self.ca = self.world.ca = self.world.enrolment._ca = FleetCA.create(folder / "short-ca", self.clock, lives)
        server, own = self.ca.server_files(), self.ca.ingest_files()
        fingerprint = certificate_sha256(x509.load_pem_x509_certificate(own.certificate.read_bytes()))
        self.auth = AuthCallout(self.world.engine, fleet_certificate_sha256=fingerprint)
        config = BrokerConfig(
            folder=folder / "broker",
            certificate=server.certificate,
            key=server.key,
            ca=server.ca,
            mqtt_port=0,
            client_port=0,
        )
        self.broker = BrokerServer(config, auth_user=self.auth.user, auth_issuer=self.auth.issuer)
        self.broker.start()
        self.auth.start(self.broker.client_url)
        self.mqtt_port = self.broker.config.mqtt_port
        self.link = FleetLink(
            host="127.0.0.1", port=self.mqtt_port, ca=own.ca, certificate=own.certificate, key=own.key
        )
        self.serials: dict[int, set[str]] = {}
        self.heard: list[tuple[str, bytes]] = []
        self.link.on_message = lambda topic, payload: self.heard.append((topic, payload))
        self.link.start()
        self._serve(server)
        context = self.https.config.ssl
        assert context is not None
        duties = [
            ("server", ServerCertificate(self.ca, server, (), self.broker, context, on_loop(self.loop)).renew),
            ("ingest", IngestCertificate(self.ca, own, self.auth, self.link).renew),
        ]
        self.upkeep = Upkeep(self.world.repository, self.ca, self.world.engine, self.clock, duties=duties)

    def serials_at(self, port: int, context: ssl.SSLContext) -> set[str]:
        """The serial numbers that the server has shown so far, with the one that it shows now."""
        connection, serial = shown(port, context)
        connection.close()
        self.serials.setdefault(port, set()).add(serial)
        return self.serials[port]

    def _serve(self, tls: TlsFiles) -> None:
        world = self.world
        api = DeviceApi(world.engine, self.ca, world.enrolment, world.repository, world.blobs, world.captures)
        self._socket = listening_socket("127.0.0.1", 0)
        self.https_port = int(self._socket.getsockname()[1])
        self.https = device_server(device_app(api), "127.0.0.1", self.https_port, tls)
        self.loop = asyncio.new_event_loop()

        def run() -> None:
            self.loop.run_until_complete(self.https._serve(sockets=[self._socket]))

        self._thread = threading.Thread(target=run)
        self._thread.start()
        until(lambda: self.https.started)

    def stop(self) -> None:
        self.https.should_exit = True
        self._thread.join(10)
        self.loop.close()
        self._socket.close()
        self.link.stop()
        self.auth.stop()
        self.broker.stop()
        self.world.engine.dispose()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    yield made
    made.stop()


class Device:
    """A device that is connected to the broker."""

    def __init__(self, name: str, context: ssl.SSLContext, port: int) -> None:
        self._topic = f"wt/v1/{name}/up/status"
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv311)
        self._client.tls_set_context(context)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def said_at_all(self, service: Service) -> bool:
        """Publish until the service hears it, as an agent does."""
        until(lambda: bool(self._client.publish(self._topic, b'{"online":true}', qos=1) and service.heard))
        return service.heard[0] == (self._topic, b'{"online":true}')

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def shown(port: int, context: ssl.SSLContext) -> tuple[ssl.SSLSocket, str]:
    """A verified TLS connection, and the serial number of the certificate that the server showed."""
    connection = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 5), server_hostname="127.0.0.1")
    found = connection.getpeercert()
    assert found is not None
    return connection, str(found["serialNumber"])


def test_servers_are_renewed_over_several_lives_without_a_restart(service: Service, tmp_path: Path) -> None:
    certificate, key = service.world.enrol("press-1")
    (tmp_path / "device.pem").write_bytes(certificate + key)
    first_ca = service.ca.pem

    def context(ca: bytes) -> ssl.SSLContext:
        made = ssl.create_default_context(cadata=ca.decode())
        made.load_cert_chain(tmp_path / "device.pem")
        return made

    kept = shown(service.https_port, context(first_ca))[0]
    device = Device("press-1", context(first_ca), service.mqtt_port)
    before = service.broker.pid
    ports = (service.https_port, service.mqtt_port)

    def both_show(count: int) -> bool:
        """Whether both have shown so many certificates, the same ones, to a device that has the first CA."""
        seen = [service.serials_at(port, context(first_ca)) for port in ports]
        return len(seen[0]) == len(seen[1]) == len(seen[0] | seen[1]) == count

    for count in range(1, 5):
        until(functools.partial(both_show, count))
        fleet_certificate = service.auth._fleet_fingerprint
        service.clock.now += RENEWED_SECONDS
        service.upkeep.turn()
        assert service.auth._fleet_fingerprint != fleet_certificate
        until(lambda: service.link.connected)
        service.upkeep.turn()
        assert service.link.connected, "nothing was due any more"
    assert service.ca.pem != first_ca, "the CA was renewed too"
    shown(service.https_port, context(service.ca.pem))[0].close()
    assert service.broker.pid == before, "the broker was not restarted"
    kept.sendall(b"GET /v1/tuf/1.root.json HTTP/1.1\r\nHost: fleet\r\nConnection: close\r\n\r\n")
    assert kept.recv(12).startswith(b"HTTP/1.1 200")
    kept.close()
    assert device.said_at_all(service), "nats-server ends the connections of MQTT; they are made again"
    device.stop()


def test_a_token_from_before_the_renewal_of_the_ca_is_still_good(service: Service) -> None:
    """The CA that the token names is still given out, beside the present one."""
    token = service.world.enrolment.create_token("press-2")
    before = service.ca.pem
    service.clock.now += 3 * RENEWED_SECONDS
    assert service.ca.renew()
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    connection = unverified.wrap_socket(socket.create_connection(("127.0.0.1", service.https_port), 5))
    connection.sendall(b"GET /v1/enrol/ca HTTP/1.1\r\nHost: fleet\r\nConnection: close\r\n\r\n")
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    connection.close()
    given = x509.load_pem_x509_certificates(answer.partition(b"\r\n\r\n")[2])
    assert [certificate_sha256(each) for each in given] == [
        certificate_sha256(x509.load_pem_x509_certificate(pem)) for pem in (service.ca.pem, before)
    ]
    assert token.endswith(certificate_sha256(given[1]))


def test_a_pair_that_does_not_belong_together_changes_nothing_and_is_tried_again(
    service: Service, tmp_path: Path
) -> None:
    other = FleetCA.create(tmp_path / "admin-ca", time.time)
    files = other.server_files()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    admin = AdminCertificate(files.certificate, files.key, lambda: context, on_loop(service.loop))
    assert not admin.renew()
    stranger = FleetCA.create(tmp_path / "stranger-ca", time.time).server_files()
    files.certificate.write_bytes(stranger.certificate.read_bytes())
    for _ in range(2):
        with pytest.raises(ssl.SSLError):
            admin.renew()
    files.key.write_bytes(stranger.key.read_bytes())
    assert admin.renew()
    assert not admin.renew()


def test_an_agent_goes_on_over_several_lives_of_its_certificate(tmp_path: Path) -> None:
    """The real agent, on the real clock, with certificates of some seconds: it is heard after each one has ended."""
    service = Service(tmp_path, DEVICE_SECONDS)
    service.world.enrolment._endpoints = Endpoints(
        "127.0.0.1", service.mqtt_port, f"https://127.0.0.1:{service.https_port}"
    )
    state = tmp_path / "state"
    config = tmp_path / "agent.toml"
    config.write_text(
        f'[device]\nstate_dir = "{state}"\nstatus_seconds = 1.0\n'
        '[[pipelines]]\nname = "main"\n[pipelines.source]\nkind = "simulator"\n'
    )
    service.clock.now = time.time()
    enroll(
        f"https://127.0.0.1:{service.https_port}", parse_token(service.world.enrolment.create_token("press-1")), state
    )
    loaded = load_config(config)
    agent = Agent(loaded, load_profile(loaded.device.profile), load_identity(state))
    runs = threading.Thread(target=agent.run)
    runs.start()
    try:
        seen: set[bytes] = set()
        for _ in range(2):
            certificate = (state / "identity" / "device.crt").read_bytes()
            seen.add(certificate)
            end = read_validity(certificate).ends_at

            def moved(end: float = end) -> bool:
                """Let the CA's clock follow the real one, until the certificate has ended."""
                service.clock.now = time.time()
                return time.time() > end

            until(moved, 2 * DEVICE_SECONDS)
            service.heard.clear()
            until(lambda: any(topic == "wt/v1/press-1/up/status" for topic, _ in service.heard))
            assert agent.link.connected
        assert (state / "identity" / "device.crt").read_bytes() not in seen
        assert agent._renewal.renewals >= 2
        assert agent._renewal.figures()["trouble"] is None
    finally:
        agent.stop()
        runs.join(20)
        service.stop()
    assert not runs.is_alive()

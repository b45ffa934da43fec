"""``wheeltapper serve``: puts the parts of the fleet service together and runs them in one process.

The broker is a child process. Only this module knows all parts; the page and the admin API meet here.

Invariants:
    * One service per data folder: the second one is refused by a lock, which the kernel releases when a process ends.
    * ``serve.json`` exists only while the service is ready. One that a killed service left behind is removed first.
    * SIGTERM and SIGINT end every part, in the reverse order of their start. The broker dies with this process anyhow.
    * The offline keys are never read.

What this module does not do: rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn
from cryptography import x509
from sqlalchemy import Engine as Database

from wheeltapper_fleet.access.authenticator import Authenticator
from wheeltapper_fleet.access.tokens import ensure_api_token
from wheeltapper_fleet.api.app import admin_app
from wheeltapper_fleet.api.context import AdminContext
from wheeltapper_fleet.api.events import EventHub
from wheeltapper_fleet.broker.auth_callout import AuthCallout
from wheeltapper_fleet.broker.config import BrokerConfig
from wheeltapper_fleet.broker.link import FleetLink
from wheeltapper_fleet.broker.server import BrokerServer, free_port
from wheeltapper_fleet.campaigns import service as campaigns
from wheeltapper_fleet.campaigns.engine import CampaignEngine
from wheeltapper_fleet.campaigns.rules.spec import read_spec
from wheeltapper_fleet.campaigns.views import get_campaign
from wheeltapper_fleet.captures.service import Captures
from wheeltapper_fleet.config import FleetConfig
from wheeltapper_fleet.db.engine import open_database
from wheeltapper_fleet.device_api.app import DeviceApi, device_app
from wheeltapper_fleet.device_api.tls_server import device_server, listening_socket
from wheeltapper_fleet.devices import commands
from wheeltapper_fleet.devices.enrolment import Endpoints, Enrolment
from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.log import start_logging
from wheeltapper_fleet.ingest.ingest import Ingest
from wheeltapper_fleet.registry.blobs import BlobStore
from wheeltapper_fleet.registry.releases import Releases
from wheeltapper_fleet.reloading import AdminCertificate, IngestCertificate, ServerCertificate, on_loop
from wheeltapper_fleet.trust.ca import FleetCA, TlsFiles
from wheeltapper_fleet.trust.certificates import certificate_sha256
from wheeltapper_fleet.trust.director import Director
from wheeltapper_fleet.trust.expiry import ending, sentence
from wheeltapper_fleet.trust.repository import Repository
from wheeltapper_fleet.ui.page import Page, add_page
from wheeltapper_fleet.upkeep import Upkeep

__all__ = ["serve"]

_LOG: Final = logging.getLogger(__name__)
_REFRESH_SECONDS: Final = 60.0
_SERVE_FILE: Final = "serve.json"
_ANY_ADDRESS: Final = ("0.0.0.0", "::", "")  # noqa: S104  # only compared with, never bound


class _Campaigns:
    """Connects the admin API to the campaign service; implements :class:`CampaignActions` of ``api.context``."""

    def __init__(self, database: Database, upkeep: Upkeep) -> None:
        self._database = database
        self._upkeep = upkeep

    def create(self, spec: Mapping[str, Any], who: str) -> str:
        self._check_verifiable(spec)
        return campaigns.create_campaign(self._database, spec, who=who, now=time.time())

    def act(self, campaign: str, action: str, expected_version: int, who: str) -> None:
        act: Callable[..., object] = {
            "start": campaigns.start_campaign,
            "pause": campaigns.pause_campaign,
            "resume": campaigns.resume_campaign,
            "abort": campaigns.abort_campaign,
            "approve": campaigns.approve_campaign,
        }[action]
        if action not in {"pause", "abort"}:
            self._check_verifiable(get_campaign(self._database, campaign).spec)
        act(self._database, campaign, version=expected_version, who=who, now=time.time())

    def _check_verifiable(self, spec: Mapping[str, Any]) -> None:
        """Refuse what devices could not verify to its end (FleetError ``trust.expired``)."""
        checked = read_spec(spec)
        self._upkeep.check_campaign(checked.model, checked.longest_seconds)


class _CaptureRequests:
    """Connects the admin API to the command store; implements :class:`CaptureRequests` of ``api.context``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def request(self, device: str, pipeline: str, snapshots: int) -> str:
        return commands.create_capture(
            self._database, device=device, pipeline=pipeline, snapshots=snapshots, now=time.time()
        )


@dataclass(frozen=True)
class _Messaging:
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


class _ServerWithoutSignals(uvicorn.Server):
    """A uvicorn server that does not handle signals: :func:`serve` does."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(config: FleetConfig) -> None:
    """Run the fleet service until SIGTERM or SIGINT.

    Raises:
        FleetError: ``serve.running``, ``serve.port``, ``keys.missing``, ``ca.missing``, ``broker.*``.
    """
    start_logging()
    trust = _Trust.open(config.data_dir, time.time)
    with ExitStack() as stack:
        stack.enter_context(_locked(config.data_dir))
        (config.data_dir / _SERVE_FILE).unlink(missing_ok=True)
        asyncio.run(_run(config, trust, stack))


@dataclass(frozen=True)
class _Trust:
    """What signs: the devices' CA, the TUF repository, the director."""

    ca: FleetCA
    repository: Repository
    director: Director

    @classmethod
    def open(cls, data_dir: Path, clock: Callable[[], float]) -> _Trust:
        """Load the keys; nothing is written and no port is taken yet.

        Raises:
            FleetError: ``ca.missing``, ``keys.missing``, ``keys.unreadable``, ``tuf.not_found``.
        """
        return cls(FleetCA(data_dir / "ca", clock), Repository.open(data_dir, clock), Director.open(data_dir))


async def _run(config: FleetConfig, trust: _Trust, stack: ExitStack) -> None:
    """Start every part, and end them all at a signal or when one of the servers ends."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    admin_socket = stack.enter_context(contextlib.closing(_bind(config.admin_host, config.admin_port)))
    device_socket = stack.enter_context(contextlib.closing(_bind(config.device_host, config.device_port)))
    mqtt_port = config.mqtt_port or free_port(_reachable(config.mqtt_host))
    ports = {"admin": admin_socket.getsockname()[1], "device": device_socket.getsockname()[1], "mqtt": mqtt_port}
    service = await asyncio.to_thread(_build, config, trust, ports, stack)
    admin, device = service.admin, service.device
    service.upkeep.duties = _duties(config, trust.ca, service, on_loop(loop))
    tasks = [
        asyncio.create_task(admin.serve(sockets=[admin_socket])),
        asyncio.create_task(device.serve(sockets=[device_socket])),
        asyncio.create_task(_refresh(service.upkeep)),
    ]
    try:
        while not (admin.started and device.started) and not any(task.done() for task in tasks):
            await asyncio.sleep(0.01)
        _announce_ready(config, ports)
        stack.callback((config.data_dir / _SERVE_FILE).unlink, missing_ok=True)
        await asyncio.wait([asyncio.create_task(stop.wait()), *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        _LOG.info("stopping")
        admin.should_exit = device.should_exit = True
        await service.events.close()
        tasks[2].cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for result in ended[:2]:
        if isinstance(result, BaseException):
            raise result


@dataclass(frozen=True)
class _Service:
    """The parts that the event loop of :func:`_run` runs or ends."""

    admin: uvicorn.Server
    device: uvicorn.Server
    messaging: _Messaging
    upkeep: Upkeep
    events: EventHub


def _duties(
    config: FleetConfig, ca: FleetCA, service: _Service, call: Callable[[Callable[[], None]], None]
) -> list[tuple[str, Callable[[], bool]]]:
    """The certificates that the service shows, each with what renews it."""
    messaging, context = service.messaging, service.device.config.ssl
    assert context is not None
    server = ServerCertificate(ca, messaging.server_tls, config.public_hosts, messaging.broker, context, call)
    ingest = IngestCertificate(ca, messaging.own_tls, messaging.auth, messaging.link)
    duties = [("server certificate", server.renew), ("ingest certificate", ingest.renew)]
    if config.admin_tls_certificate is not None and config.admin_tls_key is not None:
        admin = AdminCertificate(
            config.admin_tls_certificate, config.admin_tls_key, lambda: service.admin.config.ssl, call
        )
        duties.append(("admin certificate", admin.renew))
    return duties


def _build(config: FleetConfig, trust: _Trust, ports: Mapping[str, int], stack: ExitStack) -> _Service:
    """Start every part except the two HTTP servers, which are only created. ``stack`` ends the parts."""
    data_dir, clock = config.data_dir, time.time
    ca, repository = trust.ca, trust.repository
    database = open_database(config.effective_database_url)
    stack.callback(database.dispose)
    ensure_api_token(database, data_dir / "api-token", clock())
    upkeep = Upkeep(repository, ca, database, clock, config.admin_tls_certificate)
    upkeep.turn()
    blobs = BlobStore(data_dir / "blobs")
    releases = Releases(database, repository, blobs, clock)
    releases.reconcile()
    messaging = _start_messaging(config, ports["mqtt"], ca, database, stack)
    engine = CampaignEngine(database, trust.director.sign)
    messaging.link.on_connected.append(engine.broker_is_back)
    engine.start(messaging.link.publish)
    stack.callback(engine.stop)
    public = config.public_hosts[0]
    endpoints = Endpoints(public, ports["mqtt"], f"https://{_in_url(public)}:{ports['device']}")
    enrolment = Enrolment(database, ca, repository.trusted_root(), endpoints, clock)
    captures = Captures(database, data_dir / "captures", clock)
    context = AdminContext(
        engine=database,
        authenticator=Authenticator(database, clock),
        events=EventHub(database),
        enrolment=enrolment,
        releases=releases,
        repository=repository,
        blobs=blobs,
        campaigns=_Campaigns(database, upkeep),
        captures=_CaptureRequests(database),
        captures_dir=data_dir / "captures",
        clock=clock,
        hosts=tuple(dict.fromkeys(("127.0.0.1", "localhost", "::1", config.admin_host, *config.public_hosts))),
        failing=messaging.failing,
        lives=upkeep.lives,
        on_revoked=messaging.disconnect,
    )
    device = device_server(
        device_app(DeviceApi(database, ca, enrolment, repository, blobs, captures)),
        config.device_host,
        ports["device"],
        messaging.server_tls,
    )
    device.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]  # the signals are ours
    return _Service(_admin_server(config, context), device, messaging, upkeep, context.events)


def _admin_server(config: FleetConfig, context: AdminContext) -> uvicorn.Server:
    """The server of the admin API and the page."""
    secure = config.admin_tls_certificate is not None
    app = admin_app(context)

    def sentences() -> list[str]:
        now = context.clock()
        return [sentence(life, now) for life in ending(context.lives() if context.lives else (), now)]

    page = Page(engine=context.engine, authenticator=context.authenticator, secure_cookie=secure, ending=sentences)
    add_page(app, page)
    options: dict[str, Any] = {}
    if secure:
        options = {"ssl_certfile": str(config.admin_tls_certificate), "ssl_keyfile": str(config.admin_tls_key)}
    return _ServerWithoutSignals(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=3,
            h11_max_incomplete_event_size=32 * 1024,
            http="h11",
            **options,
        )
    )


def _start_messaging(
    config: FleetConfig, mqtt_port: int, ca: FleetCA, database: Database, stack: ExitStack
) -> _Messaging:
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
        host=_reachable(config.mqtt_host), port=mqtt_port, ca=own.ca, certificate=own.certificate, key=own.key
    )
    ingest = Ingest(database, link.publish, address_of=auth.address)
    ingest.start()
    stack.callback(ingest.stop)
    link.on_message = ingest.offer
    stack.callback(link.stop)
    link.start()
    return _Messaging(broker, auth, link, ingest, server, own)


async def _refresh(upkeep: Upkeep) -> None:
    """Renew what is due, once a minute."""
    while True:
        await asyncio.sleep(_REFRESH_SECONDS)
        await asyncio.to_thread(upkeep.turn)


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Hold the data folder's lock. The kernel releases it when the process ends, however it ends.

    Raises:
        FleetError: ``serve.running``.
    """
    with (data_dir / "serve.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FleetError(
                "serve.running",
                f"a fleet service is running on {data_dir} already; stop it, or choose another data folder",
                409,
            ) from error
        yield


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        FleetError: ``serve.port``.
    """
    try:
        return listening_socket(host, port)
    except OSError as error:
        raise FleetError(
            "serve.port", f"cannot listen on {host}:{port} ({error.strerror}); choose another port, or 0", 409
        ) from error


def _announce_ready(config: FleetConfig, ports: Mapping[str, int]) -> None:
    """Write ``serve.json`` and the log line that say where the service listens."""
    scheme = "https" if config.admin_tls_certificate is not None else "http"
    served = {
        "pid": os.getpid(),
        "admin_url": f"{scheme}://{_in_url(_reachable(config.admin_host))}:{ports['admin']}",
        "device_url": f"https://{_in_url(config.public_hosts[0])}:{ports['device']}",
        "admin_port": ports["admin"],
        "device_port": ports["device"],
        "mqtt_port": ports["mqtt"],
    }
    files.write_atomic(config.data_dir / _SERVE_FILE, (json.dumps(served, indent=1) + "\n").encode())
    _LOG.info("ready: admin and page %s, devices %s, mqtt port %d", *list(served.values())[1:3], ports["mqtt"])


def _reachable(host: str) -> str:
    """An address at which this process reaches a server that listens on ``host``."""
    return "127.0.0.1" if host in _ANY_ADDRESS else host


def _in_url(host: str) -> str:
    """``host`` as it is written in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host

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
import functools
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
from sqlalchemy import Engine as Database

from wheeltapper_fleet.access.authenticator import Authenticator
from wheeltapper_fleet.access.tokens import ensure_api_token
from wheeltapper_fleet.alerts.exposure import COUNT_SECONDS, Exposure
from wheeltapper_fleet.alerts.intake import Triage
from wheeltapper_fleet.alerts.value import budget_turn
from wheeltapper_fleet.api.context import AdminContext
from wheeltapper_fleet.api.events import EventHub
from wheeltapper_fleet.api.totals import FleetNumbers
from wheeltapper_fleet.audit.retention import audit_turn
from wheeltapper_fleet.broker.server import free_port
from wheeltapper_fleet.broker.settings import split_address
from wheeltapper_fleet.campaigns.creation import unfinished_turn
from wheeltapper_fleet.campaigns.due import mark_devices
from wheeltapper_fleet.campaigns.observations import EVERY_SECONDS, Observer
from wheeltapper_fleet.captures.service import Captures
from wheeltapper_fleet.config import FleetConfig
from wheeltapper_fleet.db.engine import open_database
from wheeltapper_fleet.device_api.app import DeviceApi, device_app
from wheeltapper_fleet.device_api.tls_server import device_server
from wheeltapper_fleet.devices.enrolment import Endpoints, Enrolment
from wheeltapper_fleet.devices.retention import devices_turn
from wheeltapper_fleet.devices.service import Devices
from wheeltapper_fleet.ground.duties import Duty
from wheeltapper_fleet.ground.log import start_logging
from wheeltapper_fleet.ground.threads import keep_what_is_there, share_interpreter
from wheeltapper_fleet.history.place import HistoryPlace
from wheeltapper_fleet.history.segments import Segments, written_up_to
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.learning.policies.acting import Acting
from wheeltapper_fleet.learning.policies.engine import PolicyEngine
from wheeltapper_fleet.learning.retention import runs_turn
from wheeltapper_fleet.learning.runs.service import silent_turn
from wheeltapper_fleet.lineage.contents import index_turn
from wheeltapper_fleet.notify.delivery import Delivery
from wheeltapper_fleet.notify.outbox import announce
from wheeltapper_fleet.processes.leadership import Leadership
from wheeltapper_fleet.processes.membership import Membership
from wheeltapper_fleet.promotion.service import promotions_turn
from wheeltapper_fleet.registry.blobs import BlobStore
from wheeltapper_fleet.registry.releases import Releases
from wheeltapper_fleet.reloading import AdminCertificate, IngestCertificate, ServerCertificate, on_loop
from wheeltapper_fleet.serving.admin import Campaigns, CaptureRequests, admin_server
from wheeltapper_fleet.serving.engine import LeadersWork
from wheeltapper_fleet.serving.messaging import Messaging, start_messaging
from wheeltapper_fleet.serving.process import announce_ready, bind, in_url, locked, reachable, serve_file
from wheeltapper_fleet.telemetry.retention import Retention
from wheeltapper_fleet.trust.ca import FleetCA
from wheeltapper_fleet.trust.director import Director
from wheeltapper_fleet.trust.repository import Repository
from wheeltapper_fleet.upkeep import Upkeep

__all__ = ["serve"]

_LOG: Final = logging.getLogger(__name__)
_REFRESH_SECONDS: Final = 60.0


def serve(config: FleetConfig) -> None:
    """Run the fleet service until SIGTERM or SIGINT.

    Raises:
        FleetError: ``serve.running``, ``serve.port``, ``keys.missing``, ``ca.missing``, ``broker.*``.
    """
    start_logging(config.log_format)
    share_interpreter()
    trust = _Trust.open(config.data_dir, time.time)
    with ExitStack() as stack:
        stack.enter_context(locked(config))
        serve_file(config).unlink(missing_ok=True)
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
    """Start every part that this process has, and end them all at a signal or when one of the servers ends."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    sockets = _sockets(config, stack)
    ports = {name: each.getsockname()[1] for name, each in sockets.items()}
    ports["mqtt"] = _mqtt_port(config)
    service = await asyncio.to_thread(_build, config, trust, ports, stack)
    service.upkeep.duties = _certificates(config, trust.ca, service, on_loop(loop))
    servers = {} if service.http is None else {"admin": service.http.admin, "device": service.http.device}
    serving = [asyncio.create_task(server.serve(sockets=[sockets[name]])) for name, server in servers.items()]
    refreshing = asyncio.create_task(_refresh(service.upkeep))
    tasks = [*serving, refreshing]
    try:
        while not all(server.started for server in servers.values()) and not any(task.done() for task in tasks):
            await asyncio.sleep(0.01)
        keep_what_is_there()
        announce_ready(config, ports)
        stack.callback(serve_file(config).unlink, missing_ok=True)
        await asyncio.wait([asyncio.create_task(stop.wait()), *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        _LOG.info("stopping")
        for server in servers.values():
            server.should_exit = True
        if service.http is not None:
            await service.http.events.close()
        refreshing.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for result in ended[:-1]:
        if isinstance(result, BaseException):
            raise result


def _mqtt_port(config: FleetConfig) -> int:
    """The port at which devices reach the broker, or the first node of it."""
    if config.broker.kind == "embedded":
        return config.mqtt_port or free_port(reachable(config.mqtt_host))
    return config.broker.own[0][1]


def _sockets(config: FleetConfig, stack: ExitStack) -> dict[str, socket.socket]:
    """The listening sockets of the HTTP servers, where this process has them.

    Raises:
        FleetError: ``serve.port``.
    """
    if not config.serves_http:
        return {}
    places = {"admin": (config.admin_host, config.admin_port), "device": (config.device_host, config.device_port)}
    return {name: stack.enter_context(contextlib.closing(bind(*place))) for name, place in places.items()}


@dataclass(frozen=True)
class _Http:
    """The HTTP servers, and what ends their streams."""

    admin: uvicorn.Server
    device: uvicorn.Server
    events: EventHub


@dataclass(frozen=True)
class _Service:
    """The parts that the event loop of :func:`_run` runs or ends."""

    messaging: Messaging
    upkeep: Upkeep
    http: _Http | None


def _certificates(
    config: FleetConfig, ca: FleetCA, service: _Service, call: Callable[[Callable[[], None]], None]
) -> list[tuple[str, Callable[[], bool]]]:
    """The certificates that the service shows, each with what renews it."""
    messaging, http = service.messaging, service.http
    renewed: list[tuple[str, Callable[[], bool]]] = []
    if messaging.link is not None:
        own = IngestCertificate(ca, messaging.own_tls, messaging.auth, messaging.link, config.process)
        renewed.append(("ingest certificate", own.renew))
    if http is None:
        return renewed
    context = http.device.config.ssl
    assert context is not None
    server = ServerCertificate(ca, messaging.server_tls, config.public_hosts, messaging.broker, context, call)
    renewed.append(("server certificate", server.renew))
    if config.admin_tls_certificate is not None and config.admin_tls_key is not None:
        admin = AdminCertificate(
            config.admin_tls_certificate, config.admin_tls_key, lambda: http.admin.config.ssl, call
        )
        renewed.append(("admin certificate", admin.renew))
    return renewed


def _build(config: FleetConfig, trust: _Trust, ports: Mapping[str, int], stack: ExitStack) -> _Service:
    """Start every part except the HTTP servers, which are only created. ``stack`` ends the parts."""
    clock = time.time
    database = open_database(config.effective_database_url)
    stack.callback(database.dispose)
    upkeep = Upkeep(trust.repository, trust.ca, database, clock, config.admin_tls_certificate)
    upkeep.turn()
    messaging = start_messaging(config, ports["mqtt"], trust.ca, database, stack)
    if database.dialect.name == "postgresql" and config.role != "ingest":  # that has joined
        membership = Membership(database, config.process, config.role)
        stack.callback(membership.stop)
        membership.start()
    failing = [messaging.failing]
    if config.role in ("all", "engine") and messaging.link is not None:
        duties = functools.partial(_duties, config, messaging, upkeep)
        work = LeadersWork(trust.director.sign, messaging.link, duties)
        leadership = Leadership(database, config.process, work.begin, work.end)
        stack.callback(leadership.stop)
        leadership.start()
        failing.append(work.failing)
    http = None
    if config.serves_http:
        http = _build_http(config, trust, ports, database, messaging, upkeep, failing)
    return _Service(messaging, upkeep, http)


def _build_http(
    config: FleetConfig,
    trust: _Trust,
    ports: Mapping[str, int],
    database: Database,
    messaging: Messaging,
    upkeep: Upkeep,
    failing: Sequence[Callable[[], Sequence[str]]],
) -> _Http:
    """Create the two HTTP servers."""
    data_dir, clock = config.data_dir, time.time
    ca, repository = trust.ca, trust.repository
    ensure_api_token(database, data_dir / "api-token", clock())
    blobs = BlobStore(data_dir / "blobs")
    releases = Releases(database, repository, blobs, clock)
    releases.reconcile()
    enrolment = Enrolment(database, ca, repository.trusted_root(), _endpoints(config, ports), clock)
    captures = Captures(database, data_dir / "captures", clock)
    numbers = FleetNumbers(database)
    context = AdminContext(
        engine=database,
        authenticator=Authenticator(database, clock),
        events=EventHub(database, numbers),
        numbers=numbers,
        devices=Devices(database, clock, mark_devices, messaging.disconnect),
        enrolment=enrolment,
        releases=releases,
        repository=repository,
        blobs=blobs,
        campaigns=Campaigns(database, upkeep),
        captures=CaptureRequests(database),
        captures_dir=data_dir / "captures",
        datasets=_datasets(config),
        clock=clock,
        hosts=tuple(dict.fromkeys(("127.0.0.1", "localhost", "::1", config.admin_host, *config.public_hosts))),
        failing=lambda: [name for each in failing for name in each()],
        lives=upkeep.lives,
    )
    device = device_server(
        device_app(DeviceApi(database, ca, enrolment, repository, blobs, captures)),
        config.device_host,
        ports["device"],
        messaging.server_tls,
    )
    device.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]  # the signals are ours
    return _Http(admin_server(config, context), device, context.events)


def _datasets(config: FleetConfig) -> DatasetStore:
    """The store of datasets."""
    return DatasetStore(config.datasets_url or config.data_dir / "datasets")


def _endpoints(config: FleetConfig, ports: Mapping[str, int]) -> Endpoints:
    """The addresses that devices are told at their enrolment."""
    public = config.public_hosts[0]
    https_url = f"https://{in_url(public)}:{ports['device']}"
    if config.broker.kind == "embedded":
        return Endpoints(public, ports["mqtt"], https_url)
    first, *_ = config.broker.addresses
    return Endpoints(*split_address(first), https_url, config.broker.addresses)


def _duties(
    config: FleetConfig, messaging: Messaging, upkeep: Upkeep, database: Database, stack: ExitStack
) -> Iterator[Duty]:
    """Everything of the rooms that comes back by the clock: one line each. Only the leading process does it, on the
    ``database`` that it is given; ``stack`` ends what they need once the duties have ended.
    """
    delivery = Delivery(database, config.notify)
    stack.callback(delivery.stop)
    if messaging.revocation is not None:
        yield Duty("revocation list", 60.0, messaging.revocation.refresh)
    yield Duty("alert triage", 1.0, Triage(database, announce).turn)
    yield Duty("notifications", 1.0, delivery.turn)
    yield Duty("machine time", COUNT_SECONDS, Exposure(database).turn)
    yield Duty("alert budgets", 3600.0, budget_turn(database, announce))
    yield Duty("silent trainers", 5.0, silent_turn(database))
    yield Duty("unfinished campaigns", 600.0, unfinished_turn(database))
    yield Duty("telemetry gates", EVERY_SECONDS, Observer(database).look)
    datasets = functools.partial(_datasets, config)
    yield Duty("promotions", 60.0, promotions_turn(database))
    yield Duty("dataset index", 60.0, index_turn(database, datasets))
    acting = Acting(database, datasets, config.data_dir / "captures", upkeep.check_campaign)
    yield Duty("learning policies", 1.0, PolicyEngine(acting, announce).turn)
    retention = Retention(database, config.keep)
    if config.history.url:
        moved = Segments(database, HistoryPlace(config.history.url), config.history.after_days * 86_400.0)
        yield Duty("raw history", 60.0, moved.turn)
        retention = Retention(database, config.keep, written_up_to)
    yield Duty("telemetry retention", 60.0, retention.run)
    yield Duty(
        "device retention", 600.0, devices_turn(database, config.keep_device_log_days, config.keep_commands_days)
    )
    yield Duty("audit retention", 600.0, audit_turn(database, config.keep_audit_days))
    blobs = BlobStore(config.data_dir / "blobs", receives=False)
    yield Duty("run retention", 3600.0, runs_turn(database, blobs, config.keep_runs_days))


async def _refresh(upkeep: Upkeep) -> None:
    """Renew what is due, once a minute."""
    while True:
        await asyncio.sleep(_REFRESH_SECONDS)
        await asyncio.to_thread(upkeep.turn)

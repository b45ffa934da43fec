"""A real admin server in a thread, and methods that insert database rows as the ingest writes them.

``TableCampaigns`` and ``TableCaptures`` write to the real tables with few rules, because these tests are about the API
and not about campaigns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import uvicorn
from sqlalchemy import Engine, insert, select, update

from wheeltapper_fleet import tables
from wheeltapper_fleet.access.authenticator import Authenticator
from wheeltapper_fleet.access.oidc import OidcLogin
from wheeltapper_fleet.access.sessions import COOKIE
from wheeltapper_fleet.access.tokens import create_api_token, ensure_api_token
from wheeltapper_fleet.api.app import admin_app
from wheeltapper_fleet.api.context import AdminContext
from wheeltapper_fleet.api.events import EventHub
from wheeltapper_fleet.api.limits import RateLimits
from wheeltapper_fleet.api.totals import FleetNumbers
from wheeltapper_fleet.campaigns import rollback
from wheeltapper_fleet.campaigns.due import mark_devices
from wheeltapper_fleet.db.engine import open_database
from wheeltapper_fleet.device_api.tls_server import listening_socket
from wheeltapper_fleet.devices.commands import create_capture
from wheeltapper_fleet.devices.enrolment import Endpoints, Enrolment
from wheeltapper_fleet.devices.reported import Said, store_reported
from wheeltapper_fleet.devices.service import Devices
from wheeltapper_fleet.devices.tags import write_tags
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.registry.blobs import BlobStore
from wheeltapper_fleet.registry.releases import Releases
from wheeltapper_fleet.telemetry.store import store_messages
from wheeltapper_fleet.trust.ca import FleetCA
from wheeltapper_fleet.trust.keys import init_keys
from wheeltapper_fleet.trust.repository import Repository
from wheeltapper_fleet.ui.page import Page, add_page
from wheeltapper_protocols.wire.messages import Severity, Telemetry, TelemetryRecord

MODEL = "bearing-anomaly"


class TableCampaigns:
    """Campaigns as rows: implements the API's ``CampaignActions``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def create(self, spec: Mapping[str, Any], who: str) -> str:
        if "model" not in spec:
            raise FleetError("campaign.invalid", "the campaign needs a model", 422)
        name = f"c-{time.time_ns()}"
        row = {"id": name, "version": 1, "state": "DRAFT", "spec": dict(spec), "waves": [{"state": "PENDING"}]}
        with self.engine.begin() as connection:
            connection.execute(
                insert(tables.campaigns).values({**row, "reason": "", "created_at": 1e9, "updated_at": 1e9})
            )
            log = {"campaign": name, "at": 1e9, "who": who, "event": "created", "detail": ""}
            connection.execute(insert(tables.campaign_log).values(log))
        return name

    def act(self, campaign: str, action: str, expected_version: int, who: str) -> None:
        ends = {"abort": "ABORTED", "complete": "COMPLETED"}
        state = {"start": "RUNNING", "pause": "PAUSED", "resume": "RUNNING", **ends}[action]
        table = tables.campaigns
        with self.engine.begin() as connection:
            version = connection.execute(select(table.c.version).where(table.c.id == campaign)).scalar_one()
            if version != expected_version:
                raise FleetError("campaign.conflict", f"the campaign is at version {version} now", 409)
            connection.execute(update(table).where(table.c.id == campaign).values(state=state, version=version + 1))

    def roll_back(self, campaign: str, release: int | None, why: str, who: str) -> str:
        spec = rollback.rollback_spec(self.engine, campaign, release)
        return rollback.roll_back(self.engine, campaign, spec, who=who, why=why, now=time.time())


class CaptureCommands:
    """The real commands, as the service hands them to the API: implements the API's ``CaptureRequests``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def request(self, device: str, pipeline: str, snapshots: int) -> str:
        return create_capture(self.engine, device=device, pipeline=pipeline, snapshots=snapshots, now=time.time())


class AdminServer:
    """The admin API and the page, served while the ``with`` statement lasts."""

    def __init__(
        self,
        data_dir: Path,
        hosts: tuple[str, ...] = ("127.0.0.1",),
        limits: RateLimits | None = None,
        login: OidcLogin | None = None,
        campaigns: type[TableCampaigns] = TableCampaigns,
    ) -> None:
        self.data_dir = data_dir
        self.keys_dir = data_dir.with_name("keys")
        init_keys(self.keys_dir, data_dir, [MODEL], threshold=1)
        self.engine = open_database(f"sqlite:///{data_dir / 'fleet.db'}")
        ensure_api_token(self.engine, data_dir / "api-token", 1e9)
        self.token = (data_dir / "api-token").read_text().strip()
        repository = Repository.open(data_dir, time.time)
        self.blobs = blobs = BlobStore(data_dir / "blobs")
        endpoints = Endpoints("127.0.0.1", 1, "https://127.0.0.1:2")
        (data_dir / "captures").mkdir()
        authenticator = Authenticator(self.engine, time.time)
        numbers = FleetNumbers(self.engine)
        context = AdminContext(
            engine=self.engine,
            authenticator=authenticator,
            events=EventHub(self.engine, numbers),
            numbers=numbers,
            devices=Devices(self.engine, time.time, mark_devices),
            enrolment=Enrolment(
                self.engine, FleetCA(data_dir / "ca", time.time), repository.trusted_root(), endpoints, time.time
            ),
            releases=Releases(self.engine, repository, blobs, time.time),
            repository=repository,
            blobs=blobs,
            campaigns=campaigns(self.engine),
            captures=CaptureCommands(self.engine),
            captures_dir=data_dir / "captures",
            datasets=DatasetStore(data_dir / "datasets"),
            clock=time.time,
            hosts=hosts,
            limits=limits or RateLimits(),
        )
        self._socket = listening_socket("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.app = app = admin_app(context)
        page = Page(
            engine=self.engine,
            authenticator=authenticator,
            datasets=context.datasets,
            totals=numbers.totals,
            login=login,
            captures_dir=data_dir / "captures",
            lives=repository.lives,
        )
        add_page(app, page)
        config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=2, lifespan="on")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def __enter__(self) -> AdminServer:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()
        self.engine.dispose()
        assert not self._thread.is_alive()

    def http(self, token: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=10)

    def token_of(self, *roles: str, name: str = "somebody") -> str:
        """An API token with ``roles``."""
        made = create_api_token(self.engine, name, roles, expires_at=None, who="test", now=time.time())
        return made.token

    def sign_in(self) -> str:
        """Sign in to the page; gives the session cookie."""
        answer = httpx.post(self.url + "/sign-in", data={"token": self.token}, trust_env=False)
        assert answer.status_code == 303, answer.text
        return answer.cookies[COOKIE]

    def insert(self, table: Any, **row: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(insert(table).values(row))

    def add_device(self, device: str, **changes: Any) -> None:
        row: dict[str, Any] = {
            "id": device,
            "tags": {"site": "hall-1"},
            "enrolled_at": 1.79e9,
            "certificate_sha256": "0" * 64,
            "certificate_expires_at": 1.8e9,
            "online": True,
            "last_seen_at": 1.79e9,
            "counter": 1,
            "status": {"online": True, "pipelines": {"bearing": {"model": MODEL, "release": 1, "windows": 9}}},
        }
        row |= changes
        with self.engine.begin() as connection:
            connection.execute(insert(tables.devices).values(row))
            write_tags(connection, {device: row["tags"]})
            store_reported(connection, [Said(device, None, row["status"])], 1.79e9)

    def add_scores(
        self,
        device: str,
        scores: list[float],
        severity: str = "normal",
        now: float | None = None,
        pipeline: str = "bearing",
    ) -> None:
        first = (time.time() if now is None else now) - len(scores)
        same: dict[str, Any] = {"pipeline": pipeline, "model": MODEL, "release": 1, "latency_ms": 1.0}
        with self.engine.begin() as connection:
            for index, score in enumerate(scores):
                said = Severity(severity if index == len(scores) - 1 else "normal")
                place: dict[str, Any] = {"seq": index + 1, "window": index, "t_s": float(index)}
                window = TelemetryRecord(**same, **place, score=score, severity=said)
                message = Telemetry(epoch="0" * 16, oldest=1, records=[window])
                store_messages(connection, [(device, message, b"")], first + index)

    def add_alert(self, device: str, reasons: list[dict[str, Any]], **changes: Any) -> None:
        row = {"device": device, "epoch": "0" * 16, "seq": time.time_ns() % 10**9, "pipeline": "bearing", "window": 41}
        row |= {"t_s": 41.0, "at": 1.79e9, "model": MODEL, "release": 1, "score": 1.7, "severity": "critical"}
        self.insert(tables.alerts, **{**row, "raised": True, "reasons": reasons, **changes})

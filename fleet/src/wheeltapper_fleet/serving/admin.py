"""The admin API and the page: their context, and the HTTP server that serves them.

What this module does not do: rules. The routes call what is handed to them here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn
from sqlalchemy import Engine as Database

from wheeltapper_fleet.access.oidc import OidcLogin
from wheeltapper_fleet.api.app import admin_app
from wheeltapper_fleet.api.context import AdminContext
from wheeltapper_fleet.campaigns import rollback
from wheeltapper_fleet.campaigns import service as campaigns
from wheeltapper_fleet.campaigns.creation import create_campaign
from wheeltapper_fleet.campaigns.rules.spec import read_spec
from wheeltapper_fleet.campaigns.views import get_campaign
from wheeltapper_fleet.config import FleetConfig
from wheeltapper_fleet.devices import commands
from wheeltapper_fleet.trust.expiry import ending, sentence
from wheeltapper_fleet.ui.page import Page, add_page
from wheeltapper_fleet.upkeep import Upkeep

__all__ = ["Campaigns", "CaptureRequests", "admin_server"]


class Campaigns:
    """Connects the admin API to the campaign service; implements :class:`CampaignActions` of ``api.context``."""

    def __init__(self, database: Database, upkeep: Upkeep) -> None:
        self._database = database
        self._upkeep = upkeep

    def create(self, spec: Mapping[str, Any], who: str) -> str:
        self._check_verifiable(spec)
        return create_campaign(self._database, spec, who=who, now=time.time())

    def act(self, campaign: str, action: str, expected_version: int, who: str) -> None:
        act: Callable[..., object] = {
            "start": campaigns.start_campaign,
            "pause": campaigns.pause_campaign,
            "resume": campaigns.resume_campaign,
            "complete": campaigns.complete_campaign,
            "abort": campaigns.abort_campaign,
            "approve": campaigns.approve_campaign,
        }[action]
        if action not in {"pause", "complete", "abort"}:
            self._check_verifiable(get_campaign(self._database, campaign).spec)
        act(self._database, campaign, version=expected_version, who=who, now=time.time())

    def roll_back(self, campaign: str, release: int | None, why: str, who: str) -> str:
        spec = rollback.rollback_spec(self._database, campaign, release)
        self._check_verifiable(spec)
        return rollback.roll_back(self._database, campaign, spec, who=who, why=why, now=time.time())

    def _check_verifiable(self, spec: Mapping[str, Any]) -> None:
        """Refuse what devices could not verify to its end (FleetError ``trust.expired``)."""
        checked = read_spec(spec)
        self._upkeep.check_campaign(checked.model, checked.longest_seconds)


class CaptureRequests:
    """Connects the admin API to the command store; implements :class:`CaptureRequests` of ``api.context``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def request(self, device: str, pipeline: str, snapshots: int) -> str:
        return commands.create_capture(
            self._database, device=device, pipeline=pipeline, snapshots=snapshots, now=time.time()
        )


class _ServerWithoutSignals(uvicorn.Server):
    """A uvicorn server that does not handle signals: :func:`serve` does."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def admin_server(config: FleetConfig, context: AdminContext) -> uvicorn.Server:
    """The server of the admin API and the page."""
    secure = config.admin_tls_certificate is not None
    app = admin_app(context)

    def sentences() -> list[str]:
        now = context.clock()
        return [sentence(life, now) for life in ending(context.lives() if context.lives else (), now)]

    page = Page(
        engine=context.engine,
        authenticator=context.authenticator,
        datasets=context.datasets,
        totals=context.numbers.totals,
        secure_cookie=secure,
        login=None if config.oidc is None else OidcLogin(config.oidc, context.clock),
        ending=sentences,
        captures_dir=context.captures_dir,
        lives=context.lives or list,
    )
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

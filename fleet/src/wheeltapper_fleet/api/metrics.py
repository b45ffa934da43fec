"""Figures for Prometheus: how the service answers, and the fleet in a few numbers.

Invariants:
    * What is told does not grow with the fleet: no figure has a device, a campaign or a person as a label. Routes are
      told by their template, and what is no route as ``none``.
    * The fleet is counted at most once in :data:`COUNTED_SECONDS`, however often is asked.
    * Each app has figures of its own.

Source: the Prometheus exposition format; names by its conventions (base units, ``_total`` for counters).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wheeltapper_fleet.api.totals import fleet_totals
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.telemetry.views import total_records
from wheeltapper_fleet.trust.expiry import Life

__all__ = ["CONTENT_TYPE", "COUNTED_SECONDS", "Measured", "Metrics"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
COUNTED_SECONDS: Final = 10.0
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """The figures of one app.

    Args:
        engine: the fleet's database.
        failing: gives the names of the parts that do not work.
        screens: gives how many live views are open.
        lives: gives everything that ends (certificates, metadata); None where nobody keeps it alive.
    """

    def __init__(
        self,
        engine: Engine,
        failing: Callable[[], list[str]],
        screens: Callable[[], int],
        lives: Callable[[], list[Life]] | None = None,
    ) -> None:
        self.registry = CollectorRegistry()
        names = ["route", "method", "status"]
        self.requests = Counter("wheeltapper_http_requests", "Requests answered.", names, registry=self.registry)
        self.seconds = Histogram(
            "wheeltapper_http_request_seconds",
            "From a request's arrival to the begin of its answer.",
            ["route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(_Fleet(engine, failing, screens, lives or list))

    def text(self) -> bytes:
        """All figures in the text format."""
        return generate_latest(self.registry)


class _Fleet(Collector):
    """Counts the fleet when it is asked."""

    def __init__(
        self,
        engine: Engine,
        failing: Callable[[], list[str]],
        screens: Callable[[], int],
        lives: Callable[[], list[Life]],
    ) -> None:
        self._engine = engine
        self._lives = lives
        self._failing = failing
        self._screens = screens
        self._counted: tuple[list[GaugeMetricFamily], float] = ([], float("-inf"))

    def describe(self) -> list[Any]:
        """Nothing is counted only to be registered."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The present figures; where the database does not answer, those that need it are missing."""
        failing = self._failing()
        up = GaugeMetricFamily("wheeltapper_up", "Whether every part of the service works.", 0 if failing else 1)
        broken = GaugeMetricFamily("wheeltapper_part_failing", "A part that does not work.", labels=["part"])
        for part in failing:
            broken.add_metric([part], 1)
        screens = GaugeMetricFamily("wheeltapper_live_screens", "Live views that are open.", self._screens())
        yield from (up, broken, screens)
        found, at = self._counted
        if time.monotonic() - at > COUNTED_SECONDS:
            try:
                found = self._count()
            except SQLAlchemyError:
                found = []
            self._counted = (found, time.monotonic())
        yield from found

    def _count(self) -> list[GaugeMetricFamily]:
        ends = GaugeMetricFamily(
            "wheeltapper_ends_timestamp_seconds",
            "When something is no longer valid; of devices' certificates the first that ends soon.",
            labels=["what", "renewed_by"],
        )
        for life in self._lives():
            ends.add_metric([life.name, life.renewed_by.value], life.expires_at)
        totals = fleet_totals(self._engine)
        cases = GaugeMetricFamily("wheeltapper_cases_waiting", "Cases that nobody acknowledged yet.", totals.cases)
        with reading(self._engine) as connection:
            records = total_records(connection)
        devices = GaugeMetricFamily("wheeltapper_devices", "Devices.", totals.devices)
        online = GaugeMetricFamily("wheeltapper_devices_online", "Devices that are online.", totals.online)
        alarms = GaugeMetricFamily("wheeltapper_devices_alarming", "Devices by present severity.", labels=["severity"])
        alarms.add_metric(["warning"], totals.warning)
        alarms.add_metric(["critical"], totals.critical)
        releases = GaugeMetricFamily("wheeltapper_releases", "Releases of all models.", totals.releases)
        campaigns = GaugeMetricFamily("wheeltapper_campaigns", "Campaigns by state.", labels=["state"])
        campaigns.add_metric(["running"], totals.running)
        campaigns.add_metric(["paused"], totals.paused)
        campaigns.add_metric(["other"], totals.campaigns - totals.running - totals.paused)
        kept = GaugeMetricFamily("wheeltapper_records", "Records of devices, by what became of them.", labels=["what"])
        for name, value in records.model_dump().items():
            kept.add_metric([name], value)
        return [devices, online, alarms, cases, releases, campaigns, kept, ends]


class Measured:
    """ASGI middleware around everything: counts requests and takes their time.

    Args:
        app: the app that answers.
        metrics: where it is counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._metrics.requests.labels(route, method, str(message["status"])).inc()
                self._metrics.seconds.labels(route).observe(time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, send_counted)

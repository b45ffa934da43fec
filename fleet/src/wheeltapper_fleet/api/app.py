"""Puts the admin API together: routes, authentication, error handling, and the guard in front of them.

Invariants:
    * Every route below ``/api/v1`` needs a bearer token, or the page's cookie, and a role that has its permission.
    * Every change is recorded with who made it before it is answered (:mod:`wheeltapper_fleet.audit`).
    * Every refusal is problem details (RFC 9457) with a stable dotted code.
    * A POST with an ``Idempotency-Key`` is done once, however often it is sent.

What this module does not do: rules. Routes read through the rooms' ``views.py`` and change through the services in
:class:`~wheeltapper_fleet.api.context.AdminContext`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from sqlalchemy.exc import SQLAlchemyError
from starlette.routing import BaseRoute
from starlette.types import Message

from wheeltapper_fleet import __version__
from wheeltapper_fleet.api.context import AdminContext, Context, requester
from wheeltapper_fleet.api.guard import Guard
from wheeltapper_fleet.api.idempotency import Idempotency
from wheeltapper_fleet.api.limits import Limits
from wheeltapper_fleet.api.metrics import CONTENT_TYPE, Measured, Metrics
from wheeltapper_fleet.api.openapi import describe
from wheeltapper_fleet.api.problem import REFUSALS, add_error_handlers
from wheeltapper_fleet.api.recorder import Recorder
from wheeltapper_fleet.api.routes import (
    access,
    alert_value,
    alerts,
    aliases,
    assets,
    campaigns,
    captures,
    cases,
    datasets,
    default_releases,
    device_commands,
    devices,
    events,
    lineage,
    notify,
    policies,
    processes,
    promotions,
    releases,
    runs,
    summary,
    telemetry,
)
from wheeltapper_fleet.db.engine import ping
from wheeltapper_fleet.trust.expiry import RenewedBy, days_left, ending, view
from wheeltapper_fleet.trust.repository import MAX_METADATA_BYTES
from wheeltapper_protocols.manifest.manifest import MAX_FILE_BYTES, MAX_MANIFEST_BYTES

__all__ = ["admin_app"]

_MAX_BODY_BYTES: Final = 256 * 1024
_MAX_IMPORT_BYTES: Final = 2 * 1024 * 1024
_MAX_TOKENS_BYTES: Final = 8 * 1024 * 1024
"""Ten thousand devices with their tags."""
_PREFIX: Final = "/api/v1"
_BEARER: Final = HTTPBearer(auto_error=False, description="An API token.")
"""Only for the OpenAPI document; the token is checked by :func:`requester`."""


_SUBJECTS: Final = (
    devices,
    telemetry,
    captures,
    datasets,
    runs,
    policies,
    releases,
    lineage,
    aliases,
    promotions,
    campaigns,
    default_releases,
    device_commands,
    assets,
    alerts,
    cases,
    alert_value,
    notify,
    processes,
    summary,
    events,
    access,
)


def admin_app(context: AdminContext) -> FastAPI:
    """The admin API as an ASGI app, ready to be served. The page is added to it by the caller."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await _build_routes(app)
        yield
        await context.events.close()

    app = FastAPI(
        title="Wheeltapper fleet",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.context = context
    app.router.routes.extend(_routes())
    app.add_api_route("/healthz", _healthz, methods=["GET"], responses={503: {"description": "A part does not work."}})
    app.add_api_route("/readyz", _readyz, methods=["GET"], responses={503: {"description": "It cannot answer now."}})
    metrics = Metrics(context.engine, context.failing, lambda: context.events.listening, context.lives)
    app.add_api_route(
        "/metrics",
        lambda: Response(metrics.text(), media_type=CONTENT_TYPE),
        methods=["GET"],
        dependencies=[Depends(requester)],
        include_in_schema=False,
    )
    add_error_handlers(app)
    app.add_middleware(Recorder, engine=context.engine, clock=context.clock)
    app.add_middleware(Idempotency, engine=context.engine, authenticator=context.authenticator, clock=context.clock)
    app.add_middleware(Limits, limits=context.limits, monotonic=time.monotonic)
    app.add_middleware(Guard, hosts=context.hosts, max_bytes=_max_bytes)
    app.add_middleware(Measured, metrics=metrics)
    describe(app)
    return app


@functools.cache
def _routes() -> tuple[BaseRoute, ...]:
    """The routes of every subject, below the prefix.

    They are built once a process, which takes half a second, and know of no app. None is included by way of another
    router, since each level builds them all again.
    """
    router = APIRouter()
    for subject in _SUBJECTS:
        router.include_router(
            subject.router,
            prefix=_PREFIX,
            tags=[subject.__name__.rpartition(".")[2].replace("_", "-")],
            dependencies=[Depends(requester), Depends(_BEARER)],
            responses=REFUSALS,
        )
    return tuple(router.routes)


async def _build_routes(app: FastAPI) -> None:
    """Let the framework build what it keeps of each route, which it does at the first request that finds none.

    Half a second of work that the first person would wait for, and 50,000 objects, which belong to what the garbage
    collector leaves alone (:func:`wheeltapper_fleet.ground.threads.keep_what_is_there`).
    """

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(_: Message) -> None:
        return

    nowhere = {"type": "http", "method": "GET", "path": "/-", "raw_path": b"/-", "root_path": "", "scheme": "http"}
    await app.router({**nowhere, "query_string": b"", "headers": []}, receive, send)


def _max_bytes(path: str) -> int:
    """The longest request body for a path."""
    if path.startswith((f"{_PREFIX}/blobs/", f"{_PREFIX}/runs/")):
        return MAX_FILE_BYTES
    if path == f"{_PREFIX}/device-tokens":
        return _MAX_TOKENS_BYTES
    if path.startswith(f"{_PREFIX}/models/"):
        return 2 * (MAX_METADATA_BYTES + MAX_MANIFEST_BYTES)
    if path == f"{_PREFIX}/assets/import":
        return _MAX_IMPORT_BYTES
    return _MAX_BODY_BYTES


def _readyz(context: Context) -> JSONResponse:
    """Whether the service can answer now: its parts work and its database answers. Needs no token.

    For a balancer in front of several processes; ``/healthz`` says more, for people.
    """
    failing = context.failing()
    try:
        ping(context.engine)
    except SQLAlchemyError:
        failing = [*failing, "database"]
    return JSONResponse({"ready": not failing, "failing": failing}, status_code=503 if failing else 200)


def _healthz(context: Context) -> JSONResponse:
    """Whether every part of the service works, and what of it ends soon. Needs no token and reveals no secret."""
    failing, now = context.failing(), context.clock()
    body: dict[str, Any] = {"ok": not failing, "failing": failing}
    if context.lives is not None:
        lives = context.lives()
        by_hand = [life for life in lives if life.renewed_by in {RenewedBy.OFFLINE_KEYS, RenewedBy.OPERATOR}]
        body["days_left"] = min((days_left(life, now) for life in by_hand), default=None)
        body["ending"] = [view(life, now) for life in ending(lives, now)]
    return JSONResponse(body, status_code=503 if failing else 200)

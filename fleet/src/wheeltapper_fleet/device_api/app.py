"""The devices' API over HTTPS: enrolment, renewal, TUF metadata, blobs, and uploads of recordings.

Invariants:
    * Without a client certificate only ``/v1/enrol`` and ``/v1/enrol/ca`` answer. With one, every request asks the
      database whether the device is known, not revoked, and shows its current certificate, or the next one.
    * Every refusal is JSON ``{code, message}`` with the status of its code. No input causes a status 500.
    * Bodies are limited while they are read. Enrolments that fail are limited per address and minute; those that
      succeed use up a token each, and are limited only by what the fleet can sign, so that a factory behind one address
      can enrol. Renewals are limited per device and minute.

What this module does not do: TLS (:mod:`tls_server`), the admin API, MQTT.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

import msgspec
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import FileResponse
from msgspec import Meta, Struct
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from wheeltapper_fleet.captures.service import Captures
from wheeltapper_fleet.device_api.captures import add_captures
from wheeltapper_fleet.device_api.problem import add_error_handlers
from wheeltapper_fleet.device_api.rate_limit import RateLimit
from wheeltapper_fleet.device_api.renewal import add_renewal
from wheeltapper_fleet.device_api.tls_server import SCOPE_CN, SCOPE_SHA256
from wheeltapper_fleet.devices.certificates import check_certificate
from wheeltapper_fleet.devices.enrolment import Enrolment
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.registry.blobs import BlobStore
from wheeltapper_fleet.trust.ca import MAX_CSR_BYTES, FleetCA
from wheeltapper_fleet.trust.repository import Repository

__all__ = ["DeviceApi", "device_app"]

_MAX_ENROL_BYTES: Final = 2 * MAX_CSR_BYTES


@dataclass(frozen=True)
class DeviceApi:
    """What the devices' API works with.

    Args:
        engine: the fleet's database.
        ca: issues devices' certificates.
        enrolment: checks enrolment tokens.
        repository: the TUF metadata.
        blobs: the files of releases.
        captures: stores uploaded recordings.
        failures_per_minute: how many enrolments of one address may fail in a minute.
        enrolments_per_minute: how many enrolments one address may try in a minute, with success or without.
        renewals_per_minute: how many renewals of its certificate one device may try in a minute.
        monotonic: seconds of a clock that never goes back.
    """

    engine: Engine
    ca: FleetCA
    enrolment: Enrolment
    repository: Repository
    blobs: BlobStore
    captures: Captures
    failures_per_minute: int = 60
    enrolments_per_minute: int = 3000
    renewals_per_minute: int = 6
    monotonic: Callable[[], float] = time.monotonic


class _EnrolRequest(Struct, frozen=True):
    """The body of an enrolment: the one-time token, and a certificate signing request in PEM."""

    token: Annotated[str, Meta(max_length=256)]
    csr: Annotated[str, Meta(max_length=MAX_CSR_BYTES)]


def device_app(api: DeviceApi) -> FastAPI:
    """The devices' API as an ASGI app, to be served by :func:`device_server` of tls_server."""
    app = FastAPI(title="wheeltapper devices", docs_url=None, redoc_url=None, openapi_url=None)
    add_error_handlers(app)
    _add_enrolment(app, api)

    def device(request: Request) -> str:
        return _authenticated(api.engine, request)

    _add_downloads(app, api, device)
    limit = RateLimit(api.renewals_per_minute, api.monotonic)
    add_renewal(app, api.engine, api.ca, device, limit, _read_body)
    add_captures(app, api.captures, device)
    return app


def _authenticated(engine: Engine, request: Request) -> str:
    """The id of the device that makes the request, from its verified client certificate.

    Raises:
        FleetError: ``api.unauthorized``, ``device.unknown``, ``device.revoked``, ``device.certificate_replaced``.
    """
    name = request.scope.get(SCOPE_CN)
    if name is None:
        raise FleetError(
            "api.unauthorized", "connect with the client certificate that the device received at its enrolment"
        )
    check_certificate(engine, name, request.scope.get(SCOPE_SHA256))
    return str(name)


def _add_enrolment(app: FastAPI, api: DeviceApi) -> None:
    """Add the routes that need no certificate: the CA, and enrolment."""
    attempts = RateLimit(api.enrolments_per_minute, api.monotonic)
    failures = RateLimit(api.failures_per_minute, api.monotonic)

    @app.get("/v1/enrol/ca")
    async def ca() -> Response:
        return Response(api.ca.bundle, media_type="application/x-pem-file")

    @app.post("/v1/enrol")
    async def enrol(request: Request) -> dict[str, Any]:
        address = request.client.host if request.client is not None else ""
        failures.check(address)
        attempts.take(address)
        try:
            wanted, csr = _wanted(await _read_body(request, _MAX_ENROL_BYTES))
            return asdict(await run_in_threadpool(api.enrolment.enrol, wanted.token, csr))
        except FleetError:
            failures.count(address)
            raise


def _wanted(body: bytes) -> tuple[_EnrolRequest, bytes]:
    """What an enrolment asks for, and its CSR in PEM.

    Raises:
        FleetError: ``api.bad_request``.
    """
    try:
        wanted = msgspec.json.decode(body, type=_EnrolRequest)
        return wanted, wanted.csr.encode("utf-8")
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise FleetError("api.bad_request", 'send JSON {"token": …, "csr": PEM text}') from error


def _add_downloads(app: FastAPI, api: DeviceApi, device: Callable[[Request], str]) -> None:
    """Add the routes of TUF metadata and blobs."""

    @app.get("/v1/tuf/{name}", dependencies=[Depends(device)])
    def metadata(name: str) -> Response:
        # Read at once, not sent as a file: timestamp.json may be replaced while it is sent.
        caching = "no-store" if name == "timestamp.json" else "private, max-age=86400"
        return Response(api.repository.read(name), media_type="application/json", headers={"Cache-Control": caching})

    @app.get("/v1/blobs/{sha256}", dependencies=[Depends(device)])
    def blob(sha256: str) -> Response:
        headers = {"Cache-Control": "private, immutable, max-age=31536000", "ETag": f'"{sha256}"'}
        return FileResponse(api.blobs.path(sha256), media_type="application/octet-stream", headers=headers)


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """Read a request's body.

    Raises:
        FleetError: ``api.too_large``.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise FleetError("api.too_large", f"the body is longer than {max_bytes} bytes")
    return bytes(body)

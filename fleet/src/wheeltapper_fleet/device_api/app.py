"""What devices may ask over HTTPS: to be enrolled, for metadata and blobs, and to hand over a capture.

Invariants:
    * Without a client certificate only ``/v1/enrol`` and ``/v1/enrol/ca`` answer. With one, the database is asked at
      every request: the device is known, not revoked, and this is its present certificate.
    * Every refusal is JSON ``{code, message}`` with the status that belongs to the code; no input makes a 500.
    * Bodies are capped before they are read whole; enrolments are limited per minute and address.

Not here: TLS (``api/tls_server.py``), the admin's API, MQTT.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final, Protocol

import msgspec
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from msgspec import Meta, Struct
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from wheeltapper_fleet.captures.service import Captures
from wheeltapper_fleet.device_api.tls_server import SCOPE_CN, SCOPE_SHA256
from wheeltapper_fleet.devices.certificates import check_certificate
from wheeltapper_fleet.devices.enrolment import Enrolment
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.registry.blobs import BlobStore
from wheeltapper_fleet.trust.ca import MAX_CSR_BYTES, FleetCA
from wheeltapper_fleet.trust.repository import Repository
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.wire.ids import SHA256_PATTERN
from wheeltapper_protocols.wire.ids import name as check_name

__all__ = ["DeviceApi", "device_app"]

_MAX_ENROL_BYTES: Final = 2 * MAX_CSR_BYTES
_WRITE_BYTES: Final = 1024 * 1024
_SHA256: Final = re.compile(SHA256_PATTERN)
_MAX_ADDRESSES: Final = 4096
_CODES: Final = {404: "api.not_found", 405: "api.method", 413: "api.too_large"}


@dataclass(frozen=True)
class DeviceApi:
    """What the endpoints work with."""

    engine: Engine
    ca: FleetCA
    enrolment: Enrolment
    repository: Repository
    blobs: BlobStore
    captures: Captures
    enrolments_per_minute: int = 60
    monotonic: Callable[[], float] = time.monotonic


class _EnrolRequest(Struct, frozen=True):
    token: Annotated[str, Meta(max_length=256)]
    csr: Annotated[str, Meta(max_length=MAX_CSR_BYTES)]


class _RateLimit:
    """At most ``per_minute`` attempts of one address within 60 s; remembers the latest addresses only."""

    def __init__(self, per_minute: int, monotonic: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._monotonic = monotonic
        self._attempts: OrderedDict[str, deque[float]] = OrderedDict()

    def take(self, address: str) -> None:
        """Count an attempt.

        Raises:
            FleetError: ``api.rate_limited``.
        """
        now = self._monotonic()
        attempts = self._attempts.setdefault(address, deque())
        self._attempts.move_to_end(address)
        if len(self._attempts) > _MAX_ADDRESSES:
            self._attempts.popitem(last=False)
        while attempts and attempts[0] <= now - 60:
            attempts.popleft()
        if len(attempts) >= self._per_minute:
            raise FleetError("api.rate_limited", "too many enrolments from this address; try again in a minute")
        attempts.append(now)


def device_app(api: DeviceApi) -> FastAPI:
    """The ASGI app for the devices' listener."""
    app = FastAPI(title="wheeltapper devices", docs_url=None, redoc_url=None, openapi_url=None)
    _add_error_handlers(app)
    _add_enrolment(app, api)

    def device(request: Request) -> str:
        return _authenticated(api.engine, request)

    _add_downloads(app, api, device)
    _add_captures(app, api, device)
    return app


def _authenticated(engine: Engine, request: Request) -> str:
    """The id of the device that asks.

    Raises:
        FleetError: ``api.unauthorized``, ``device.unknown``, ``device.revoked``, ``device.certificate_replaced``.
    """
    name = request.scope.get(SCOPE_CN)
    if name is None:
        raise FleetError("api.unauthorized", "show the client certificate that you got at your enrolment")
    check_certificate(engine, name, request.scope.get(SCOPE_SHA256))
    return str(name)


def _add_error_handlers(app: FastAPI) -> None:
    def answer(code: str, message: str, status: int) -> JSONResponse:
        return JSONResponse({"code": code, "message": message}, status)

    @app.exception_handler(FleetError)
    async def fleet_error(_: Request, error: FleetError) -> JSONResponse:
        return answer(error.code, error.message, error.status)

    @app.exception_handler(ProtocolError)
    async def protocol_error(_: Request, error: ProtocolError) -> JSONResponse:
        return answer(error.code, error.message, 400)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> JSONResponse:  # nobody will read it
        return answer("api.bad_request", "the connection ended before the body did", 400)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return answer(_CODES.get(error.status_code, "api.bad_request"), str(error.detail), error.status_code)


def _add_enrolment(app: FastAPI, api: DeviceApi) -> None:
    limit = _RateLimit(api.enrolments_per_minute, api.monotonic)

    @app.get("/v1/enrol/ca")
    async def ca() -> Response:
        return Response(api.ca.pem, media_type="application/x-pem-file")

    @app.post("/v1/enrol")
    async def enrol(request: Request) -> dict[str, Any]:
        limit.take(request.client.host if request.client is not None else "")
        body = await _read_capped(request, _MAX_ENROL_BYTES)
        try:
            wanted = msgspec.json.decode(body, type=_EnrolRequest)
            csr = wanted.csr.encode("utf-8")
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise FleetError("api.bad_request", 'send JSON {"token": …, "csr": PEM text}') from error
        return asdict(await run_in_threadpool(api.enrolment.enrol, wanted.token, csr))


def _add_downloads(app: FastAPI, api: DeviceApi, device: Callable[[Request], str]) -> None:
    @app.get("/v1/tuf/{name}", dependencies=[Depends(device)])
    def metadata(name: str) -> Response:
        # Read whole, not sent as a file: the timestamp may be replaced between looking and reading.
        caching = "no-store" if name == "timestamp.json" else "private, max-age=86400"
        return Response(api.repository.read(name), media_type="application/json", headers={"Cache-Control": caching})

    @app.get("/v1/blobs/{sha256}", dependencies=[Depends(device)])
    def blob(sha256: str) -> Response:
        headers = {"Cache-Control": "private, immutable, max-age=31536000", "ETag": f'"{sha256}"'}
        return FileResponse(api.blobs.path(sha256), media_type="application/octet-stream", headers=headers)


def _add_captures(app: FastAPI, api: DeviceApi, device: Callable[[Request], str]) -> None:
    @app.put("/v1/captures/{command}")
    async def capture(command: str, request: Request, sender: str = Depends(device)) -> dict[str, Any]:
        await run_in_threadpool(api.captures.command_for, sender, command)
        sha256 = request.headers.get("x-content-sha256", "")
        with api.captures.upload() as upload:
            await _receive(request, upload)
            return asdict(await run_in_threadpool(api.captures.accept, sender, command, upload, sha256))

    _add_resumable_captures(app, api, device)


def _add_resumable_captures(app: FastAPI, api: DeviceApi, device: Callable[[Request], str]) -> None:
    """Uploads in pieces, after draft-ietf-httpbis-resumable-upload-09 (HEAD tells the offset, PATCH appends), but that
    the resource's name is known beforehand, so that nothing is created with POST."""

    def state(sender: str, name: str) -> Response:
        api.captures.check_may_upload(sender, name)
        known = api.captures.find(name)
        offset = known.length if known is not None else api.captures.partials.offset(sender, name)
        complete = "?1" if known is not None else "?0"
        headers = {"Upload-Offset": str(offset), "Upload-Complete": complete, "Cache-Control": "no-store"}
        return Response(status_code=204, headers=headers)

    @app.head("/v1/captures/{name}")
    def offset(name: str, sender: str = Depends(device)) -> Response:
        return state(sender, name)

    @app.delete("/v1/captures/{name}", status_code=204)
    def cancel(name: str, sender: str = Depends(device)) -> Response:
        api.captures.check_may_upload(sender, name)
        api.captures.partials.remove(sender, name)
        return Response(status_code=204)

    @app.patch("/v1/captures/{name}")
    async def append(name: str, request: Request, sender: str = Depends(device)) -> Response:
        piece = _piece(request)
        await run_in_threadpool(api.captures.check_may_upload, sender, name)
        if (known := await run_in_threadpool(api.captures.find, name)) is not None:
            if known.sha256 != piece.sha256:
                raise FleetError("capture.conflict", f"{name} has been answered with another recording")
            return JSONResponse(asdict(known))
        place = (sender, name, piece.offset, piece.length, piece.sha256)
        partial = await run_in_threadpool(api.captures.partials.resume, *place)
        await _receive(request, partial)
        headers = {"Upload-Offset": str(partial.position), "Upload-Complete": "?0"}
        if not partial.complete:
            return Response(status_code=204, headers=headers)
        kept = await run_in_threadpool(api.captures.finish, sender, name, partial, piece.pipeline)
        return JSONResponse(asdict(kept), headers={**headers, "Upload-Complete": "?1"})


@dataclass(frozen=True)
class _Piece:
    offset: int
    length: int
    sha256: str
    pipeline: str


def _piece(request: Request) -> _Piece:
    """What the headers of a piece say.

    Raises:
        FleetError: ``api.bad_request``.
    """
    try:
        numbers = [request.headers.get(key, "") for key in ("upload-offset", "upload-length")]
        if not all(text.isascii() and text.isdigit() and len(text) <= 15 for text in numbers):
            raise FleetError("api.bad_request", "Upload-Offset and Upload-Length must be numbers")
        sha256 = request.headers.get("x-content-sha256", "")
        if not _SHA256.match(sha256):
            raise FleetError("api.bad_request", "X-Content-SHA256 must name the hash of the whole recording")
        if request.headers.get("content-type") != "application/partial-upload":
            raise FleetError("api.bad_request", "Content-Type must be application/partial-upload")
        pipeline = check_name(request.headers.get("x-pipeline", "main"), "pipeline name")
    except ProtocolError as error:
        raise FleetError("api.bad_request", error.message) from error
    return _Piece(int(numbers[0]), int(numbers[1]), sha256, pipeline)


class _Sink(Protocol):
    def write(self, chunk: bytes) -> None: ...


async def _receive(request: Request, upload: _Sink) -> None:
    """Stream the body to disk in large pieces, off the event loop."""
    held = bytearray()
    async for chunk in request.stream():
        held += chunk
        if len(held) >= _WRITE_BYTES:
            await run_in_threadpool(upload.write, bytes(held))
            held.clear()
    await run_in_threadpool(upload.write, bytes(held))


async def _read_capped(request: Request, cap_bytes: int) -> bytes:
    held = bytearray()
    async for chunk in request.stream():
        held += chunk
        if len(held) > cap_bytes:
            raise FleetError("api.too_large", f"the body is longer than {cap_bytes} bytes")
    return bytes(held)

"""The admin API, ``/api/v1/…``, and the page beside it.

Invariants:
    * Every route below ``/api/v1`` needs the bearer token; the page's cookie is enough for reading only.
    * Every refusal is JSON ``{code, message}`` with a stable dotted code.

What this module does not do: rules. It reads through the rooms' ``views.py`` and changes through the services in
:class:`AdminContext`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from wheeltapper_fleet import __version__
from wheeltapper_fleet.access.tokens import COOKIE, Authenticator
from wheeltapper_fleet.alerts import views as alert_views
from wheeltapper_fleet.alerts.schemas import AlertView
from wheeltapper_fleet.api import schemas
from wheeltapper_fleet.api.context import AdminContext
from wheeltapper_fleet.api.events import EventHub
from wheeltapper_fleet.api.guard import Guard
from wheeltapper_fleet.api.summary import fleet_summary
from wheeltapper_fleet.api.upload import receive_blob
from wheeltapper_fleet.campaigns import views as campaign_views
from wheeltapper_fleet.campaigns.schemas import CampaignDetail, CampaignView
from wheeltapper_fleet.captures import views as capture_views
from wheeltapper_fleet.captures.schemas import CaptureView
from wheeltapper_fleet.devices import views as device_views
from wheeltapper_fleet.devices.schemas import CommandView, DeviceView, TokenView
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.registry import views as release_views
from wheeltapper_fleet.registry.schemas import ReleaseView, VerifyView
from wheeltapper_fleet.telemetry.drift import release_drift
from wheeltapper_fleet.telemetry.schemas import DriftView
from wheeltapper_fleet.trust.repository import MAX_METADATA_BYTES
from wheeltapper_fleet.ui.pages import page_router
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.manifest.manifest import MAX_FILE_BYTES, MAX_MANIFEST_BYTES
from wheeltapper_protocols.wire.ids import device_id, name

__all__ = ["AdminServices", "admin_app"]

_LOG = logging.getLogger(__name__)
_BODY_BYTES: Final = 256 * 1024
_PREFIX: Final = "/api/v1"
_DAY_SECONDS: Final = 86_400.0


class AdminServices:
    """What the routes share: the context, the authenticator and the hub of live events."""

    def __init__(self, context: AdminContext) -> None:
        self.context = context
        self.auth = Authenticator(context.engine, context.clock)
        self.hub = EventHub(context.engine)


def _services(request: Request) -> AdminServices:
    services: AdminServices = request.app.state.services
    return services


def _who(request: Request, authorization: Annotated[str | None, Header()] = None) -> str:
    """Who asks. A cookie is good for reading only."""
    auth = _services(request).auth
    if authorization is None and request.method in ("GET", "HEAD"):
        owner = auth.session(request.cookies.get(COOKIE))
        if owner is not None:
            return owner
    return auth.bearer(authorization)


Services = Annotated[AdminServices, Depends(_services)]
Who = Annotated[str, Depends(_who)]
router = APIRouter(prefix=_PREFIX, dependencies=[Depends(_who)])


@router.post("/tokens", status_code=201)
def create_token(body: schemas.TokenRequest, services: Services) -> TokenView:
    """A one-time enrolment token."""
    context = services.context
    token = context.enrolment.create_token(body.device, body.ttl_seconds, body.tags)
    return TokenView(device=body.device, token=token, expires_at=context.clock() + body.ttl_seconds)


@router.get("/devices")
def list_devices(services: Services) -> list[DeviceView]:
    """All devices."""
    return device_views.list_devices(services.context.engine)


@router.get("/devices/{device}")
def get_device(device: str, services: Services) -> DeviceView:
    """One device."""
    return device_views.get_device(services.context.engine, device_id(device))


@router.post("/devices/{device}/revoke")
def revoke_device(device: str, services: Services, who: Who) -> DeviceView:
    """Refuse the device from now on."""
    services.context.enrolment.revoke(device_id(device))
    services.context.on_revoked(device)
    _LOG.info("device %s revoked by %s", device, who)
    return device_views.get_device(services.context.engine, device)


@router.post("/devices/{device}/forget", status_code=204)
def forget_device(device: str, services: Services, who: Who) -> None:
    """Remove the device, so that its id can be enrolled again."""
    services.context.enrolment.forget(device_id(device))
    services.context.on_revoked(device)
    _LOG.info("device %s forgotten by %s", device, who)


@router.post("/devices/{device}/captures", status_code=202)
def request_capture(device: str, body: schemas.CaptureRequest, services: Services) -> CommandView:
    """Ask the device for a recording."""
    if device_views.get_device(services.context.engine, device_id(device)).revoked:
        raise FleetError("device.revoked", f"{device} is revoked", 409)
    command = services.context.captures.request(device, body.pipeline, body.snapshots)
    return CommandView(command=command, device=device)


@router.get("/captures")
def list_captures(services: Services, device: str | None = None) -> list[CaptureView]:
    """Recordings asked for or received."""
    return capture_views.list_captures(services.context.engine, device_id(device) if device is not None else None)


@router.get("/captures/{command}/recording")
def get_recording(command: str, services: Services) -> FileResponse:
    """The recording itself (npz)."""
    sha256 = capture_views.capture_sha256(services.context.engine, command)
    path = services.context.captures_dir / f"{sha256}.npz"
    if not path.is_file():
        raise FleetError("capture.not_found", f"the file of {command[:80]!r} is not in the store; restore it", 404)
    return FileResponse(path, media_type="application/octet-stream", headers={"X-Content-SHA256": sha256})


@router.head("/blobs/{sha256}")
def has_blob(sha256: str, services: Services) -> Response:
    """Whether the blob is here, and how long it is."""
    length = services.context.blobs.path(sha256).stat().st_size
    return Response(headers={"X-Content-Length": str(length)})


@router.put("/blobs/{sha256}", status_code=201)
async def put_blob(sha256: str, request: Request, services: Services) -> dict[str, Any]:
    """Store a blob; its body must hash to its name."""
    blob = await receive_blob(services.context.blobs, sha256, request.stream())
    return {"sha256": blob.sha256, "length": blob.length}


@router.get("/models/{model}/targets")
def get_targets(model: str, services: Services) -> Response:
    """The team role's metadata as it is now, byte for byte."""
    content = services.context.repository.role_metadata(name(model, "model name"))
    number = services.context.releases.next_number(model)
    return Response(content, media_type="application/json", headers={"X-Next-Release": str(number)})


@router.post("/models/{model}/releases", status_code=201)
def publish(model: str, body: schemas.ReleaseRequest, services: Services, who: Who) -> ReleaseView:
    """Publish a release whose blobs are here already."""
    release = services.context.releases.publish(
        name(model, "model name"), body.manifest.encode(), body.metadata.encode(), who
    )
    return ReleaseView.model_validate(release, from_attributes=True)


@router.get("/releases")
def list_releases(services: Services) -> list[ReleaseView]:
    """All releases."""
    return release_views.list_releases(services.context.engine)


@router.get("/releases/{model}/{release}")
def get_release(model: str, release: int, services: Services) -> ReleaseView:
    """One release."""
    found = services.context.releases.get(name(model, "model name"), release)
    return ReleaseView.model_validate(found, from_attributes=True)


@router.get("/releases/{model}/{release}/verify")
def verify(model: str, release: int, services: Services) -> VerifyView:
    """Verify a release as a device would."""
    manifest = services.context.releases.verify(name(model, "model name"), release)
    length = sum(file.length for file in manifest.files)
    return VerifyView(model=model, release=release, verified=True, files=len(manifest.files), length=length)


@router.get("/releases/{model}/{release}/drift")
def get_drift(
    model: str,
    release: int,
    services: Services,
    since: Annotated[float | None, Query(ge=0, le=1e12)] = None,
    until: Annotated[float | None, Query(ge=0, le=1e12)] = None,
    device: str | None = None,
) -> DriftView:
    """Features and scores of the devices that run a release, against its training; by default of the last day."""
    manifest = services.context.releases.manifest(name(model, "model name"), release)
    end = services.context.clock() if until is None else until
    begin = end - _DAY_SECONDS if since is None else since
    only = device_id(device) if device is not None else None
    found = release_drift(services.context.engine, manifest, begin, end, only)
    return DriftView.model_validate(asdict(found))


@router.post("/campaigns", status_code=201)
def create_campaign(body: schemas.CampaignRequest, services: Services, who: Who) -> CampaignDetail:
    """A new campaign, not started."""
    return campaign_views.get_campaign(services.context.engine, services.context.campaigns.create(body.spec, who))


@router.get("/campaigns")
def list_campaigns(services: Services) -> list[CampaignView]:
    """All campaigns."""
    return campaign_views.list_campaigns(services.context.engine)


@router.get("/campaigns/{campaign}")
def get_campaign(campaign: str, services: Services, response: Response) -> CampaignDetail:
    """One campaign, with executions and log."""
    found = campaign_views.get_campaign(services.context.engine, campaign)
    response.headers["ETag"] = f'"{found.version}"'
    return found


@router.post("/campaigns/{campaign}/{action}", response_model=CampaignDetail)
def act_on_campaign(
    campaign: str,
    action: str,
    services: Services,
    who: Who,
    body: schemas.CampaignAction | None = None,
    if_match: Annotated[str | None, Header()] = None,
) -> Any:
    """``start``, ``approve``, ``pause``, ``resume`` or ``abort``; a conflict is answered with the current state."""
    if action not in ("start", "approve", "pause", "resume", "abort"):
        raise FleetError("api.not_found", "use start, approve, pause, resume or abort", 404)
    expected = _expected_version(body, if_match)
    try:
        campaign_views.get_campaign(services.context.engine, campaign)
        services.context.campaigns.act(campaign, action, expected, who)
    except FleetError as error:
        if error.status != 409:
            raise
        current = campaign_views.get_campaign(services.context.engine, campaign)
        content = {"code": error.code, "message": error.message, "current": current.model_dump(mode="json")}
        return JSONResponse(content, status_code=409, headers={"ETag": f'"{current.version}"'})
    return campaign_views.get_campaign(services.context.engine, campaign)


def _expected_version(body: schemas.CampaignAction | None, if_match: str | None) -> int:
    text = (if_match or "").strip().removeprefix("W/").strip('"')
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    if if_match is None and body is not None and body.expected_version is not None:
        return body.expected_version
    message = "say which version you decided on: If-Match: <version>, or expected_version in the body"
    raise FleetError("campaign.version_required", message, 428)


@router.get("/alerts")
def list_alerts(
    services: Services, limit: Annotated[int, Query(ge=1, le=1000)] = 200, after_id: Annotated[int, Query(ge=0)] = 0
) -> list[AlertView]:
    """Alerts, newest first."""
    return alert_views.list_alerts(services.context.engine, limit, after_id)


@router.get("/summary")
def summary(services: Services) -> schemas.Summary:
    """The fleet in numbers."""
    return fleet_summary(services.context.engine)


@router.get("/events")
async def events(services: Services) -> StreamingResponse:
    """Live changes of devices (with scores), campaigns and alerts, as server-sent events."""
    return StreamingResponse(services.hub.listen(), media_type="text/event-stream")


def _cap_bytes(path: str) -> int:
    if path.startswith(f"{_PREFIX}/blobs/"):
        return MAX_FILE_BYTES
    if path.startswith(f"{_PREFIX}/models/"):
        return 2 * (MAX_METADATA_BYTES + MAX_MANIFEST_BYTES)
    return _BODY_BYTES


def admin_app(context: AdminContext) -> FastAPI:
    """The admin API and the page, ready to be served."""
    services = AdminServices(context)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await services.hub.close()

    app = FastAPI(
        title="Wheeltapper fleet",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.services = services
    app.include_router(router)
    app.include_router(page_router)
    app.add_api_route("/healthz", _healthz, methods=["GET"])
    app.add_exception_handler(FleetError, _refuse)
    app.add_exception_handler(ProtocolError, _refuse)
    app.add_exception_handler(HTTPException, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse)
    app.add_exception_handler(Exception, _broken)
    app.add_middleware(Guard, hosts=context.hosts, cap_bytes=_cap_bytes)
    return app


def _healthz(services: Services) -> JSONResponse:
    """Whether every part works. Needs no token and tells no secret."""
    failing = services.context.healthy()
    return JSONResponse({"ok": not failing, "failing": failing}, status_code=503 if failing else 200)


def _refuse(_: Request, error: Exception) -> Response:
    if isinstance(error, FleetError):
        code, message, status = error.code, error.message, error.status
    elif isinstance(error, ProtocolError):
        code, message, status = error.code, error.message, 422
    elif isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first.get("loc", ()))
        code, message, status = "api.invalid", f"{where}: {first.get('msg', 'not valid')}"[:500], 422
    elif isinstance(error, HTTPException):
        codes = {404: "api.not_found", 405: "api.method"}
        code, message, status = codes.get(error.status_code, "api.bad_request"), str(error.detail), error.status_code
    else:
        raise error
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"code": code, "message": message}, status_code=status, headers=headers)


def _broken(_: Request, error: Exception) -> Response:
    _LOG.error("a request failed: %s", type(error).__name__)
    return JSONResponse({"code": "api.internal", "message": "the service failed; see its log"}, status_code=500)

"""Routes of releases: upload blobs, publish, list, verify, drift."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from wheeltapper_fleet.api import schemas
from wheeltapper_fleet.api.context import Context, Who
from wheeltapper_fleet.api.upload import receive_blob
from wheeltapper_fleet.registry import views
from wheeltapper_fleet.registry.schemas import ReleaseView, VerifyView
from wheeltapper_fleet.telemetry.schemas import DriftView
from wheeltapper_fleet.telemetry.views import release_drift
from wheeltapper_protocols.wire.ids import device_id, name

__all__ = ["router"]

_DAY_SECONDS: Final = 86_400.0
router = APIRouter()


@router.head("/blobs/{sha256}")
def has_blob(sha256: str, context: Context) -> Response:
    """Whether the blob is in the store, with its length in ``X-Content-Length``."""
    length = context.blobs.path(sha256).stat().st_size
    return Response(headers={"X-Content-Length": str(length)})


@router.put("/blobs/{sha256}", status_code=201)
async def put_blob(sha256: str, request: Request, context: Context) -> dict[str, Any]:
    """Store a blob. The SHA-256 of the body must be the blob's name."""
    blob = await receive_blob(context.blobs, sha256, request.stream())
    return {"sha256": blob.sha256, "length": blob.length}


@router.get("/models/{model}/targets")
def get_targets(model: str, context: Context) -> Response:
    """The team role's current metadata, byte for byte, with the next release's number in ``X-Next-Release``."""
    content = context.repository.role_metadata(name(model, "model name"))
    number = context.releases.next_number(model)
    return Response(content, media_type="application/json", headers={"X-Next-Release": str(number)})


@router.post("/models/{model}/releases", status_code=201)
def publish(model: str, body: schemas.ReleaseRequest, context: Context, who: Who) -> ReleaseView:
    """Publish a release. Its blobs must be in the store already."""
    release = context.releases.publish(name(model, "model name"), body.manifest.encode(), body.metadata.encode(), who)
    return ReleaseView.model_validate(release, from_attributes=True)


@router.get("/releases")
def list_releases(context: Context) -> list[ReleaseView]:
    """All releases, by model and number."""
    return views.list_releases(context.engine)


@router.get("/releases/{model}/{release}")
def get_release(model: str, release: int, context: Context) -> ReleaseView:
    """One release."""
    found = context.releases.get(name(model, "model name"), release)
    return ReleaseView.model_validate(found, from_attributes=True)


@router.get("/releases/{model}/{release}/verify")
def verify(model: str, release: int, context: Context) -> VerifyView:
    """Verify a release as a device would, down to every byte."""
    manifest = context.releases.verify(name(model, "model name"), release)
    length = sum(file.length for file in manifest.files)
    return VerifyView(model=model, release=release, verified=True, files=len(manifest.files), length=length)


@router.get("/releases/{model}/{release}/drift")
def get_drift(
    model: str,
    release: int,
    context: Context,
    since: Annotated[float | None, Query(ge=0, le=1e12)] = None,
    until: Annotated[float | None, Query(ge=0, le=1e12)] = None,
    device: str | None = None,
) -> DriftView:
    """Features and scores of the devices that run a release, compared with its training; by default of the last day."""
    manifest = context.releases.manifest(name(model, "model name"), release)
    end = context.clock() if until is None else until
    begin = end - _DAY_SECONDS if since is None else since
    only = device_id(device) if device is not None else None
    found = release_drift(context.engine, manifest, begin, end, only)
    return DriftView.model_validate(asdict(found))

"""Routes of releases: upload blobs, publish, list, verify, drift, estimated quality."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse

from wheeltapper_fleet.api import schemas
from wheeltapper_fleet.api.context import Context, Who
from wheeltapper_fleet.api.parameters import After, DeviceId, FileName, Limit, ModelName, ReleaseNumber, Sha256
from wheeltapper_fleet.api.upload import receive_blob
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.lineage.card import card_of
from wheeltapper_fleet.promotion.comparison import compare_releases
from wheeltapper_fleet.promotion.quality import estimated_quality
from wheeltapper_fleet.promotion.schemas import QualityView, ReleaseCard, ReleaseComparison
from wheeltapper_fleet.registry import views
from wheeltapper_fleet.registry.schemas import ReleaseView, VerifyView
from wheeltapper_fleet.telemetry.schemas import DriftView
from wheeltapper_fleet.telemetry.views import release_drift

__all__ = ["router"]

_DAY_SECONDS: Final = 86_400.0
_FIELD_DAYS: Final = 365
_BLOB: Final = {
    "required": True,
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary", "minLength": 1}}},
}
router = APIRouter()


@router.head("/blobs/{sha256}")
def has_blob(sha256: Sha256, context: Context) -> Response:
    """Whether the blob is in the store, with its length in ``X-Content-Length``."""
    length = context.blobs.wanted(sha256).stat().st_size
    return Response(headers={"X-Content-Length": str(length)})


@router.put("/blobs/{sha256}", status_code=201, openapi_extra={"requestBody": _BLOB})
async def put_blob(sha256: Sha256, request: Request, context: Context) -> dict[str, Any]:
    """Store a blob. The SHA-256 of the body must be the blob's name."""
    blob = await receive_blob(context.blobs, sha256, request.stream())
    return {"sha256": blob.sha256, "length": blob.length}


@router.get("/models/{model}/targets")
def get_targets(model: ModelName, context: Context) -> Response:
    """The team role's current metadata, byte for byte, with the next release's number in ``X-Next-Release``."""
    content = context.repository.role_metadata(model)
    number = context.releases.next_number(model)
    return Response(content, media_type="application/json", headers={"X-Next-Release": str(number)})


@router.post("/models/{model}/releases", status_code=201)
def publish(model: ModelName, body: schemas.ReleaseRequest, context: Context, who: Who) -> ReleaseView:
    """Publish a release. Its blobs must be in the store already."""
    release = context.releases.publish(model, body.manifest.encode(), body.metadata.encode(), who)
    return ReleaseView.model_validate(release, from_attributes=True)


@router.get("/releases")
def list_releases(context: Context, limit: Limit = DEFAULT_LIMIT, after: After = None) -> Page[ReleaseView]:
    """Releases, by model and number."""
    return views.list_releases(context.engine, limit, after)


@router.get("/releases/{model}/{release}")
def get_release(model: ModelName, release: ReleaseNumber, context: Context) -> ReleaseView:
    """One release."""
    found = context.releases.get(model, release)
    return ReleaseView.model_validate(found, from_attributes=True)


@router.get("/releases/{model}/{release}/bundle/{file}", response_class=FileResponse)
def get_bundle_file(model: ModelName, release: ReleaseNumber, file: FileName, context: Context) -> FileResponse:
    """A file of the bundle of a release; `manifest.json` names the others. Whoever fetches it checks its hashes."""
    path = context.releases.bundle_file(model, release, file)
    return FileResponse(path, media_type="application/octet-stream", headers={"X-Content-SHA256": path.name})


@router.get("/releases/{model}/{release}/verify")
def verify(model: ModelName, release: ReleaseNumber, context: Context) -> VerifyView:
    """Verify a release as a device would, down to every byte."""
    manifest = context.releases.verify(model, release)
    length = sum(file.length for file in manifest.files)
    return VerifyView(model=model, release=release, verified=True, files=len(manifest.files), length=length)


@router.get("/releases/{model}/{release}/drift")
def get_drift(
    model: ModelName,
    release: ReleaseNumber,
    context: Context,
    since: Annotated[float | None, Query(ge=0, le=1e12)] = None,
    until: Annotated[float | None, Query(ge=0, le=1e12)] = None,
    device: DeviceId | None = None,
) -> DriftView:
    """Features and scores of the devices that run a release, compared with its training; by default of the last day."""
    manifest = context.releases.manifest(model, release)
    end = context.clock() if until is None else until
    begin = end - _DAY_SECONDS if since is None else since
    found = release_drift(context.engine, manifest, begin, end, device)
    return DriftView.model_validate(asdict(found))


@router.get("/releases/{model}/{release}/quality")
def get_quality(
    model: ModelName,
    release: ReleaseNumber,
    context: Context,
    since: Annotated[float | None, Query(ge=0, le=1e12)] = None,
    until: Annotated[float | None, Query(ge=0, le=1e12)] = None,
    device: DeviceId | None = None,
) -> QualityView:
    """The quality of a release, estimated without labels by its devices' scores; by default of the last week."""
    end = context.clock() if until is None else until
    begin = end - 7 * _DAY_SECONDS if since is None else since
    return estimated_quality(context.engine, model, release, begin, end, device)


@router.get("/releases/{model}/{release}/compare")
def compare(
    model: ModelName,
    release: ReleaseNumber,
    context: Context,
    other: Annotated[int, Query(ge=1, le=999_999_999, description="The number of the other release.")],
    since: Annotated[float | None, Query(ge=0, le=1e12)] = None,
) -> ReleaseComparison:
    """A release beside another one: gates, what differs, lineage, sizes; what people found, by default in a year."""
    until = context.clock()
    begin = until - _FIELD_DAYS * _DAY_SECONDS if since is None else since
    return compare_releases(context.engine, model, release, other, begin, until)


@router.get("/releases/{model}/{release}/card")
def get_card(model: ModelName, release: ReleaseNumber, context: Context) -> ReleaseCard:
    """The model card of a release, written from records only; what nobody measured says so."""
    return card_of(context.engine, model, release, context.clock())

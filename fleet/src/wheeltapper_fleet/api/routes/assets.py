"""Routes of assets: the tree of sites, machines, components and points, and what measures a point."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Final, Literal, TypeAlias

from fastapi import APIRouter, Query, Response

from wheeltapper_fleet.api.context import Context, Who
from wheeltapper_fleet.api.parameters import After, DeviceId, Limit, ModelName
from wheeltapper_fleet.api.versions import IfMatch, conflict_response, decided_on
from wheeltapper_fleet.assets import service, views
from wheeltapper_fleet.assets.history import point_history
from wheeltapper_fleet.assets.schemas import (
    AssetChange,
    AssetDetail,
    AssetImport,
    AssetRequest,
    AssetVersion,
    AssetView,
    ImportResult,
    MappingEnd,
    MappingRequest,
    PointHistory,
)
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.telemetry.history import MAX_POINTS

__all__ = ["router"]

_LOG: Final = logging.getLogger(__name__)
_DAY_SECONDS: Final = 86_400.0
router = APIRouter()
AssetId: TypeAlias = ModelName
"""Assets are named as models are."""
Time: TypeAlias = Annotated[float | None, Query(ge=0, le=1e11, allow_inf_nan=False, description="Unix seconds.")]
Within: TypeAlias = Annotated[AssetId | None, Query(description="Only this asset and what belongs to it.")]


@router.get("/assets")
def list_assets(
    context: Context,
    within: Within = None,
    kind: Literal["site", "machine", "component", "point"] | None = None,
    parent: AssetId | None = None,
    device: DeviceId | None = None,
    retired: bool = False,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Page[AssetView]:
    """Assets, by id."""
    return views.list_assets(
        context.engine,
        limit=limit,
        after=after,
        within=within,
        kind=kind,
        parent=parent,
        device=device,
        retired=retired,
    )


@router.post("/assets", status_code=201)
def create_asset(body: AssetRequest, context: Context, who: Who, response: Response) -> AssetDetail:
    """Create an asset."""
    service.create_asset(context.engine, body, context.clock())
    _LOG.info("asset %s created by %s", body.id, who)
    return _shown(context, body.id, response)


@router.post("/assets/import")
def import_assets(body: AssetImport, context: Context, who: Who) -> ImportResult:
    """Create what is not there and change what differs, all of it or nothing."""
    done = service.import_assets(context.engine, body.assets, body.dry_run, context.clock())
    if not body.dry_run:
        _LOG.info("%d assets created, %d changed by %s", len(done.created), len(done.changed), who)
    return done


@router.get("/assets/{asset}")
def get_asset(asset: AssetId, context: Context, response: Response) -> AssetDetail:
    """One asset. The header ``ETag`` is its version."""
    return _shown(context, asset, response)


@router.get("/assets/{asset}/history")
def get_history(
    asset: AssetId,
    context: Context,
    from_: Annotated[Time, Query(alias="from")] = None,
    to: Time = None,
    points: Annotated[int, Query(ge=1, le=MAX_POINTS, description="How many points at most.")] = 500,
) -> PointHistory:
    """The scores of a point, whichever devices measured it; by default of the last day."""
    until = context.clock() if to is None else to
    since = until - _DAY_SECONDS if from_ is None else from_
    return point_history(context.engine, asset, since, until, points)


@router.patch("/assets/{asset}", response_model=AssetDetail)
def change_asset(
    asset: AssetId, body: AssetChange, context: Context, who: Who, response: Response, if_match: IfMatch = None
) -> Any:
    """Change an asset; a conflict is answered with its current state."""
    try:
        service.change_asset(context.engine, asset, body, decided_on(if_match, body.expected_version), context.clock())
    except FleetError as error:
        return _conflict(context, asset, error, if_match)
    _LOG.info("asset %s changed by %s", asset, who)
    return _shown(context, asset, response)


@router.post("/assets/{asset}/retire", response_model=AssetDetail)
def retire_asset(
    asset: AssetId, body: AssetVersion, context: Context, who: Who, response: Response, if_match: IfMatch = None
) -> Any:
    """Retire an asset with all below it and end the mappings of its points; its history stays."""
    try:
        service.retire_asset(context.engine, asset, decided_on(if_match, body.expected_version), context.clock())
    except FleetError as error:
        return _conflict(context, asset, error, if_match)
    _LOG.info("asset %s retired by %s", asset, who)
    return _shown(context, asset, response)


@router.post("/assets/{asset}/delete", status_code=204, response_model=None)
def delete_asset(
    asset: AssetId, body: AssetVersion, context: Context, who: Who, if_match: IfMatch = None
) -> Response | None:
    """Remove an asset without history, which was made by mistake."""
    try:
        service.delete_asset(context.engine, asset, decided_on(if_match, body.expected_version))
    except FleetError as error:
        return _conflict(context, asset, error, if_match)
    _LOG.info("asset %s deleted by %s", asset, who)
    return None


@router.post("/assets/{asset}/mappings", status_code=201)
def map_point(asset: AssetId, body: MappingRequest, context: Context, who: Who, response: Response) -> AssetDetail:
    """Say which device's pipeline and channel measure a point from now on."""
    service.map_point(context.engine, asset, body, context.clock())
    _LOG.info("point %s is measured by %s/%s, says %s", asset, body.device, body.pipeline, who)
    return _shown(context, asset, response)


@router.post("/assets/{asset}/mappings/end")
def unmap_point(asset: AssetId, body: MappingEnd, context: Context, who: Who, response: Response) -> AssetDetail:
    """End all mappings of a point."""
    service.unmap_point(context.engine, asset, context.clock() if body.at is None else body.at)
    _LOG.info("the mappings of point %s ended by %s", asset, who)
    return _shown(context, asset, response)


def _shown(context: Context, asset: str, response: Response) -> AssetDetail:
    found = views.get_asset(context.engine, asset)
    response.headers["ETag"] = f'"{found.version}"'
    return found


def _conflict(context: Context, asset: str, error: FleetError, if_match: str | None) -> Response:
    """The answer to a change at another version; any other refusal is raised."""
    if error.code != "asset.conflict":
        raise error
    current = views.get_asset(context.engine, asset)
    return conflict_response(error, if_match, current, current.version)

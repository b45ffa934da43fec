"""Routes of default releases: set, list, clear."""

from __future__ import annotations

from fastapi import APIRouter

from wheeltapper_fleet.api import schemas
from wheeltapper_fleet.api.context import Context, Who
from wheeltapper_fleet.api.parameters import After, Limit
from wheeltapper_fleet.campaigns import default_releases
from wheeltapper_fleet.campaigns.schemas import DefaultReleaseView
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.ground.request import note_subject

__all__ = ["router"]

router = APIRouter()


@router.post("/default-releases", status_code=201)
def set_default_release(body: schemas.DefaultReleaseRequest, context: Context, who: Who) -> DefaultReleaseView:
    """Set the default release of a model for an audience; it replaces the one that is set."""
    made = default_releases.set_default(
        context.engine,
        body.model,
        body.release,
        pipeline=body.pipeline,
        tags=body.tags,
        who=who,
        why=body.why,
        now=context.clock(),
    )
    note_subject(model=body.model, release=str(body.release), default=made)
    return default_releases.get_default(context.engine, made)


@router.get("/default-releases")
def list_default_releases(
    context: Context, cleared: bool = False, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> Page[DefaultReleaseView]:
    """The default releases that are set, newest first; with ``cleared`` also those that were."""
    return default_releases.list_defaults(context.engine, cleared, limit, after)


@router.post("/default-releases/clear")
def clear_default_release(
    body: schemas.ClearDefaultReleaseRequest, context: Context, who: Who
) -> list[DefaultReleaseView]:
    """Clear the default releases of a model; the answer has those that were cleared. Devices keep what they run."""
    cleared = default_releases.clear_default(
        context.engine,
        body.model,
        pipeline=body.pipeline,
        tags=body.tags,
        who=who,
        why=body.why,
        now=context.clock(),
    )
    note_subject(model=body.model, default=" ".join(cleared))
    return [default_releases.get_default(context.engine, each) for each in cleared]

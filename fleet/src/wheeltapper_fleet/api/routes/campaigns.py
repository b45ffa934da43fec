"""Routes of campaigns: create, list, and steer."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

from fastapi import APIRouter, Body, Query, Response
from pydantic import WithJsonSchema

from wheeltapper_fleet.api import schemas
from wheeltapper_fleet.api.context import Context, Who
from wheeltapper_fleet.api.parameters import After, DeviceId, Key, Limit, PipelineName
from wheeltapper_fleet.api.versions import IfMatch, conflict_response
from wheeltapper_fleet.campaigns import clone, dry_run, views
from wheeltapper_fleet.campaigns.rules.forecast import Outcome
from wheeltapper_fleet.campaigns.schemas import CampaignDetail, CampaignPlan, CampaignView, ExecutionView, LogEntry, Why
from wheeltapper_fleet.campaigns.why import why
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.ground.request import note_subject

__all__ = ["router"]

router = APIRouter()


_ACTIONS: Final = ("start", "approve", "pause", "resume", "complete", "abort")
Action: TypeAlias = Annotated[str, WithJsonSchema({"type": "string", "enum": list(_ACTIONS)})]
State: TypeAlias = Annotated[str, Query(pattern="^[A-Z_]{1,24}$", description="Only executions in this state.")]


@router.post("/campaigns", status_code=201)
def create_campaign(body: schemas.CampaignRequest, context: Context, who: Who) -> CampaignDetail:
    """Create a campaign. It does not start by itself."""
    made = context.campaigns.create(body.spec, who)
    note_subject(campaign=made)
    return views.get_campaign(context.engine, made)


@router.post("/campaigns/plan")
def plan_campaign(
    body: schemas.CampaignRequest,
    context: Context,
    outcome: Annotated[Outcome | None, Query(description="Only devices of which this would come")] = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> CampaignPlan:
    """A dry run: who would get what, when, and who not and why. Nothing is stored."""
    return dry_run.plan_campaign(
        context.engine, body.spec, now=context.clock(), outcome=outcome, limit=limit, after=after
    )


@router.get("/campaigns")
def list_campaigns(context: Context, limit: Limit = DEFAULT_LIMIT, after: After = None) -> Page[CampaignView]:
    """Campaigns, newest first."""
    return views.list_campaigns(context.engine, limit, after)


@router.get("/devices/{device}/why")
def explain_device(device: DeviceId, context: Context, pipeline: PipelineName = None) -> Why:
    """Why each pipeline of a device, or only ``pipeline``, runs what it runs: assignment, campaigns, default release,
    last refusal, what lost against what, and everything in order of time."""
    return why(context.engine, device, pipeline)


@router.get("/campaigns/{campaign}")
def get_campaign(campaign: Key, context: Context, response: Response) -> CampaignDetail:
    """One campaign, its executions counted by wave and state. The header ``ETag`` is its version."""
    found = views.get_campaign(context.engine, campaign)
    response.headers["ETag"] = f'"{found.version}"'
    return found


@router.get("/campaigns/{campaign}/executions")
def list_executions(
    campaign: Key, context: Context, state: State | None = None, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> Page[ExecutionView]:
    """The executions of a campaign, by wave and device."""
    return views.list_executions(context.engine, campaign, limit, after, state)


@router.get("/campaigns/{campaign}/log")
def list_log(campaign: Key, context: Context, limit: Limit = DEFAULT_LIMIT, after: After = None) -> Page[LogEntry]:
    """What happened to a campaign, and who did it, oldest first."""
    return views.list_log(context.engine, campaign, limit, after)


@router.post("/campaigns/{campaign}/clone", status_code=201)
def clone_campaign(campaign: Key, body: schemas.CloneRequest, context: Context, who: Who) -> CampaignDetail:
    """Create a campaign as another one was, with some changes. Its audience is evaluated anew; it does not start by
    itself."""
    spec = clone.cloned_spec(context.engine, campaign, body.changes)
    made = context.campaigns.create(spec, who)
    clone.log_clone(context.engine, campaign, made, who=who, now=context.clock())
    return views.get_campaign(context.engine, made)


@router.post("/campaigns/{campaign}/rollback", status_code=201)
def roll_back_campaign(campaign: Key, body: schemas.RollbackRequest, context: Context, who: Who) -> CampaignDetail:
    """Take back what a campaign brought: it is aborted if it has not ended, and a new one is made and started, over
    the devices that committed its release."""
    made = context.campaigns.roll_back(campaign, body.release, body.why, who)
    return views.get_campaign(context.engine, made)


@router.post(
    "/campaigns/{campaign}/{action}",
    response_model=CampaignDetail,
    openapi_extra={"requestBody": {"required": True}},  # or the header; OpenAPI cannot say "one of the two"
)
def act_on_campaign(
    campaign: Key,
    action: Action,
    context: Context,
    who: Who,
    body: Annotated[schemas.CampaignAction, Body()] = None,  # type: ignore[assignment]  # absent beside If-Match
    if_match: IfMatch = None,
) -> Any:
    """``start``, ``approve``, ``pause``, ``resume``, ``complete`` (a continuous one) or ``abort``; a conflict is
    answered with the current state.

    The version that was decided on is in the body, or in the header ``If-Match``, which counts more.
    """
    if action not in _ACTIONS:
        raise FleetError("api.not_found", f"use one of {', '.join(_ACTIONS)}", 404)
    expected = _expected_version(body, if_match)
    try:
        views.get_campaign(context.engine, campaign)
        context.campaigns.act(campaign, action, expected, who)
    except FleetError as error:
        if error.status != 409:
            raise
        current = views.get_campaign(context.engine, campaign)
        return conflict_response(error, if_match, current, current.version)
    return views.get_campaign(context.engine, campaign)


def _expected_version(body: schemas.CampaignAction | None, if_match: str | None) -> int:
    """The version that the action was decided on: from ``If-Match``, else from the body.

    Raises:
        FleetError: ``campaign.version_required``.
    """
    text = (if_match or "").strip().removeprefix("W/").strip('"')
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    if not text and body is not None:
        return body.expected_version
    message = "say which version you decided on: If-Match: <version>, or expected_version in the body"
    raise FleetError("campaign.version_required", message, 428)

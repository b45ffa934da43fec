"""Routes of notifications: who is told of what, what was sent, what could not be."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Final, Literal, TypeAlias

from fastapi import APIRouter, Path, Response

from wheeltapper_fleet.api.context import AdminContext, Context, Who
from wheeltapper_fleet.api.parameters import After, Limit, ModelName
from wheeltapper_fleet.api.versions import IfMatch, conflict_response
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.notify import service, views
from wheeltapper_fleet.notify.schemas import MadeTarget, NotificationView, TargetChange, TargetRequest, TargetView

__all__ = ["router"]

_LOG: Final = logging.getLogger(__name__)
router = APIRouter()
Target: TypeAlias = ModelName
Number: TypeAlias = Annotated[int, Path(ge=1, le=2**63 - 1)]


@router.get("/notify-targets")
def list_targets(context: Context, limit: Limit = DEFAULT_LIMIT, after: After = None) -> Page[TargetView]:
    """Who is told of what, by name."""
    return views.list_targets(context.engine, limit, after)


@router.post("/notify-targets", status_code=201)
def create_target(body: TargetRequest, context: Context, who: Who) -> MadeTarget:
    """Tell a webhook or a mail address. A webhook's secret is in this answer, and in no other."""
    secret = service.create_target(context.engine, body, who, context.clock())
    _LOG.info("target %s created by %s", body.id, who)
    return MadeTarget(**views.get_target(context.engine, body.id).model_dump(), secret=secret)


@router.get("/notify-targets/{target}")
def get_target(target: Target, context: Context, response: Response) -> TargetView:
    """One target, and how deliveries to it go. The header ``ETag`` names what people set of it."""
    return _shown(context, target, response)


@router.patch("/notify-targets/{target}", response_model=TargetView)
def change_target(
    target: Target, body: TargetChange, context: Context, who: Who, response: Response, if_match: IfMatch = None
) -> Any:
    """Change a target; what is left out stays."""
    try:
        service.change_target(context.engine, target, body, if_match)
    except FleetError as error:
        return _conflict(context, target, error, if_match)
    _LOG.info("target %s changed by %s", target, who)
    return _shown(context, target, response)


@router.post("/notify-targets/{target}/test", status_code=202)
def send_test(target: Target, context: Context, who: Who) -> TargetView:
    """Send a test; whether it arrived is in the list of notifications soon."""
    service.send_test(context.engine, target, who, context.clock())
    return views.get_target(context.engine, target)


@router.post("/notify-targets/{target}/delete", status_code=204, response_model=None)
def delete_target(target: Target, context: Context, who: Who, if_match: IfMatch = None) -> Response | None:
    """Remove a target, and what waits for it."""
    try:
        service.delete_target(context.engine, target, if_match)
    except FleetError as error:
        return _conflict(context, target, error, if_match)
    _LOG.info("target %s deleted by %s", target, who)
    return None


@router.get("/notifications")
def list_notifications(
    context: Context,
    target: Target | None = None,
    state: Literal["waiting", "sent", "dead"] | None = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Page[NotificationView]:
    """What was told, waits or was given up, newest first."""
    return views.list_notifications(context.engine, limit, after, target=target, state=state)


@router.post("/notifications/{notification}/resend", status_code=204)
def resend(notification: Number, context: Context) -> None:
    """Send a notification again that was given up."""
    service.resend(context.engine, notification, context.clock())


def _shown(context: AdminContext, target: str, response: Response) -> TargetView:
    found = views.get_target(context.engine, target)
    response.headers["ETag"] = f'"{found.etag}"'
    return found


def _conflict(context: AdminContext, target: str, error: FleetError, if_match: str | None) -> Response:
    """The answer to a change that was decided on something else; any other refusal is raised."""
    if error.code != "notify.conflict":
        raise error
    current = views.get_target(context.engine, target)
    return conflict_response(error, if_match, current, current.etag)

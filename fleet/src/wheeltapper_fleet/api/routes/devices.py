"""Routes of devices: enrolment tokens, list, counts, tags, and their life from pending to retired."""

from __future__ import annotations

import logging
from typing import Any, Final, Literal

from fastapi import APIRouter, Response

from wheeltapper_fleet.api import schemas
from wheeltapper_fleet.api.context import AdminContext, Context, Scope, Who
from wheeltapper_fleet.api.parameters import After, DeviceId, Limit, Q
from wheeltapper_fleet.api.versions import IfMatch, conflict_response
from wheeltapper_fleet.devices import log, views
from wheeltapper_fleet.devices.expected import ExpectedDevice
from wheeltapper_fleet.devices.rules import Action
from wheeltapper_fleet.devices.schemas import BulkView, DeviceCounts, DeviceLogEntry, DeviceView, TokenView
from wheeltapper_fleet.devices.scope import narrowed
from wheeltapper_fleet.devices.service import BulkChange
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.ground.request import note_subject

__all__ = ["router"]

_LOG: Final = logging.getLogger(__name__)
router = APIRouter()


@router.post("/tokens", status_code=201)
def create_token(body: schemas.TokenRequest, context: Context, who: Who, scope: Scope) -> TokenView:
    """Create a one-time enrolment token; the device is pending from then on."""
    note_subject(device=body.device)
    token = context.enrolment.create_token(body.device, body.ttl_seconds, body.tags or None, who, scope)
    return TokenView(device=body.device, token=token, expires_at=context.clock() + body.ttl_seconds)


@router.post("/device-tokens", status_code=201)
def create_tokens(body: schemas.TokensRequest, context: Context, who: Who, scope: Scope) -> list[TokenView]:
    """Create a one-time enrolment token for each of many devices: for all of them, or for none if one is wrong."""
    expected = [ExpectedDevice(each.device, each.tags, each.row) for each in body.devices]
    tokens = context.enrolment.create_tokens(expected, body.ttl_seconds, who, scope)
    until = context.clock() + body.ttl_seconds
    return [
        TokenView(device=each.device, token=token, expires_at=until)
        for each, token in zip(expected, tokens, strict=True)
    ]


@router.get("/devices")
def list_devices(
    context: Context,
    scope: Scope,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
    q: Q = None,
    sort: Literal["id", "-id", "last_seen", "-last_seen"] = "id",
) -> Page[DeviceView]:
    """Devices; with `q` those that a query means. Their `scores` are with each single device."""
    return views.list_devices(context.engine, context.clock(), limit, after, narrowed(q or "", scope), sort)


@router.get("/device-counts")
def count_devices(context: Context, scope: Scope, q: Q = None) -> DeviceCounts:
    """Devices in numbers: by state, site, and what they run; with `q` those that a query means."""
    return views.count_devices(context.engine, narrowed(q or "", scope), context.clock())


@router.post("/device-edits")
def edit_devices(body: schemas.DeviceBulkRequest, context: Context, who: Who, scope: Scope) -> BulkView:
    """Change every device that a query means: its tags, its state, or both. With `dry` they are only counted."""
    change = BulkChange(None if body.action is None else Action(body.action), body.tags)
    if body.dry:
        return context.devices.foresee(body.q, change, scope)
    done = context.devices.bulk(body.q, change, who=who, why=body.why, expected=body.expected, scope=scope)
    _LOG.info("%d devices changed by %s: %s", done.changed, who, body.q[:200])
    return done


@router.get("/devices/{device}")
def get_device(device: DeviceId, context: Context, response: Response) -> DeviceView:
    """One device. The header ``ETag`` names what people set of it: its state and its tags."""
    return _shown(context, device, response)


@router.patch("/devices/{device}", response_model=DeviceView)
def edit_device(
    device: DeviceId,
    body: schemas.DeviceEditRequest,
    context: Context,
    who: Who,
    scope: Scope,
    response: Response,
    if_match: IfMatch = None,
) -> Any:
    """Change tags of a device; those that are not named stay."""
    try:
        context.devices.tag(device, body.tags, who=who, why=body.why, if_match=if_match, scope=scope)
    except FleetError as error:
        return _conflict(context, device, error, if_match)
    return _shown(context, device, response)


@router.get("/devices/{device}/log")
def list_log(
    device: DeviceId, context: Context, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> Page[DeviceLogEntry]:
    """What was done to a device, by whom and why, newest first."""
    return log.list_log(context.engine, device, limit, after)


@router.post("/devices/{device}/quarantine", response_model=DeviceView)
def quarantine_device(
    device: DeviceId,
    context: Context,
    who: Who,
    response: Response,
    body: schemas.DeviceActionRequest | None = None,
    if_match: IfMatch = None,
) -> Any:
    """Quarantine a device: it stays connected and is seen, but gets no assignment and is in no campaign."""
    return _moved(context, device, Action.QUARANTINE, who, body, response, if_match)


@router.post("/devices/{device}/reinstate", response_model=DeviceView)
def reinstate_device(
    device: DeviceId,
    context: Context,
    who: Who,
    response: Response,
    body: schemas.DeviceActionRequest | None = None,
    if_match: IfMatch = None,
) -> Any:
    """End a device's quarantine."""
    return _moved(context, device, Action.REINSTATE, who, body, response, if_match)


@router.post("/devices/{device}/revoke", response_model=DeviceView)
def revoke_device(
    device: DeviceId,
    context: Context,
    who: Who,
    response: Response,
    body: schemas.DeviceActionRequest | None = None,
    if_match: IfMatch = None,
) -> Any:
    """Revoke a device: from now on it is refused everywhere."""
    return _moved(context, device, Action.REVOKE, who, body, response, if_match)


@router.post("/devices/{device}/retire", response_model=DeviceView)
def retire_device(
    device: DeviceId,
    context: Context,
    who: Who,
    response: Response,
    body: schemas.DeviceActionRequest | None = None,
    if_match: IfMatch = None,
) -> Any:
    """Retire a device that is out of use: its identity ends, its history stays."""
    return _moved(context, device, Action.RETIRE, who, body, response, if_match)


@router.post("/devices/{device}/forget", status_code=204, response_model=None)
def forget_device(device: DeviceId, context: Context, who: Who, if_match: IfMatch = None) -> Response | None:
    """Remove a device, so that its id can be enrolled again. Its records stay."""
    try:
        context.devices.forget(device, who=who, if_match=if_match)
    except FleetError as error:
        return _conflict(context, device, error, if_match)
    _LOG.info("device %s forgotten by %s", device, who)
    return None


def _moved(
    context: AdminContext,
    device: str,
    action: Action,
    who: str,
    body: schemas.DeviceActionRequest | None,
    response: Response,
    if_match: str | None,
) -> Any:
    try:
        context.devices.move(device, action, who=who, why=body.why if body is not None else "", if_match=if_match)
    except FleetError as error:
        return _conflict(context, device, error, if_match)
    _LOG.info("device %s: %s by %s", device, action, who)
    return _shown(context, device, response)


def _shown(context: AdminContext, device: str, response: Response) -> DeviceView:
    found = views.get_device(context.engine, device, context.clock())
    response.headers["ETag"] = f'"{found.etag}"'
    return found


def _conflict(context: AdminContext, device: str, error: FleetError, if_match: str | None) -> Response:
    """The answer to a change that was decided on something else; any other refusal is raised."""
    if error.code != "device.conflict":
        raise error
    current = views.get_device(context.engine, device, context.clock())
    return conflict_response(error, if_match, current, current.etag)

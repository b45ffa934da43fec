"""Routes of what is asked of devices: commands with deadline and answer, settings, and when a device came and went."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from wheeltapper_fleet.api import schemas
from wheeltapper_fleet.api.context import Context, Scope, Who
from wheeltapper_fleet.api.parameters import After, DeviceId, Key, Limit
from wheeltapper_fleet.api.versions import IfMatch, conflict_response
from wheeltapper_fleet.devices import commands, connections, many_commands, settings
from wheeltapper_fleet.devices.schemas import BulkView, CommandDetail, ConnectionView, SettingsView
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page

__all__ = ["router"]

router = APIRouter()


@router.post("/devices/{device}/commands", status_code=202)
def create_command(device: DeviceId, body: schemas.CommandRequest, context: Context, who: Who) -> CommandDetail:
    """Ask a device for diagnostics, or to begin a pipeline anew, until it answers or the command is over."""
    asked = body.model_dump(exclude_none=True, exclude={"expires_seconds"})
    now = context.clock()
    made = commands.create_command(
        context.engine, device, asked, now=now, expires_seconds=body.expires_seconds, who=who
    )
    return commands.get_command(context.engine, made, now)


@router.post("/device-commands")
def ask_devices(body: schemas.ManyCommandsRequest, context: Context, who: Who, scope: Scope) -> BulkView:
    """Ask every device that a query means: all of them, or none; 10,000 at most. With `dry` they are only counted."""
    asked = body.model_dump(exclude_none=True, exclude={"q", "dry", "expected", "expires_seconds"})
    return many_commands.ask_many(
        context.engine,
        body.q,
        asked,
        who=who,
        now=context.clock(),
        expires_seconds=body.expires_seconds,
        expected=body.expected,
        dry=body.dry,
        scope=scope,
    )


@router.get("/device-commands")
def list_commands(
    context: Context, scope: Scope, device: DeviceId | None = None, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> Page[CommandDetail]:
    """Commands to devices, newest first."""
    return commands.list_commands(context.engine, device, context.clock(), limit, after, scope)


@router.get("/device-commands/{command}")
def get_command(command: Key, context: Context, scope: Scope) -> CommandDetail:
    """One command, and what became of it."""
    return commands.get_command(context.engine, command, context.clock(), scope)


@router.get("/device-commands/{command}/bundle")
def get_bundle(command: Key, context: Context, scope: Scope) -> dict[str, Any]:
    """The diagnostics bundle that answers a command: findings, status, configuration without secrets, log."""
    if scope:
        commands.get_command(context.engine, command, context.clock(), scope)
    return commands.read_bundle(context.engine, command)


@router.get("/devices/{device}/settings")
def get_settings(device: DeviceId, context: Context, response: Response) -> SettingsView:
    """Which settings are wanted of a device, which are in force, and which differ. ``ETag`` is their version."""
    found = settings.get_settings(context.engine, device)
    response.headers["ETag"] = f'"{found.version}"'
    return found


@router.patch("/devices/{device}/settings", response_model=SettingsView)
def change_settings(
    device: DeviceId,
    body: schemas.SettingsRequest,
    context: Context,
    who: Who,
    response: Response,
    if_match: IfMatch = None,
) -> Any:
    """Want other values of a device's settings. It takes them over in answer to its next status."""
    try:
        found = settings.change_settings(
            context.engine, device, body.settings, who=who, why=body.why, now=context.clock(), if_match=if_match
        )
    except FleetError as error:
        if error.code != "setting.conflict":
            raise
        current = settings.get_settings(context.engine, device)
        return conflict_response(error, if_match, current, current.version)
    response.headers["ETag"] = f'"{found.version}"'
    return found


@router.get("/devices/{device}/connections")
def list_connections(
    device: DeviceId, context: Context, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> Page[ConnectionView]:
    """When a device came and went, newest first."""
    return connections.list_connections(context.engine, device, limit, after)

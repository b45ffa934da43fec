"""Routes of captures: ask a device for a recording, list recordings, fetch one."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import FileResponse

from wheeltapper_fleet.api import schemas
from wheeltapper_fleet.api.context import Context, Scope
from wheeltapper_fleet.api.parameters import After, DeviceId, Key, Limit
from wheeltapper_fleet.captures import views
from wheeltapper_fleet.captures.schemas import CaptureView
from wheeltapper_fleet.devices.schemas import CommandView
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page

__all__ = ["router"]

router = APIRouter()


@router.post("/devices/{device}/captures", status_code=202)
def request_capture(device: DeviceId, body: schemas.CaptureRequest, context: Context) -> CommandView:
    """Ask a device for a recording of its next windows."""
    command = context.captures.request(device, body.pipeline, body.snapshots)
    return CommandView(command=command, device=device)


@router.get("/captures")
def list_captures(
    context: Context, scope: Scope, device: DeviceId | None = None, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> Page[CaptureView]:
    """Recordings that were asked for or received, newest first."""
    return views.list_captures(context.engine, device, limit, after, scope, context.clock())


@router.get("/captures/{command}")
def get_capture(command: Key, context: Context, scope: Scope) -> CaptureView:
    """One recording that was asked for or received."""
    return views.get_capture(context.engine, command, scope, context.clock())


@router.get("/captures/{command}/recording")
def get_recording(command: Key, context: Context, scope: Scope) -> FileResponse:
    """The recording itself, as ``.npz``."""
    if scope:
        views.get_capture(context.engine, command, scope, context.clock())
    sha256 = views.capture_sha256(context.engine, command)
    path = context.captures_dir / f"{sha256}.npz"
    if not path.is_file():
        message = f"the file of {command[:80]!r} is missing in the data folder; restore it from your backup"
        raise FleetError("capture.not_found", message, 404)
    return FileResponse(path, media_type="application/octet-stream", headers={"X-Content-SHA256": sha256})

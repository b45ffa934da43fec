"""The route of live events."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from wheeltapper_fleet.api.context import Context

__all__ = ["router"]

router = APIRouter()


@router.get("/events")
async def events(context: Context) -> StreamingResponse:
    """Live changes of devices (with scores), campaigns and alerts, as server-sent events."""
    return StreamingResponse(context.events.listen(), media_type="text/event-stream")

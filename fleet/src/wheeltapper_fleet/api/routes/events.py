"""The route of live events."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from wheeltapper_fleet.api.context import Context
from wheeltapper_fleet.api.parameters import After, DeviceId, Key, Limit, ModelName, Q
from wheeltapper_fleet.api.view import ShownCases, View
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT

__all__ = ["router"]

router = APIRouter()
Subject = Literal["totals", "devices", "campaigns", "alerts", "cases", "device", "campaign", "case"]
_ALONE: Final = {"device", "campaign", "cases", "case"}
Show = Literal["person", "waiting", "handled", "open", "acknowledged", "in_work", "resolved"]


@router.get("/events", responses={200: {"content": {"text/event-stream": {}}}})
async def events(
    context: Context,
    view: Annotated[list[Subject] | None, Query(max_length=8, description="What the screen shows; repeatable.")] = None,
    q: Q = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
    device: DeviceId | None = None,
    campaign: Key | None = None,
    show: Annotated[Show, Query(description="Which cases.")] = "person",
    site: Annotated[str, Query(max_length=120, pattern="^[^\\x00]*$")] = "",
    within: ModelName | None = None,
    case: Annotated[int, Query(ge=1, le=2**31 - 1)] | None = None,
) -> StreamingResponse:
    """Live changes of what a screen shows, as server-sent events: first its present state, then what changes.

    The kinds of events are `reset` (which devices are on the screen), `device`, `campaign`, `alert`, `totals`, `cases`
    (those on the screen, each as number and version) and `case`. `q`, `limit` and `after` choose the devices as in
    their list; of `cases`, `show`, `site` and `within` say which.
    """
    asked = {"devices", "campaigns", "alerts"} if view is None else set(view)
    shown = View(
        subjects=frozenset(asked - _ALONE),
        q=(q or "").strip(),
        after=after,
        limit=limit,
        device=device if view is not None and "device" in asked else None,
        campaign=campaign if view is not None and "campaign" in asked else None,
        cases=ShownCases(show, site.strip(), within or "", limit, after) if "cases" in asked else None,
        case=case if "case" in asked else None,
    )
    await context.events.check(shown)
    return StreamingResponse(context.events.listen(shown), media_type="text/event-stream")

"""Routes of alerts."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from wheeltapper_fleet.alerts import views
from wheeltapper_fleet.alerts.schemas import AlertView
from wheeltapper_fleet.api.context import Context, Scope
from wheeltapper_fleet.api.parameters import After, DeviceId, Limit, ModelName
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page

__all__ = ["router"]

router = APIRouter()


@router.get("/alerts")
def list_alerts(
    context: Context,
    scope: Scope,
    device: DeviceId | None = None,
    pipeline: ModelName | None = None,
    model: ModelName | None = None,
    severity: Literal["normal", "warning", "critical"] | None = None,
    point: ModelName | None = None,
    raised: bool | None = None,
    case: Annotated[int, Query(ge=1, le=2**31 - 1)] | None = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Page[AlertView]:
    """Alerts, newest first."""
    return views.list_alerts(
        context.engine,
        limit,
        after,
        case=case,
        scope=scope,
        now=context.clock(),
        device=device,
        pipeline=pipeline,
        model=model,
        severity=severity,
        point=point,
        raised=raised,
    )

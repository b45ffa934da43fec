"""Routes of alerts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from wheeltapper_fleet.alerts import views
from wheeltapper_fleet.alerts.schemas import AlertView
from wheeltapper_fleet.api.context import Context
from wheeltapper_fleet.api.parameters import AfterId

__all__ = ["router"]

router = APIRouter()


@router.get("/alerts")
def list_alerts(
    context: Context, limit: Annotated[int, Query(ge=1, le=1000)] = 200, after_id: AfterId = 0
) -> list[AlertView]:
    """Alerts, newest first."""
    return views.list_alerts(context.engine, limit, after_id)

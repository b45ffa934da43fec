"""Routes of alerts."""

from __future__ import annotations

from fastapi import APIRouter

from wheeltapper_fleet.alerts import views
from wheeltapper_fleet.alerts.schemas import AlertView
from wheeltapper_fleet.api.context import Context
from wheeltapper_fleet.api.parameters import After, Limit
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page

__all__ = ["router"]

router = APIRouter()


@router.get("/alerts")
def list_alerts(context: Context, limit: Limit = DEFAULT_LIMIT, after: After = None) -> Page[AlertView]:
    """Alerts, newest first."""
    return views.list_alerts(context.engine, limit, after)

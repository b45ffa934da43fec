"""Route of the service's processes."""

from __future__ import annotations

from fastapi import APIRouter

from wheeltapper_fleet.api.context import Context
from wheeltapper_fleet.api.parameters import After, Limit
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.processes import views
from wheeltapper_fleet.processes.views import ProcessView

__all__ = ["router"]

router = APIRouter()


@router.get("/processes")
def list_processes(context: Context, limit: Limit = DEFAULT_LIMIT, after: After = None) -> Page[ProcessView]:
    """The processes that ran in the last week, by name: who is alive, and who leads."""
    return views.list_processes(context.engine, limit, after)

"""The route of the fleet's summary."""

from __future__ import annotations

from fastapi import APIRouter

from wheeltapper_fleet.api import schemas
from wheeltapper_fleet.api.context import Context
from wheeltapper_fleet.api.summary import fleet_summary

__all__ = ["router"]

router = APIRouter()


@router.get("/summary")
def summary(context: Context) -> schemas.Summary:
    """The fleet in numbers."""
    return fleet_summary(context.engine)

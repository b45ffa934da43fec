"""Routes of the fleet in numbers, and of what became of one device's records."""

from __future__ import annotations

from fastapi import APIRouter

from wheeltapper_fleet.api import schemas
from wheeltapper_fleet.api.context import Context
from wheeltapper_fleet.api.parameters import DeviceId
from wheeltapper_fleet.api.summary import fleet_summary
from wheeltapper_fleet.telemetry.schemas import SpoolTotals
from wheeltapper_fleet.telemetry.views import delivery_of

__all__ = ["router"]

router = APIRouter()


@router.get("/summary")
def summary(context: Context) -> schemas.Summary:
    """The fleet in numbers."""
    return fleet_summary(context.engine, context.numbers)


@router.get("/devices/{device}/delivery")
def show_delivery(device: DeviceId, context: Context) -> SpoolTotals:
    """How many records of a device are stored, missing, were dropped by it, or were refused."""
    return delivery_of(context.engine, device)

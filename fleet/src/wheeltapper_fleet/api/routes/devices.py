"""Routes of devices: enrolment tokens, list, revoke, forget."""

from __future__ import annotations

import logging
from typing import Final

from fastapi import APIRouter

from wheeltapper_fleet.api import schemas
from wheeltapper_fleet.api.context import Context, Who
from wheeltapper_fleet.api.parameters import After, DeviceId, Limit
from wheeltapper_fleet.devices import lifecycle, views
from wheeltapper_fleet.devices.schemas import DeviceView, TokenView
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.ground.request import note_subject

__all__ = ["router"]

_LOG: Final = logging.getLogger(__name__)
router = APIRouter()


@router.post("/tokens", status_code=201)
def create_token(body: schemas.TokenRequest, context: Context) -> TokenView:
    """Create a one-time enrolment token."""
    note_subject(device=body.device)
    token = context.enrolment.create_token(body.device, body.ttl_seconds, body.tags)
    return TokenView(device=body.device, token=token, expires_at=context.clock() + body.ttl_seconds)


@router.get("/devices")
def list_devices(context: Context, limit: Limit = DEFAULT_LIMIT, after: After = None) -> Page[DeviceView]:
    """Devices, by id."""
    return views.list_devices(context.engine, context.clock(), limit, after)


@router.get("/devices/{device}")
def get_device(device: DeviceId, context: Context) -> DeviceView:
    """One device."""
    return views.get_device(context.engine, device, context.clock())


@router.post("/devices/{device}/revoke")
def revoke_device(device: DeviceId, context: Context, who: Who) -> DeviceView:
    """Revoke a device: from now on it is refused everywhere."""
    lifecycle.revoke_device(context.engine, device)
    context.on_revoked(device)
    _LOG.info("device %s revoked by %s", device, who)
    return views.get_device(context.engine, device, context.clock())


@router.post("/devices/{device}/forget", status_code=204)
def forget_device(device: DeviceId, context: Context, who: Who) -> None:
    """Remove a device, so that its id can be enrolled again. Its records stay."""
    lifecycle.forget_device(context.engine, device)
    context.on_revoked(device)
    _LOG.info("device %s forgotten by %s", device, who)

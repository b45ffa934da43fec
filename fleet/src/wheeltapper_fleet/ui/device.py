"""Pages of a device: what it runs and says, its twin, what was asked of it, when it came and went, what was done to it.

Cost: a page of each list, by an index. What changes every second is a part of its own (``device``); the rest
(``device-more``) is rendered anew more seldom.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response

from wheeltapper_fleet.access.principal import Principal
from wheeltapper_fleet.devices.commands import list_commands
from wheeltapper_fleet.devices.connections import list_connections
from wheeltapper_fleet.devices.log import list_log
from wheeltapper_fleet.devices.reported import list_attributes
from wheeltapper_fleet.devices.settings import get_settings
from wheeltapper_fleet.devices.views import get_device
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import Page as ListPage
from wheeltapper_fleet.ui.rendering import After, Asked, Page, Viewer, render, sign_in_form, viewer
from wheeltapper_protocols.wire.commands import LOG_LEVELS

__all__ = ["router"]

router = APIRouter(include_in_schema=False)
NEWEST_SHOWN: Final = 8
ROWS_SHOWN: Final = 50
_OPERATE: Final = "device.operate"
_List = Callable[[Page, str, int, str | None], ListPage[Any]]
_PARTS: Final[dict[str, tuple[str, _List]]] = {
    "commands": (
        "What was asked of it",
        lambda page, device, limit, after: list_commands(page.engine, device, page.clock(), limit, after),
    ),
    "connections": (
        "When it came and went",
        lambda page, device, limit, after: list_connections(page.engine, device, limit, after),
    ),
    "log": (
        "What was done to it",
        lambda page, device, limit, after: list_log(page.engine, device, limit, after),
    ),
}
"""The lists of a device by their name in the address: title, and what reads a page of it."""


def _device(page: Page, device: str) -> dict[str, Any]:
    found = get_device(page.engine, device, page.clock())
    told = [each for each in found.pipelines if each.baseline or each.partly_scored or each.unknown_conditions]
    return {
        "device": found,
        "told": told,
        "live": urlencode({"view": "device", "device": device}),
    }


def _more(page: Page, device: str, principal: Principal) -> dict[str, Any]:
    """What changes seldom: twin, attributes, the newest lines of each list."""
    lists = [(name, title, read(page, device, NEWEST_SHOWN, None)) for name, (title, read) in _PARTS.items()]
    return {
        "settings": get_settings(page.engine, device),
        "attributes": list_attributes(page.engine, device),
        "lists": lists,
        "log_levels": LOG_LEVELS,
        "may": principal.may(_OPERATE),
        "may_read_bundles": principal.may(_OPERATE),
    }


@router.get("/devices/{device}")
def show_device(device: str, request: Request, page: Asked) -> Response:
    """One device."""
    principal = viewer(page, request)
    if principal is None:
        return sign_in_form(page)
    return render("device.html", principal, request, _device(page, device) | _more(page, device, principal))


@router.get("/devices/{device}/{part}")
def show_part(device: str, part: str, request: Request, page: Asked, after: After = None) -> Response:
    """One list of a device, page by page."""
    principal = viewer(page, request)
    if principal is None:
        return sign_in_form(page)
    if part not in _PARTS:
        raise FleetError("api.not_found", f"a device has the pages {', '.join(_PARTS)}", 404)
    title, read = _PARTS[part]
    found = read(page, device, ROWS_SHOWN, after or None)
    values = {"device": get_device(page.engine, device, page.clock()), "part": part, "title": title, "found": found}
    return render("device_part.html", principal, request, values | {"may_read_bundles": principal.may(_OPERATE)})


@router.get("/fragments/device")
def show_device_again(request: Request, page: Asked, principal: Viewer, device: str = "") -> Response:
    """What changes every second of a device, rendered anew."""
    return render("device_body.html", principal, request, _device(page, device))


@router.get("/fragments/device-more")
def show_more_again(request: Request, page: Asked, principal: Viewer, device: str = "") -> Response:
    """The rest of a device, rendered anew; its forms stay as they are."""
    values = _more(page, device, principal) | {"device": get_device(page.engine, device, page.clock())}
    return render("device_more.html", principal, request, values)

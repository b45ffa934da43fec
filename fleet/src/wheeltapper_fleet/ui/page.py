"""The web pages: the overview of the devices. The others are in modules of their own.

Invariants:
    * The page loads nothing from other sites and contains no inline script or style (the guard of
      :mod:`wheeltapper_fleet.api` sends that policy); the script never builds markup from data.
    * Whatever the size of the fleet, a page reads one page of a list and a few numbers.

What this module does not do: change anything. The buttons and forms of a page ask the API, with the session's CSRF
token.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse

from wheeltapper_fleet.alerts.views import list_alerts
from wheeltapper_fleet.campaigns.views import list_campaigns
from wheeltapper_fleet.campaigns.why import why
from wheeltapper_fleet.devices.rows import list_rows
from wheeltapper_fleet.devices.views import list_devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ui import boards, cases, device, diagnosis, machines, shift, sign_in
from wheeltapper_fleet.ui.charts import with_reasons
from wheeltapper_fleet.ui.rendering import (
    FOLDER,
    After,
    Asked,
    Page,
    Query4000,
    Viewer,
    render,
    sign_in_form,
    viewer,
)

__all__ = ["Page", "add_page"]

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_STATIC: Final = {each.name: _TYPES[each.suffix] for each in (FOLDER / "static").iterdir() if each.suffix in _TYPES}
CARDS_AT_MOST: Final = 12
"""A fleet of so many devices is shown as cards with their last scores, a larger one as a list in pages."""
ROWS_SHOWN: Final = 50
CAMPAIGNS_SHOWN: Final = 10
ALERTS_SHOWN: Final = 20
_router = APIRouter(include_in_schema=False)


def add_page(app: FastAPI, page: Page) -> None:
    """Serve the page from ``app``, which also serves the admin API that the page's script listens to."""
    app.state.page = page
    mine = [module.router for module in (shift, machines, diagnosis, cases)]
    for router in (*mine, *boards.ROUTERS, device.router, sign_in.router, _router):
        app.include_router(router)


def _fleet(page: Page, q: str, after: str | None) -> dict[str, Any]:
    """What the overview shows. Its cost is that of one page of devices, whatever the size of the fleet."""
    totals = page.totals()
    small = totals.devices <= CARDS_AT_MOST and not q and after is None
    found: dict[str, Any] = {"totals": totals, "q": q, "after": after, "cards": None, "rows": [], "next": None}
    found["problem"] = ""
    if small:
        found["cards"] = list_devices(page.engine, limit=CARDS_AT_MOST, curves=True).items
    else:
        try:
            shown = list_rows(page.engine, q, ROWS_SHOWN, after)
            found |= {"rows": shown.items, "next": shown.next}
        except FleetError as error:
            found["problem"] = error.message
    view = {"q": q, "limit": ROWS_SHOWN} | ({} if after is None else {"after": after})
    subjects = [("view", name) for name in ("totals", "devices", "campaigns", "alerts")]
    live = urlencode([*subjects, *view.items()]) if not found["problem"] else urlencode(subjects[:1] + subjects[2:])
    return found | {"live": live, "ending": page.ending()}


@_router.get("/devices")
def show_page(request: Request, page: Asked, q: Query4000 = "", after: After = None) -> Response:
    """The overview of the devices, or the sign-in form."""
    principal = viewer(page, request)
    if principal is None:
        return sign_in_form(page)
    return render("page.html", principal, request, _fleet(page, q.strip(), after or None) | _lists(page))


@_router.get("/why/{device}")
def show_why(device: str, request: Request, page: Asked) -> Response:
    """Why a device runs what it runs."""
    principal = viewer(page, request)
    if principal is None:
        return sign_in_form(page)
    return render("why.html", principal, request, {"why": why(page.engine, device)})


@_router.get("/fragments/{fragment}")
def show_fragment(
    fragment: str,
    request: Request,
    page: Asked,
    principal: Viewer,
    q: Query4000 = "",
    after: After = None,
) -> Response:
    """One section of a page, rendered anew. The script asks for it when something changed."""
    match fragment:
        case "totals":
            return render("totals.html", principal, request, {"totals": page.totals(), "ending": page.ending()})
        case "devices":
            return render("devices.html", principal, request, _fleet(page, q.strip(), after or None))
        case "campaigns" | "alerts":
            return render(f"{fragment}.html", principal, request, _lists(page, fragment))
    raise FleetError("api.not_found", "there is no such section", 404)


def _lists(page: Page, only: str = "") -> dict[str, Any]:
    """The newest campaigns and alerts."""
    found: dict[str, Any] = {}
    if only != "alerts":
        found["campaigns"] = list_campaigns(page.engine, CAMPAIGNS_SHOWN).items
    if only != "campaigns":
        found["alerts"] = with_reasons(list_alerts(page.engine, ALERTS_SHOWN).items)
    return found


@_router.get("/static/{name}")
def static(name: str) -> Response:
    """The page's style, script and icon."""
    if name not in _STATIC:
        raise FleetError("api.not_found", "there is no such file", 404)
    return FileResponse(FOLDER / "static" / name, media_type=_STATIC[name], headers={"Cache-Control": "max-age=300"})

"""The one web page: devices, campaigns and alerts, with signing in and out.

Invariants:
    * Everything is rendered by Jinja2 with autoescape on; the script never builds markup from data.
    * The page loads nothing from other sites and contains no inline script or style (the guard of
      :mod:`wheeltapper_fleet.api` sends that policy).
    * The cookie is HttpOnly and SameSite=Strict and never contains the API token.

What this module does not do: change anything but the session. Campaigns and devices are steered through the API and
the command line.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Form, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy import Engine

from wheeltapper_fleet.access.authenticator import Authenticator
from wheeltapper_fleet.access.sessions import COOKIE, SESSION_SECONDS
from wheeltapper_fleet.alerts.views import list_alerts
from wheeltapper_fleet.campaigns.views import list_campaigns
from wheeltapper_fleet.campaigns.why import why
from wheeltapper_fleet.devices.views import list_devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.registry.views import list_releases
from wheeltapper_fleet.ui.charts import sparkline, wave_bars, with_reasons

__all__ = ["Page", "add_page"]

_FOLDER: Final = Path(__file__).parent
_STATIC: Final = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_FRAGMENTS: Final = ("totals", "devices", "campaigns", "alerts")
_ALERTS_SHOWN: Final = 30

_router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the page works with.

    Args:
        engine: the fleet's database.
        authenticator: checks tokens at signing in, and cookies.
        secure_cookie: whether the page is served over TLS, so that the cookie is sent over TLS only.
        ending: one sentence on each thing that ends soon or has ended.
    """

    engine: Engine
    authenticator: Authenticator
    secure_cookie: bool = False
    ending: Callable[[], list[str]] = list


def add_page(app: FastAPI, page: Page) -> None:
    """Serve the page from ``app``, which also serves the admin API that the page's script listens to."""
    app.state.page = page
    app.include_router(_router)


def _page(request: Request) -> Page:
    page: Page = request.app.state.page
    return page


_Page = Annotated[Page, Depends(_page)]


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clock"] = _clock
    environment.filters["number"] = _number
    environment.filters["score"] = _score
    environment.globals["sparkline"] = sparkline
    environment.globals["wave_bars"] = wave_bars
    return environment


def _clock(seconds: float | None) -> str:
    """Unix seconds as a date and time in UTC; a dash for what is no date."""
    if seconds is None or not 0 <= seconds < 4e10:
        return "–"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _number(value: object) -> str:
    """A number in three or four digits; a dash for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.4g}"


def _score(value: float | None) -> str:
    """A score with two decimals; a dash for what is no finite number."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.2f}" if abs(value) < 100 else _number(value)


_TEMPLATES: Final = _environment()


def _signed_in(page: Page, request: Request) -> bool:
    principal = page.authenticator.session(request.cookies.get(COOKIE))
    return principal is not None and principal.may("read")


def _render(template: str, page: Page) -> Response:
    """Render a template with the fleet's present state."""
    devices = list_devices(page.engine).items
    campaigns = list_campaigns(page.engine).items
    values: dict[str, Any] = {
        "devices": devices,
        "campaigns": campaigns,
        "running": sum(campaign.state == "RUNNING" for campaign in campaigns),
        "paused": sum(campaign.state == "PAUSED" for campaign in campaigns),
        "alerts": with_reasons(list_alerts(page.engine, _ALERTS_SHOWN).items),
        "online": sum(device.online for device in devices),
        "alarmed": sum(
            device.severity not in (None, "normal") or (device.no_score_since is not None and not device.revoked)
            for device in devices
        ),
        "critical": sum(device.severity == "critical" for device in devices),
        "releases": len(list_releases(page.engine).items),
        "ending": page.ending(),
    }
    return HTMLResponse(_TEMPLATES.get_template(template).render(**values))


def _sign_in_form(message: str = "", status: int = 200) -> Response:
    return HTMLResponse(_TEMPLATES.get_template("sign_in.html").render(message=message), status_code=status)


@_router.get("/")
def show_page(request: Request, page: _Page) -> Response:
    """The page, or the sign-in form."""
    return _render("page.html", page) if _signed_in(page, request) else _sign_in_form()


@_router.get("/why/{device}")
def show_why(device: str, request: Request, page: _Page) -> Response:
    """Why a device runs what it runs."""
    if not _signed_in(page, request):
        return _sign_in_form()
    found = why(page.engine, device)
    return HTMLResponse(_TEMPLATES.get_template("why.html").render(why=found))


@_router.get("/fragments/{fragment}")
def show_fragment(fragment: str, request: Request, page: _Page) -> Response:
    """One section of the page, rendered anew. The script asks for it when something changed."""
    if not _signed_in(page, request):
        raise FleetError("api.unauthorized", "sign in again", 401)
    if fragment not in _FRAGMENTS:
        raise FleetError("api.not_found", "there is no such section", 404)
    return _render(f"{fragment}.html", page)


@_router.post("/sign-in")
def sign_in(request: Request, page: _Page, token: Annotated[str, Form(max_length=500)] = "") -> Response:
    """Check the API token and answer with a session cookie."""
    _refuse_other_sites(request)
    try:
        session = page.authenticator.sign_in(token)
    except FleetError as error:
        return _sign_in_form(error.message, error.status)
    answer = RedirectResponse("/", status_code=303)
    answer.set_cookie(
        COOKIE,
        session,
        max_age=int(SESSION_SECONDS),
        httponly=True,
        samesite="strict",
        secure=page.secure_cookie,
    )
    return answer


@_router.post("/sign-out")
def sign_out(request: Request, page: _Page) -> Response:
    """End the session."""
    _refuse_other_sites(request)
    page.authenticator.sign_out(request.cookies.get(COOKIE))
    answer = RedirectResponse("/", status_code=303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


def _refuse_other_sites(request: Request) -> None:
    """Refuse a form that another site's page sent.

    Raises:
        FleetError: ``api.forbidden``.
    """
    origin = request.headers.get("origin")
    if origin is None or origin.partition("://")[2] == request.headers.get("host"):
        return
    # Browsers send the origin "null" where the referrer policy hides it; Sec-Fetch-Site is then still reliable.
    if origin == "null" and request.headers.get("sec-fetch-site") == "same-origin":
        return
    raise FleetError("api.forbidden", "this form was sent from another site; open the page itself and try again", 403)


@_router.get("/static/{name}")
def static(name: str) -> Response:
    """The page's style, script and icon."""
    if name not in _STATIC:
        raise FleetError("api.not_found", "there is no such file", 404)
    return FileResponse(_FOLDER / "static" / name, media_type=_STATIC[name], headers={"Cache-Control": "max-age=300"})

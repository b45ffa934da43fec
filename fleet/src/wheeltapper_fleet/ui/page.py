"""The web pages: the overview with a page of the devices, a device, a campaign; signing in and out.

Invariants:
    * Everything is rendered by Jinja2 with autoescape on; the script never builds markup from data.
    * The page loads nothing from other sites and contains no inline script or style (the guard of
      :mod:`wheeltapper_fleet.api` sends that policy).
    * The cookie is HttpOnly and SameSite=Strict and never contains the API token.
    * Whatever the size of the fleet, a page reads one page of a list and a few numbers.

What this module does not do: change anything but the session. The buttons of a page ask the API, with the session's
CSRF token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, FastAPI, Form, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy import Engine

from wheeltapper_fleet.access.authenticator import Authenticator
from wheeltapper_fleet.access.oidc import OidcLogin
from wheeltapper_fleet.access.principal import Principal
from wheeltapper_fleet.access.sessions import COOKIE, SESSION_SECONDS, csrf_token
from wheeltapper_fleet.alerts.views import list_alerts
from wheeltapper_fleet.campaigns.views import get_campaign, list_campaigns, list_executions, newest_log
from wheeltapper_fleet.campaigns.why import why
from wheeltapper_fleet.devices.rows import list_rows
from wheeltapper_fleet.devices.views import get_device, list_devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ui.charts import sparkline, wave_bars, with_reasons

__all__ = ["Page", "add_page"]

_FOLDER: Final = Path(__file__).parent
_STATIC: Final = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
CARDS_AT_MOST: Final = 12
"""A fleet of so many devices is shown as cards with their last scores, a larger one as a list in pages."""
ROWS_SHOWN: Final = 50
CAMPAIGNS_SHOWN: Final = 10
ALERTS_SHOWN: Final = 20
LOG_SHOWN: Final = 30
_ACTIONS: Final = {
    "DRAFT": ("start", "abort"),
    "AWAITING_APPROVAL": ("approve", "abort"),
    "SCHEDULED": ("pause", "abort"),
    "RUNNING": ("pause", "abort"),
    "PAUSED": ("resume", "abort"),
}
"""What can be done about a campaign in each state; the campaign itself decides."""

_FLOW_COOKIE: Final = "wheeltapper_login"
_FLOW_SECONDS: Final = 600

_router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the page works with.

    Args:
        engine: the fleet's database.
        authenticator: checks tokens at signing in, and cookies.
        secure_cookie: whether the page is served over TLS, so that the cookie is sent over TLS only.
        totals: the fleet in a few numbers.
        login: signs people in with a login provider; None where there is none.
        ending: one sentence on each thing that ends soon or has ended.
    """

    engine: Engine
    authenticator: Authenticator
    totals: Callable[[], Any]
    secure_cookie: bool = False
    login: OidcLogin | None = None
    ending: Callable[[], list[str]] = list


def add_page(app: FastAPI, page: Page) -> None:
    """Serve the page from ``app``, which also serves the admin API that the page's script listens to."""
    app.state.page = page
    app.include_router(_router)


def _page(request: Request) -> Page:
    page: Page = request.app.state.page
    return page


_Page = Annotated[Page, Depends(_page)]
_Query: TypeAlias = Annotated[str, Query(max_length=4000)]
_After: TypeAlias = Annotated[str | None, Query(pattern="^[A-Za-z0-9_-]{0,600}$")]
_State: TypeAlias = Annotated[str, Query(pattern="^[A-Z_]{0,24}$")]


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


def _viewer(page: Page, request: Request) -> Principal | None:
    """Who is signed in and may read; None if nobody is."""
    principal = page.authenticator.session(request.cookies.get(COOKIE))
    return principal if principal is not None and principal.may("read") else None


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


def _campaign(page: Page, campaign: str, principal: Principal) -> dict[str, Any]:
    """A campaign by itself, with its log's newest lines and what this person may do about it now."""
    found = get_campaign(page.engine, campaign)
    possible = _ACTIONS.get(found.state, ())
    return {
        "campaign": found,
        "log": newest_log(page.engine, campaign, LOG_SHOWN),
        "actions": [action for action in possible if principal.may(f"campaign.{action}")],
        "live": urlencode({"view": "campaign", "campaign": campaign}),
    }


def _device(page: Page, device: str) -> dict[str, Any]:
    return {"device": get_device(page.engine, device), "live": urlencode({"view": "device", "device": device})}


def _render(template: str, principal: Principal, values: dict[str, Any]) -> Response:
    return HTMLResponse(_TEMPLATES.get_template(template).render(who=principal, **values))


def _sign_in_form(page: Page, message: str = "", status: int = 200) -> Response:
    provider = None if page.login is None else page.login.provider_name
    text = _TEMPLATES.get_template("sign_in.html").render(message=message, provider=provider)
    return HTMLResponse(text, status_code=status)


@_router.get("/")
def show_page(request: Request, page: _Page, q: _Query = "", after: _After = None) -> Response:
    """The overview, or the sign-in form."""
    principal = _viewer(page, request)
    if principal is None:
        return _sign_in_form(page)
    return _render("page.html", principal, _fleet(page, q.strip(), after or None) | _lists(page))


@_router.get("/devices/{device}")
def show_device(device: str, request: Request, page: _Page) -> Response:
    """One device."""
    principal = _viewer(page, request)
    return _sign_in_form(page) if principal is None else _render("device.html", principal, _device(page, device))


@_router.get("/campaigns/{campaign}")
def show_campaign(campaign: str, request: Request, page: _Page, state: _State = "", after: _After = None) -> Response:
    """One campaign: its waves, its log, and a page of its executions."""
    principal = _viewer(page, request)
    if principal is None:
        return _sign_in_form(page)
    values = _campaign(page, campaign, principal)
    executions = list_executions(page.engine, campaign, ROWS_SHOWN, after or None, state or None)
    counts = values["campaign"].executions.values()
    values |= {"executions": executions.items, "next": executions.next, "state": state}
    values |= {"states": sorted({name for wave in counts for name in wave})}
    return _render("campaign.html", principal, values | {"csrf": csrf_token(request.cookies[COOKIE])})


@_router.get("/why/{device}")
def show_why(device: str, request: Request, page: _Page) -> Response:
    """Why a device runs what it runs."""
    principal = _viewer(page, request)
    return (
        _sign_in_form(page) if principal is None else _render("why.html", principal, {"why": why(page.engine, device)})
    )


@_router.get("/fragments/{fragment}")
def show_fragment(
    fragment: str,
    request: Request,
    page: _Page,
    q: _Query = "",
    after: _After = None,
    device: str = "",
    campaign: str = "",
) -> Response:
    """One section of a page, rendered anew. The script asks for it when something changed."""
    principal = _viewer(page, request)
    if principal is None:
        raise FleetError("api.unauthorized", "sign in again", 401)
    match fragment:
        case "totals":
            return _render("totals.html", principal, {"totals": page.totals(), "ending": page.ending()})
        case "devices":
            return _render("devices.html", principal, _fleet(page, q.strip(), after or None))
        case "campaigns" | "alerts":
            return _render(f"{fragment}.html", principal, _lists(page, fragment))
        case "device":
            return _render("device_body.html", principal, _device(page, device))
        case "campaign":
            return _render("campaign_body.html", principal, _campaign(page, campaign, principal))
    raise FleetError("api.not_found", "there is no such section", 404)


def _lists(page: Page, only: str = "") -> dict[str, Any]:
    """The newest campaigns and alerts."""
    found: dict[str, Any] = {}
    if only != "alerts":
        found["campaigns"] = list_campaigns(page.engine, CAMPAIGNS_SHOWN).items
    if only != "campaigns":
        found["alerts"] = with_reasons(list_alerts(page.engine, ALERTS_SHOWN).items)
    return found


@_router.post("/sign-in")
def sign_in(request: Request, page: _Page, token: Annotated[str, Form(max_length=500)] = "") -> Response:
    """Check the API token and answer with a session cookie."""
    _refuse_other_sites(request)
    try:
        session = page.authenticator.sign_in(token)
    except FleetError as error:
        return _sign_in_form(page, error.message, error.status)
    return _with_session(RedirectResponse("/", status_code=303), page, session)


@_router.get("/sign-in/oidc")
def begin_login(page: _Page) -> Response:
    """Send the browser to the login provider."""
    login = _login(page)
    try:
        url, flow = login.begin()
    except FleetError as error:
        return _sign_in_form(page, error.message, error.status)
    answer = RedirectResponse(url, status_code=303)
    options: dict[str, Any] = {"httponly": True, "samesite": "lax", "secure": page.secure_cookie}
    answer.set_cookie(_FLOW_COOKIE, flow, max_age=_FLOW_SECONDS, path="/sign-in/oidc", **options)
    return answer


@_router.get("/sign-in/oidc/callback")
def finish_login(request: Request, page: _Page) -> Response:
    """Begin a session for whoever comes back from the login provider.

    The answer is a page that leads on, not a redirect: browsers do not send a SameSite=Strict cookie with a redirect
    that another site began.
    """
    login = _login(page)
    try:
        principal = login.finish(dict(request.query_params), request.cookies.get(_FLOW_COOKIE))
    except FleetError as error:
        answer = _sign_in_form(page, error.message, error.status)
    else:
        session = page.authenticator.begin_session(principal)
        answer = _with_session(HTMLResponse(_TEMPLATES.get_template("signed_in.html").render()), page, session)
    answer.delete_cookie(_FLOW_COOKIE, path="/sign-in/oidc", httponly=True, samesite="lax")
    return answer


def _login(page: Page) -> OidcLogin:
    if page.login is None:
        raise FleetError("api.not_found", "no login provider is configured; sign in with an API token", 404)
    return page.login


def _with_session(answer: Response, page: Page, session: str) -> Response:
    """``answer`` with the cookie of a session."""
    options: dict[str, Any] = {"httponly": True, "samesite": "strict", "secure": page.secure_cookie}
    answer.set_cookie(COOKIE, session, max_age=int(SESSION_SECONDS), **options)
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

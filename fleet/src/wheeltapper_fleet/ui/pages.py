"""The one web page: devices, campaigns and alerts, rendered on the server and kept live through server-sent events.

Invariants:
    * Everything is rendered by Jinja2 with autoescape on; the script never builds markup from data.
    * The page loads nothing from elsewhere and holds no inline script or style (see the policy in ``api/guard.py``).
    * The cookie is HttpOnly and SameSite=Strict and never holds the API token.

What this module does not do: changing anything but the session. Steering is for the API and the command line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from wheeltapper_fleet.access.tokens import COOKIE, SESSION_SECONDS
from wheeltapper_fleet.alerts.schemas import AlertView
from wheeltapper_fleet.alerts.views import list_alerts
from wheeltapper_fleet.campaigns.schemas import CampaignView
from wheeltapper_fleet.campaigns.views import list_campaigns
from wheeltapper_fleet.devices.schemas import DeviceView
from wheeltapper_fleet.devices.views import list_devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.registry.views import list_releases
from wheeltapper_protocols.wire.messages import ExecutionState

if TYPE_CHECKING:
    from wheeltapper_fleet.api.app import AdminServices

__all__ = ["page_router"]

_FOLDER: Final = Path(__file__).parent
_STATIC: Final = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_FRAGMENTS: Final = ("totals", "devices", "campaigns", "alerts")
_SPARK_WIDTH: Final = 240.0
_SPARK_HEIGHT: Final = 48.0
_ALERTS_SHOWN: Final = 30
_TALLEST_SCORE: Final = 1e6
_BAD: Final = {ExecutionState.FAILED, ExecutionState.REJECTED, ExecutionState.ROLLED_BACK}

page_router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Spark:
    """A sparkline: SVG points, and the height of the warning threshold (score 1.0)."""

    line: str
    area: str
    threshold_y: float
    last_x: float
    last_y: float


@dataclass(frozen=True)
class Wave:
    """One wave of a campaign as a bar: shares of the whole, in percent."""

    number: int
    state: str
    good: int
    bad: int
    going: int
    total: int
    states: tuple[tuple[str, int], ...]

    @property
    def good_percent(self) -> float:
        """Share of executions that committed."""
        return 100.0 * self.good / self.total if self.total else 0.0

    @property
    def bad_percent(self) -> float:
        """Share of executions that ended badly."""
        return 100.0 * self.bad / self.total if self.total else 0.0


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
    environment.globals["spark"] = spark
    environment.globals["waves"] = waves
    return environment


def _clock(seconds: float | None) -> str:
    if seconds is None or not 0 <= seconds < 4e10:
        return "–"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.4g}"


def _score(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.2f}" if abs(value) < 100 else _number(value)


def spark(device: DeviceView) -> Spark | None:
    """The sparkline of a device's scores; the axis starts at 0 and always shows the threshold."""
    scores = [min(point.score, _TALLEST_SCORE) for point in device.scores if math.isfinite(point.score)]
    if len(scores) < 2:
        return None
    top = max(1.25, *scores)
    step = _SPARK_WIDTH / (len(scores) - 1)

    def height(score: float) -> float:
        return round(_SPARK_HEIGHT - 3 - (_SPARK_HEIGHT - 6) * max(0.0, score) / top, 1)

    points = [f"{index * step:.1f},{height(score)}" for index, score in enumerate(scores)]
    line = " ".join(points)
    area = f"0,{_SPARK_HEIGHT} {line} {_SPARK_WIDTH},{_SPARK_HEIGHT}"
    return Spark(line, area, height(1.0), _SPARK_WIDTH, height(scores[-1]))


def waves(campaign: CampaignView) -> Sequence[Wave]:
    """The waves of a campaign in order, with what became of their executions."""
    indexes = sorted({int(key) for key in campaign.executions})
    first = 1 if indexes and indexes[0] >= 1 else 0
    last = max([len(campaign.waves) - 1 + first, *indexes])
    return [_wave(campaign, index, first) for index in range(first, last + 1)]


def _wave(campaign: CampaignView, index: int, first: int) -> Wave:
    states = campaign.executions.get(str(index), {})
    described: Any = campaign.waves[index - first] if index - first < len(campaign.waves) else {}
    state = described.get("state", "") if isinstance(described, dict) else described
    good = states.get(ExecutionState.COMMITTED, 0)
    bad = sum(states.get(item, 0) for item in _BAD)
    total = sum(states.values())
    going = sum(number for name, number in states.items() if not _terminal(name))
    return Wave(index - first + 1, str(state), good, bad, going, total, tuple(sorted(states.items())))


def _terminal(name: str) -> bool:
    return name in ExecutionState.__members__ and ExecutionState(name).terminal


_TEMPLATES: Final = _environment()


def _services(request: Request) -> AdminServices:
    services: AdminServices = request.app.state.services
    return services


def _signed_in(request: Request) -> bool:
    return _services(request).auth.session(request.cookies.get(COOKIE)) is not None


def _view(request: Request) -> dict[str, Any]:
    engine = _services(request).context.engine
    devices = list_devices(engine)
    campaigns = list_campaigns(engine)
    return {
        "devices": devices,
        "campaigns": campaigns,
        "running": sum(campaign.state == "RUNNING" for campaign in campaigns),
        "paused": sum(campaign.state == "PAUSED" for campaign in campaigns),
        "alerts": _with_reasons(list_alerts(engine, _ALERTS_SHOWN)),
        "online": sum(device.online for device in devices),
        "alarmed": sum(device.severity not in (None, "normal") for device in devices),
        "critical": sum(device.severity == "critical" for device in devices),
        "releases": len(list_releases(engine)),
    }


def _with_reasons(alerts: Sequence[AlertView]) -> list[tuple[AlertView, list[dict[str, Any]]]]:
    """Alerts with their reasons, largest share first; a share is kept within 0 to 1. One without a share explains (the
    bearing's fault, by name) and comes before the others."""
    shown = []
    for alert in alerts:
        reasons = [reason for reason in alert.reasons if isinstance(reason.get("share"), int | float)]
        reasons.sort(key=lambda reason: (reason["share"] != 0, -float(reason["share"])))
        shown.append((alert, [{**item, "share": min(1.0, max(0.0, float(item["share"])))} for item in reasons[:4]]))
    return shown


@page_router.get("/")
def page(request: Request) -> Response:
    """The page, or the sign-in form."""
    if not _signed_in(request):
        return HTMLResponse(_TEMPLATES.get_template("sign_in.html").render(message=""))
    return HTMLResponse(_TEMPLATES.get_template("page.html").render(**_view(request)))


@page_router.get("/fragments/{fragment}")
def fragment(fragment: str, request: Request) -> Response:
    """One section of the page, rendered anew."""
    if not _signed_in(request):
        raise FleetError("api.unauthorized", "sign in again", 401)
    if fragment not in _FRAGMENTS:
        raise FleetError("api.not_found", "there is no such section", 404)
    return HTMLResponse(_TEMPLATES.get_template(f"{fragment}.html").render(**_view(request)))


@page_router.post("/sign-in")
def sign_in(request: Request, token: Annotated[str, Form(max_length=500)] = "") -> Response:
    """Take the API token and answer with a session cookie."""
    services = _services(request)
    _same_origin(request)
    try:
        session = services.auth.sign_in(token)
    except FleetError as error:
        text = _TEMPLATES.get_template("sign_in.html").render(message=error.message)
        return HTMLResponse(text, status_code=error.status)
    answer = RedirectResponse("/", status_code=303)
    answer.set_cookie(
        COOKIE,
        session,
        max_age=int(SESSION_SECONDS),
        httponly=True,
        samesite="strict",
        secure=services.context.secure_cookie,
    )
    return answer


@page_router.post("/sign-out")
def sign_out(request: Request) -> Response:
    """End the session."""
    _same_origin(request)
    _services(request).auth.sign_out(request.cookies.get(COOKIE))
    answer = RedirectResponse("/", status_code=303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


def _same_origin(request: Request) -> None:
    """Refuse a form that a foreign page sends."""
    origin = request.headers.get("origin")
    if origin is None or origin.partition("://")[2] == request.headers.get("host"):
        return
    # Browsers send "null" where the referrer policy hides the origin; Sec-Fetch-Site then still tells the truth.
    if origin == "null" and request.headers.get("sec-fetch-site") == "same-origin":
        return
    raise FleetError("api.forbidden", "this form belongs to another site", 403)


@page_router.get("/static/{name}")
def static(name: str) -> Response:
    """The page's own style, script and icon."""
    if name not in _STATIC:
        raise FleetError("api.not_found", "there is no such file", 404)
    return FileResponse(_FOLDER / "static" / name, media_type=_STATIC[name], headers={"Cache-Control": "max-age=300"})

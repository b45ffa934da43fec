"""What all pages share: who looks, the templates, and the form to sign in.

Invariants:
    * Everything is rendered by Jinja2 with autoescape on.
    * Whoever has no session, or may not read, sees the form to sign in and nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias
from urllib.parse import urlencode

from fastapi import Depends, Query, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from sqlalchemy import Engine

from wheeltapper_fleet.access.authenticator import Authenticator
from wheeltapper_fleet.access.oidc import OidcLogin
from wheeltapper_fleet.access.principal import Principal
from wheeltapper_fleet.access.sessions import COOKIE, csrf_token
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.trust.expiry import Life
from wheeltapper_fleet.ui.charts import curve, sparkline, wave_bars
from wheeltapper_fleet.ui.navigation import NAVIGATION, is_current
from wheeltapper_fleet.ui.words import feature_words, score_words, zone_words

__all__ = [
    "FOLDER",
    "After",
    "Asked",
    "Page",
    "Query4000",
    "Viewer",
    "link_to",
    "render",
    "sign_in_form",
    "template",
    "viewer",
]

FOLDER: Final = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the page works with.

    Args:
        engine: the fleet's database.
        authenticator: checks tokens at signing in, and cookies.
        datasets: the store of datasets.
        secure_cookie: whether the page is served over TLS, so that the cookie is sent over TLS only.
        totals: the fleet in a few numbers.
        login: signs people in with a login provider; None where there is none.
        ending: one sentence on each thing that ends soon or has ended.
        lives: everything that ends: keys' metadata, certificates.
        clock: Unix seconds.
        captures_dir: the folder with recordings; None: none can be looked at.
    """

    engine: Engine
    authenticator: Authenticator
    datasets: DatasetStore
    totals: Callable[[], Any]
    secure_cookie: bool = False
    login: OidcLogin | None = None
    ending: Callable[[], list[str]] = list
    lives: Callable[[], list[Life]] = list
    clock: Callable[[], float] = time.time
    captures_dir: Path | None = None


def _page(request: Request) -> Page:
    page: Page = request.app.state.page
    return page


Asked = Annotated[Page, Depends(_page)]
"""The type of a route's parameter that receives the :class:`Page`."""
Query4000: TypeAlias = Annotated[str, Query(max_length=4000)]
After: TypeAlias = Annotated[str | None, Query(pattern="^[A-Za-z0-9_-]{0,600}$")]


def viewer(page: Page, request: Request) -> Principal | None:
    """Who is signed in and may read; None if nobody is."""
    principal = page.authenticator.session(request.cookies.get(COOKIE))
    return principal if principal is not None and principal.may("read") else None


def _signed_in(request: Request, page: Asked) -> Principal:
    principal = viewer(page, request)
    if principal is None:
        raise FleetError("api.unauthorized", "sign in again", 401)
    return principal


Viewer = Annotated[Principal, Depends(_signed_in)]
"""The type of a parameter that receives who is signed in; of parts of a page, which are refused to anybody else."""


def render(name: str, principal: Principal, request: Request, values: Mapping[str, Any]) -> Response:
    """A page or a part of one, for somebody who is signed in."""
    csrf = csrf_token(request.cookies.get(COOKIE, ""))
    return HTMLResponse(template(name, who=principal, csrf=csrf, here=request.url.path, **values))


def sign_in_form(page: Page, message: str = "", status: int = 200) -> Response:
    """The form to sign in, with what was wrong."""
    provider = None if page.login is None else page.login.provider_name
    return HTMLResponse(template("sign_in.html", message=message, provider=provider), status_code=status)


def template(name: str, **values: Any) -> str:
    """A template with ``values``."""
    return _TEMPLATES.get_template(name).render(**values)


def link_to(path: str, **query: Any) -> str:
    """An address with those parts of ``query`` that are set."""
    text = urlencode({name: value for name, value in query.items() if value not in (None, "")})
    return f"{path}?{text}" if text else path


def _clock(seconds: float | None) -> str:
    """Unix seconds as a date and time in UTC; a dash for what is no date."""
    if seconds is None or not 0 <= seconds < 4e10:
        return "–"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _moment(seconds: float | None) -> str:
    """Unix seconds as a time that the page's script shows in the reader's zone; without scripts it is UTC."""
    text = _clock(seconds)
    return text if text == "–" else Markup('<time datetime="{}Z">{}</time>').format(text.replace(" ", "T"), text)


def _number(value: object) -> str:
    """A number in three or four digits; a dash for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    if abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:.0f}" if abs(value) < 1e7 else f"{value:.4g}"


def _hertz(value: object) -> str:
    """A frequency or a time in four digits, so that lines beside each other differ; a dash for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def _score(value: float | None) -> str:
    """A score with two decimals; a dash for what is no finite number."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.2f}" if abs(value) < 100 else _number(value)


def _words(text: object) -> str:
    """A name as people read it: ``IN_WORK`` as ``in work``."""
    return str(text).lower().replace("_", " ")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "clock": _clock,
        "moment": _moment,
        "number": _number,
        "hertz": _hertz,
        "score": _score,
        "words": _words,
    }
    environment.globals |= {"sparkline": sparkline, "wave_bars": wave_bars, "curve": curve, "link_to": link_to}
    environment.globals |= {"navigation": NAVIGATION, "is_current": is_current}
    environment.globals |= {"feature_words": feature_words, "score_words": score_words, "zone_words": zone_words}
    return environment


_TEMPLATES: Final = _environment()

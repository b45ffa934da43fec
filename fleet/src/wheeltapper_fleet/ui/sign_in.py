"""Signing in and out of the page.

Invariants:
    * The cookie is HttpOnly and SameSite=Strict and never contains the API token.
    * A form that another site's page sent is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from wheeltapper_fleet.access.oidc import OidcLogin
from wheeltapper_fleet.access.sessions import COOKIE, SESSION_SECONDS
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ui.rendering import Asked, Page, sign_in_form, template

__all__ = ["router"]

_FLOW_COOKIE: Final = "wheeltapper_login"
_FLOW_SECONDS: Final = 600

router = APIRouter(include_in_schema=False)


@router.post("/sign-in")
def sign_in(request: Request, page: Asked, token: Annotated[str, Form(max_length=500)] = "") -> Response:
    """Check the API token and answer with a session cookie."""
    _refuse_other_sites(request)
    try:
        session = page.authenticator.sign_in(token)
    except FleetError as error:
        return sign_in_form(page, error.message, error.status)
    return _with_session(RedirectResponse("/", status_code=303), page, session)


@router.get("/sign-in/oidc")
def begin_login(page: Asked) -> Response:
    """Send the browser to the login provider."""
    login = _login(page)
    try:
        url, flow = login.begin()
    except FleetError as error:
        return sign_in_form(page, error.message, error.status)
    answer = RedirectResponse(url, status_code=303)
    options: dict[str, Any] = {"httponly": True, "samesite": "lax", "secure": page.secure_cookie}
    answer.set_cookie(_FLOW_COOKIE, flow, max_age=_FLOW_SECONDS, path="/sign-in/oidc", **options)
    return answer


@router.get("/sign-in/oidc/callback")
def finish_login(request: Request, page: Asked) -> Response:
    """Begin a session for whoever comes back from the login provider.

    The answer is a page that leads on, not a redirect: browsers do not send a SameSite=Strict cookie with a redirect
    that another site began.
    """
    login = _login(page)
    try:
        principal = login.finish(dict(request.query_params), request.cookies.get(_FLOW_COOKIE))
    except FleetError as error:
        answer = sign_in_form(page, error.message, error.status)
    else:
        session = page.authenticator.begin_session(principal)
        answer = _with_session(HTMLResponse(template("signed_in.html")), page, session)
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


@router.post("/sign-out")
def sign_out(request: Request, page: Asked) -> Response:
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

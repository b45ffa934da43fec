"""Checks who makes a request: a program by its bearer token, a browser by its session cookie.

Invariants:
    * A cookie alone is good for reading only. Whatever changes something needs the bearer token, or the session's CSRF
      token in a header, which a foreign page neither knows nor can send.

What this module does not do: permissions (:mod:`wheeltapper_fleet.access.permissions`).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from sqlalchemy import Engine

from wheeltapper_fleet.access.principal import Principal
from wheeltapper_fleet.access.sessions import Sessions, csrf_token
from wheeltapper_fleet.access.tokens import find_token
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["Authenticator"]


class Authenticator:
    """Checks tokens against the database, and keeps the page's sessions.

    Args:
        engine: the fleet's database.
        clock: Unix seconds.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock
        self._sessions = Sessions(engine, clock)

    def principal(self, method: str, authorization: str | None, cookie: str | None, csrf: str | None) -> Principal:
        """Whoever makes a request.

        Args:
            method: the HTTP method. A cookie alone is accepted for ``GET`` and ``HEAD`` only.
            authorization: the ``Authorization`` header, if there is one.
            cookie: the session cookie's value, if there is one.
            csrf: the header ``X-CSRF-Token``, if there is one.

        Raises:
            FleetError: ``api.unauthorized``.
        """
        if authorization is None and cookie is not None:
            right = csrf is not None and hmac.compare_digest(csrf.encode(), csrf_token(cookie).encode())
            if method in ("GET", "HEAD") or right:
                found = self.session(cookie)
                if found is not None:
                    return found
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise FleetError("api.unauthorized", "send the API token as 'Authorization: Bearer <token>'", 401)
        return find_token(self._engine, token.strip(), self._clock())

    def sign_in(self, token: str) -> str:
        """Begin a session for a valid token; returns the cookie's value.

        Raises:
            FleetError: ``api.unauthorized``; ``api.out_of_scope``: the token is limited to some devices.
        """
        token = token.strip()
        principal = find_token(self._engine, token, self._clock())
        if principal.scope:
            message = "this token is limited to some devices, and the page shows the whole fleet: use the API with it"
            raise FleetError("api.out_of_scope", message, 403)
        return self._sessions.begin(principal, token)

    def begin_session(self, principal: Principal) -> str:
        """Begin a session of somebody whom a login provider knows; returns the cookie's value."""
        return self._sessions.begin(principal)

    def sign_out(self, cookie: str | None) -> None:
        """End the session of a cookie, if there is one."""
        self._sessions.end(cookie)

    def session(self, cookie: str | None) -> Principal | None:
        """Who is signed in with a cookie; None if there is no such session, or it has ended."""
        return self._sessions.find(cookie)

"""Checks who makes a request: a program by its bearer token, a browser by its session cookie.

Invariants:
    * A cookie is good for reading only. Whatever changes something needs the bearer token, so a foreign page cannot
      make a browser change anything.

What this module does not do: roles. Every token may do everything.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Engine

from wheeltapper_fleet.access.sessions import Sessions
from wheeltapper_fleet.access.tokens import token_owner
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
        self._sessions = Sessions(clock)

    def requester(self, method: str, authorization: str | None, cookie: str | None) -> str:
        """The name of whoever makes a request.

        Args:
            method: the HTTP method. A cookie is accepted for ``GET`` and ``HEAD`` only.
            authorization: the ``Authorization`` header, if there is one.
            cookie: the session cookie's value, if there is one.

        Raises:
            FleetError: ``api.unauthorized``.
        """
        if authorization is None and method in ("GET", "HEAD"):
            owner = self.session_owner(cookie)
            if owner is not None:
                return owner
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise FleetError("api.unauthorized", "send the API token as 'Authorization: Bearer <token>'", 401)
        return token_owner(self._engine, token.strip())

    def sign_in(self, token: str) -> str:
        """Begin a session for a valid token; returns the cookie's value.

        Raises:
            FleetError: ``api.unauthorized``.
        """
        return self._sessions.begin(token_owner(self._engine, token.strip()))

    def sign_out(self, cookie: str | None) -> None:
        """End the session of a cookie, if there is one."""
        self._sessions.end(cookie)

    def session_owner(self, cookie: str | None) -> str | None:
        """The owner of a cookie's session; None if there is no such session or it has expired."""
        return self._sessions.owner(cookie)

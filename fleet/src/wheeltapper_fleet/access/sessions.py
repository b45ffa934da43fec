"""The page's sessions: who is signed in with which cookie.

Invariants:
    * The cookie's value is random and is never the API token. The database keeps only its SHA-256.
    * A session ends after :data:`SESSION_SECONDS`, and with the API token that it began with.
    * There are at most 1000 sessions; the oldest ends when one more begins.
    * A change needs the session's CSRF token beside the cookie. It follows from the cookie, which the page's script
      cannot read, and only a page of this service tells it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from typing import Final

from sqlalchemy import Engine, delete, func, insert, select

from wheeltapper_fleet.access.principal import Principal
from wheeltapper_fleet.access.tables import api_tokens, sessions
from wheeltapper_fleet.access.tokens import sha256, stored_roles
from wheeltapper_fleet.db.engine import reading

__all__ = ["COOKIE", "SESSION_SECONDS", "Sessions", "csrf_token"]

COOKIE: Final = "wheeltapper_session"
SESSION_SECONDS: Final = 12 * 3600.0
_MAX_SESSIONS: Final = 1000
_MAX_COOKIE_CHARACTERS: Final = 200


class Sessions:
    """Begins, finds and ends sessions; may be called from any thread and any process.

    Args:
        engine: the fleet's database.
        clock: Unix seconds.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock

    def begin(self, principal: Principal, token: str | None = None) -> str:
        """Begin a session; returns the cookie's value.

        Args:
            principal: who is signed in.
            token: the secret of the API token with which it ends, if there is one.
        """
        cookie, now = secrets.token_urlsafe(32), self._clock()
        row = {
            "cookie_sha256": sha256(cookie),
            "name": principal.name[:128],
            "roles": " ".join(sorted(principal.roles)),
            "via": principal.via[:200],
            "token_sha256": None if token is None else sha256(token),
            "created_at": now,
            "expires_at": now + SESSION_SECONDS,
        }
        with self._engine.begin() as connection:
            connection.execute(delete(sessions).where(sessions.c.expires_at <= now))
            many = connection.execute(select(func.count()).select_from(sessions)).scalar_one() - _MAX_SESSIONS + 1
            if many > 0:
                oldest = select(sessions.c.cookie_sha256).order_by(sessions.c.expires_at).limit(many)
                connection.execute(delete(sessions).where(sessions.c.cookie_sha256.in_(oldest)))
            connection.execute(insert(sessions).values(row))
        return cookie

    def end(self, cookie: str | None) -> None:
        """End the session of a cookie, if there is one."""
        if cookie and len(cookie) <= _MAX_COOKIE_CHARACTERS:
            with self._engine.begin() as connection:
                connection.execute(delete(sessions).where(sessions.c.cookie_sha256 == sha256(cookie)))

    def find(self, cookie: str | None) -> Principal | None:
        """Who is signed in with a cookie; None if there is no such session, or it has ended."""
        if not cookie or len(cookie) > _MAX_COOKIE_CHARACTERS:
            return None
        query = (
            select(
                sessions,
                api_tokens.c.revoked_at,
                api_tokens.c.expires_at.label("token_expires_at"),
                api_tokens.c.permissions,
            )
            .outerjoin(api_tokens, api_tokens.c.secret_sha256 == sessions.c.token_sha256)
            .where(sessions.c.cookie_sha256 == sha256(cookie))
        )
        with reading(self._engine) as connection:
            row = connection.execute(query).first()
        now = self._clock()
        if row is None or row.expires_at <= now or row.revoked_at is not None:
            return None
        if row.token_expires_at is not None and row.token_expires_at <= now:
            return None
        limited = None if row.permissions is None else frozenset(row.permissions.split())
        return Principal(row.name, stored_roles(row.roles), row.via, limited)


def csrf_token(cookie: str) -> str:
    """The CSRF token of a session."""
    return hmac.new(cookie.encode("utf-8", "surrogatepass"), b"csrf", hashlib.sha256).hexdigest()

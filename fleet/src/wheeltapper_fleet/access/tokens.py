"""Who may use the admin API: bearer tokens for programs, a session cookie for the page.

Invariants:
    * Of a token only its SHA-256 is kept in the database; comparing is constant-time over all of them.
    * The cookie is a random session id, never the token; sessions live in memory and end with the service.
    * A cookie is good for reading only. Whatever changes something needs the bearer token, so there is nothing that a
      foreign page could make a browser do.

What this module does not do: roles. Every token may do everything.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, insert, select

from wheeltapper_fleet.access.tables import api_tokens
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["COOKIE", "SESSION_SECONDS", "Authenticator", "ensure_api_token"]

COOKIE: Final = "wheeltapper_session"
SESSION_SECONDS: Final = 12 * 3600.0
_MAX_SESSIONS: Final = 1000
_MAX_TOKEN_CHARACTERS: Final = 200


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def ensure_api_token(engine: Engine, path: Path, now: float) -> None:
    """Make the first token into ``path`` (0600) if there is none; enter it into the database if that lacks it."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        token = "wta_" + base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode("ascii")
        _write_private(path, token + "\n")
    with engine.begin() as connection:
        known = connection.execute(select(api_tokens.c.name).where(api_tokens.c.secret_sha256 == _digest(token)))
        if known.first() is None:
            row = {"secret_sha256": _digest(token), "name": "first", "created_at": now}
            connection.execute(insert(api_tokens).values(row))


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Authenticator:
    """Checks tokens against the database and keeps the page's sessions.

    Args:
        engine: the fleet's database.
        clock: Unix seconds.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: dict[str, tuple[str, float]] = {}

    def token_name(self, token: str) -> str:
        """The name of the token's owner, for the record.

        Raises:
            FleetError: ``api.unauthorized``.
        """
        found: str | None = None
        if token and len(token) <= _MAX_TOKEN_CHARACTERS:
            digest = _digest(token)
            with reading(self._engine) as connection:
                for row in connection.execute(select(api_tokens.c.secret_sha256, api_tokens.c.name)):
                    if hmac.compare_digest(row.secret_sha256, digest):
                        found = str(row.name)
        if found is None:
            raise FleetError("api.unauthorized", "this API token is not valid; see api-token in the data folder", 401)
        return found

    def bearer(self, header: str | None) -> str:
        """The owner's name from an ``Authorization`` header.

        Raises:
            FleetError: ``api.unauthorized``.
        """
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer":
            raise FleetError("api.unauthorized", "send the API token as 'Authorization: Bearer <token>'", 401)
        return self.token_name(token.strip())

    def sign_in(self, token: str) -> str:
        """A new session for a valid token; returns the cookie's value.

        Raises:
            FleetError: ``api.unauthorized``.
        """
        name = self.token_name(token.strip())
        session = secrets.token_urlsafe(32)
        now = self._clock()
        with self._lock:
            self._sessions = {key: value for key, value in self._sessions.items() if value[1] > now}
            if len(self._sessions) >= _MAX_SESSIONS:
                self._sessions.pop(next(iter(self._sessions)))
            self._sessions[_digest(session)] = (name, now + SESSION_SECONDS)
        return session

    def sign_out(self, session: str | None) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(_digest(session or ""), None)

    def session(self, session: str | None) -> str | None:
        """The owner's name of a session that is still good."""
        with self._lock:
            name, expires_at = self._sessions.get(_digest(session or ""), ("", 0.0))
        return name if expires_at > self._clock() else None

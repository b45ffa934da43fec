"""The page's sessions: who is signed in with which cookie.

Invariants:
    * The cookie's value is random and is never the API token.
    * Sessions are kept in memory: they end after :data:`SESSION_SECONDS`, or with the service.
    * There are at most 1000 sessions; the oldest ends when one more begins.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable
from typing import Final

__all__ = ["COOKIE", "SESSION_SECONDS", "Sessions"]

COOKIE: Final = "wheeltapper_session"
SESSION_SECONDS: Final = 12 * 3600.0
_MAX_SESSIONS: Final = 1000


class Sessions:
    """Begins, finds and ends sessions; may be called from any thread.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: dict[str, tuple[str, float]] = {}

    def begin(self, owner: str) -> str:
        """Begin a session of ``owner``; returns the cookie's value."""
        cookie = secrets.token_urlsafe(32)
        now = self._clock()
        with self._lock:
            self._sessions = {key: value for key, value in self._sessions.items() if value[1] > now}
            if len(self._sessions) >= _MAX_SESSIONS:
                self._sessions.pop(next(iter(self._sessions)))
            self._sessions[_digest(cookie)] = (owner, now + SESSION_SECONDS)
        return cookie

    def end(self, cookie: str | None) -> None:
        """End the session of a cookie, if there is one."""
        with self._lock:
            self._sessions.pop(_digest(cookie or ""), None)

    def owner(self, cookie: str | None) -> str | None:
        """The owner of a cookie's session; None if there is no such session or it has expired."""
        with self._lock:
            owner, expires_at = self._sessions.get(_digest(cookie or ""), ("", 0.0))
        return owner if expires_at > self._clock() else None


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode("utf-8", "surrogatepass")).hexdigest()

"""Access as the API gives it out. Times are Unix seconds."""

from __future__ import annotations

from pydantic import BaseModel

__all__ = ["ApiTokenView", "NewApiToken", "WhoView"]


class ApiTokenView(BaseModel):
    """An API token, without its secret. ``expires_at`` is None for one that does not end.

    It may do what its roles may, no more than ``permissions`` (None: all of it), to the devices that the query
    ``scope`` means (empty: all).
    """

    id: str
    name: str
    roles: list[str]
    permissions: list[str] | None
    scope: str
    created_at: float
    created_by: str
    expires_at: float | None
    revoked_at: float | None
    revoked_by: str | None


class NewApiToken(BaseModel):
    """A new API token. ``token`` is its secret: it is shown once and kept nowhere."""

    id: str
    name: str
    roles: list[str]
    permissions: list[str] | None
    scope: str
    expires_at: float | None
    token: str


class WhoView(BaseModel):
    """Who makes the request, and what it may do; to the devices that the query ``scope`` means (empty: all)."""

    name: str
    via: str
    roles: list[str]
    permissions: list[str]
    scope: str

"""Tables of access. Times are Unix seconds; ``roles`` are names with a space between.

* ``api_tokens``: by the SHA-256 of their secret. ``id`` names one without revealing it. One that is revoked stays.
  ``permissions`` (NULL: all of its roles) and ``scope`` (a query of devices; empty: all) limit it further.
* ``sessions``: the page's, by the SHA-256 of their cookie. ``via`` says how it began; where that was an API token,
  the session ends with the token.
* ``repeats``: requests with an ``Idempotency-Key`` and their answers; ``status`` is NULL while one is answered, and
  ``body`` where the answer was a secret.
"""

from __future__ import annotations

from sqlalchemy import Column, Float, Integer, LargeBinary, String, Table

from wheeltapper_fleet.db.metadata import metadata

__all__ = ["api_tokens", "repeats", "sessions"]

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("secret_sha256", String(64), primary_key=True),
    Column("id", String(16), nullable=False, server_default="", index=True),
    Column("name", String(63), nullable=False),
    Column("roles", String(80), nullable=False, server_default="admin"),
    Column("created_at", Float, nullable=False),
    Column("created_by", String(128), nullable=False, server_default=""),
    Column("expires_at", Float),
    Column("revoked_at", Float),
    Column("revoked_by", String(128)),
    Column("permissions", String(500)),
    Column("scope", String(4000), nullable=False, server_default=""),
)

sessions = Table(
    "sessions",
    metadata,
    Column("cookie_sha256", String(64), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("roles", String(80), nullable=False),
    Column("via", String(200), nullable=False),
    Column("token_sha256", String(64)),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False, index=True),
)

repeats = Table(
    "repeats",
    metadata,
    Column("who", String(200), primary_key=True),
    Column("key", String(104), primary_key=True),
    Column("request_sha256", String(64), nullable=False),
    Column("created_at", Float, nullable=False, index=True),
    Column("status", Integer),
    Column("media_type", String(120)),
    Column("body", LargeBinary),
)

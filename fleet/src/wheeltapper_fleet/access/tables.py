"""The table of API tokens, by the SHA-256 of their secret. Times are Unix seconds."""

from __future__ import annotations

from sqlalchemy import Column, Float, String, Table

from wheeltapper_fleet.db.metadata import metadata

__all__ = ["api_tokens"]

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("secret_sha256", String(64), primary_key=True),
    Column("name", String(63), nullable=False),
    Column("created_at", Float, nullable=False),
)

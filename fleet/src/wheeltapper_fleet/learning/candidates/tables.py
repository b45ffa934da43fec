"""The table of candidates. Times are Unix seconds.

``sha256`` is of the bundle's manifest, which is in the blob store with its files. ``state`` is WAITING, APPROVED,
REJECTED or EXPIRED; ``release`` is what it became. ``policy`` is empty where a person asked for the run.
"""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, Integer, String, Table

from wheeltapper_fleet.db.metadata import metadata

__all__ = ["candidates"]

candidates = Table(
    "candidates",
    metadata,
    Column("id", String(14), primary_key=True),
    Column("run", String(14), nullable=False, unique=True),
    Column("model", String(63), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("dataset", String(100), nullable=False),
    Column("policy", String(63), nullable=False),
    Column("cycle", Integer, nullable=False),
    Column("made_at", Float, nullable=False),
    Column("state", String(16), nullable=False),
    Column("release", Integer),
    Column("decided_at", Float),
    Column("decided_by", String(128)),
    Column("why", String(500), nullable=False),
    Index(None, "made_at", "id"),
    Index(None, "model", "made_at", "id"),
    Index(None, "state", "made_at", "id"),
)

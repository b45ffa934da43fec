"""Tables of published releases. They follow the TUF metadata, which decides what is published.

``path`` is the TUF target path of the manifest; ``sha256`` and ``length`` (bytes) are the manifest's; ``published_at``
is Unix seconds. ``release_datasets`` says which version of a dataset a release was trained on.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Integer, PrimaryKeyConstraint, String, Table

from wheeltapper_fleet.db.metadata import metadata
from wheeltapper_fleet.db.stored_json import StoredJson

__all__ = ["release_datasets", "releases"]

releases = Table(
    "releases",
    metadata,
    Column("model", String(63), nullable=False),
    Column("release", Integer, nullable=False),
    Column("path", String(200), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("manifest", StoredJson, nullable=False),
    Column("published_at", Float, nullable=False),
    Column("published_by", String(128), nullable=False),
    PrimaryKeyConstraint("model", "release"),
)

release_datasets = Table(
    "release_datasets",
    metadata,
    Column("dataset", String(63), nullable=False),
    Column("version", Integer, nullable=False),
    Column("model", String(63), nullable=False),
    Column("release", Integer, nullable=False),
    Column("split", String(200), nullable=False),
    Column("sha256", String(64), nullable=False),
    PrimaryKeyConstraint("dataset", "version", "model", "release"),
)

"""Tables of assets and of what measures them. Times are Unix seconds.

* ``assets``: one row an asset. ``site``, ``machine`` and ``component`` name what it belongs to, itself included, so
  that everything below an asset is one look-up in an index, whatever its kind.
* ``point_mappings``: a device's pipeline and channel measure a point, from when to when.
"""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, Integer, String, Table

from wheeltapper_fleet.db.metadata import metadata
from wheeltapper_fleet.db.stored_json import StoredJson

__all__ = ["assets", "point_mappings"]

assets = Table(
    "assets",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("parent", String(63), index=True),
    Column("site", String(63), nullable=False),
    Column("machine", String(63)),
    Column("component", String(63)),
    Column("name", String(120), nullable=False),
    Column("criticality", String(8), nullable=False),
    Column("attributes", StoredJson, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("retired_at", Float),
    Index("ix_assets_site", "site", "id"),
    Index("ix_assets_machine", "machine", "id"),
    Index("ix_assets_component", "component", "id"),
    Index("ix_assets_kind", "kind", "id"),
)

point_mappings = Table(
    "point_mappings",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("point", String(63), nullable=False),
    Column("device", String(63), nullable=False),
    Column("pipeline", String(63), nullable=False),
    Column("channel", String(64), nullable=False),
    Column("from_at", Float, nullable=False),
    Column("to_at", Float),
    Index("ix_point_mappings_device", "device", "pipeline", "from_at"),
    Index("ix_point_mappings_point", "point", "from_at"),
)

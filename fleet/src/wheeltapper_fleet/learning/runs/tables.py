"""The table of runs. Times are Unix seconds.

``dataset`` is ``NAME@VERSION``, which ``dataset_name`` and ``dataset_version`` say apart. ``against`` is the release of
the model that the bundle must not be worse than; NULL: none. ``attempt`` is the number of the newest claim,
``silences`` how many trainers fell silent over it. ``parameters``, ``metrics``, ``digests`` and ``plots`` are objects
by name, ``gates``, ``warnings`` and ``trials`` lists; ``result`` is the SHA-256 of the bundle's manifest, which is in
the blob store with its files and the plots.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, String, Table, Text

from wheeltapper_fleet.db.metadata import metadata
from wheeltapper_fleet.db.stored_json import StoredJson

__all__ = ["runs"]

runs = Table(
    "runs",
    metadata,
    Column("id", String(14), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("model", String(63), nullable=False),
    Column("recipe", String(64), nullable=False),
    Column("recipe_toml", Text, nullable=False),
    Column("dataset", String(100), nullable=False),
    Column("dataset_name", String(63)),
    Column("dataset_version", Integer),
    Column("seed", BigInteger, nullable=False),
    Column("against", Integer),
    Column("cause_kind", String(16), nullable=False),
    Column("cause_id", String(128), nullable=False),
    Column("requested_at", Float, nullable=False),
    Column("requested_by", String(128), nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("ended_by", String(128)),
    Column("heartbeat_at", Float),
    Column("trainer", String(128)),
    Column("attempt", Integer, nullable=False),
    Column("silences", Integer, nullable=False),
    Column("progress", Float),
    Column("progress_text", String(200), nullable=False),
    Column("parameters", StoredJson, nullable=False),
    Column("metrics", StoredJson, nullable=False),
    Column("gates", StoredJson, nullable=False),
    Column("digests", StoredJson, nullable=False),
    Column("plots", StoredJson, nullable=False),
    Column("warnings", StoredJson, nullable=False),
    Column("trials", StoredJson, nullable=False),
    Column("result", String(64)),
    Column("error_code", String(64)),
    Column("error_detail", String(2000)),
    Index(None, "requested_at", "id"),
    Index(None, "state", "requested_at", "id"),
    Index(None, "model", "requested_at", "id"),
    Index(None, "cause_kind", "cause_id", "requested_at", "id"),
    Index(None, "state", "heartbeat_at"),
    Index(None, "dataset_name", "dataset_version", "requested_at", "id"),
)

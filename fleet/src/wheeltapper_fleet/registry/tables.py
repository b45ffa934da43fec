"""Tables of published releases. They follow the TUF metadata, which decides what is published.

``path`` is the TUF target path of the manifest; ``sha256`` and ``length`` (bytes) are the manifest's; ``published_at``
is Unix seconds. ``release_datasets`` says which version of a dataset a release was trained on. ``release_aliases``
holds what each alias names now, ``alias_changes`` everything that it ever named; ``version`` of an alias is the ``id``
of its newest change.

``promotion_rules`` holds what an alias asks of a release (:mod:`wheeltapper_fleet.registry.promotion_rules`), and
``promotions`` who asked that an alias should name one, and what became of it; ``open_key`` is ``MODEL ALIAS`` while it
waits, so that one waits at a time. ``promotion_log`` is everything that happened to both; rows are only ever added.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, PrimaryKeyConstraint, String, Table

from wheeltapper_fleet.db.metadata import metadata
from wheeltapper_fleet.db.stored_json import StoredJson

__all__ = [
    "alias_changes",
    "promotion_log",
    "promotion_rules",
    "promotions",
    "release_aliases",
    "release_datasets",
    "release_runs",
    "releases",
]

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
    Index("ix_release_datasets_model", "model", "release"),
)

release_aliases = Table(
    "release_aliases",
    metadata,
    Column("model", String(63), nullable=False),
    Column("alias", String(63), nullable=False),
    Column("release", Integer, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("set_at", Float, nullable=False),
    Column("set_by", String(128), nullable=False),
    Column("why", String(500), nullable=False),
    PrimaryKeyConstraint("model", "alias"),
)

release_runs = Table(
    "release_runs",
    metadata,
    Column("run", String(14), nullable=False),
    Column("model", String(63), nullable=False),
    Column("release", Integer, nullable=False),
    PrimaryKeyConstraint("run", "model", "release"),
)

alias_changes = Table(
    "alias_changes",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("model", String(63), nullable=False),
    Column("alias", String(63), nullable=False),
    Column("before", Integer),
    Column("after", Integer),
    Column("at", Float, nullable=False),
    Column("who", String(128), nullable=False),
    Column("why", String(500), nullable=False),
    Index(None, "model", "id"),
    Index(None, "model", "alias", "id"),
)

promotion_rules = Table(
    "promotion_rules",
    metadata,
    Column("model", String(63), nullable=False),
    Column("alias", String(63), nullable=False),
    Column("rule", StoredJson, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("set_at", Float, nullable=False),
    Column("set_by", String(128), nullable=False),
    Column("why", String(500), nullable=False),
    PrimaryKeyConstraint("model", "alias"),
)

promotions = Table(
    "promotions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("model", String(63), nullable=False),
    Column("alias", String(63), nullable=False),
    Column("release", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("open_key", String(130)),
    Column("requested_by", String(128), nullable=False),
    Column("requested_at", Float, nullable=False),
    Column("why", String(500), nullable=False),
    Column("ended_at", Float),
    Index("uq_promotions_open_key", "open_key", unique=True),
    Index("ix_promotions_model", "model", "id"),
    Index("ix_promotions_state", "state", "id"),
)

promotion_log = Table(
    "promotion_log",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("model", String(63), nullable=False),
    Column("alias", String(63), nullable=False),
    Column("promotion", Integer),
    Column("release", Integer),
    Column("at", Float, nullable=False),
    Column("who", String(128), nullable=False),
    Column("event", String(24), nullable=False),
    Column("detail", String(2000), nullable=False),
    Index("ix_promotion_log_model", "model", "id"),
    Index("ix_promotion_log_promotion", "promotion", "id"),
)

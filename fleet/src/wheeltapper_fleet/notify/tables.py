"""Tables of notifications. Times are Unix seconds.

* ``notify_targets``: who is told of what; the secret that webhooks are signed with. ``failures`` counts those in a
  row, ``retry_at`` is when deliveries to it go on.
* ``notifications``: the outbox: what a target is told. ``message`` is the id that a receiver knows it by.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, String, Table, text

from wheeltapper_fleet.db.metadata import metadata
from wheeltapper_fleet.db.stored_json import StoredJson

__all__ = ["notifications", "notify_targets"]

notify_targets = Table(
    "notify_targets",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("address", String(2000), nullable=False),
    Column("secret", String(120)),
    Column("enabled", Boolean, nullable=False),
    Column("events", StoredJson, nullable=False),
    Column("min_severity", String(16), nullable=False),
    Column("sites", StoredJson, nullable=False),
    Column("models", StoredJson, nullable=False),
    Column("query", String(4000), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("created_by", String(128), nullable=False),
    Column("failures", Integer, nullable=False),
    Column("error", String(300)),
    Column("retry_at", Float),
    Column("sent_at", Float),
)

_WAITING, _DEAD = text("state = 'waiting'"), text("state = 'dead'")
notifications = Table(
    "notifications",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("message", String(64), nullable=False),
    Column("target", String(63), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("subject", String(120), nullable=False),
    Column("title", String(300), nullable=False),
    Column("severity", String(16), nullable=False),
    Column("body", StoredJson, nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", Float, nullable=False),
    Column("sent_at", Float),
    Column("error", String(300)),
    Index("ix_notifications_waiting", "target", "next_at", "id", sqlite_where=_WAITING, postgresql_where=_WAITING),
    Index("ix_notifications_target", "target", "id"),
    Index("ix_notifications_dead", "id", sqlite_where=_DEAD, postgresql_where=_DEAD),
    Index("ix_notifications_created_at", "created_at"),
)

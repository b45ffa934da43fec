"""Tables of telemetry: the records that devices delivered, and how far each spool has come.

    * ``records``: one row per record, whatever its kind (``telemetry``, ``alert``, ``report``). A device numbers its
      records from 1 within an epoch (one life of its spool file).
    * ``spools``: per device and epoch, the last sequence number up to which nothing is outstanding (``contiguous``) and
      how many records below it the device dropped (``dropped``).
    * ``refused``: messages that could not be accepted, counted by device and error code.

``received_at``, ``first_seen_at`` and ``last_at`` are Unix seconds by the fleet's clock; ``t_s`` is the machine's time
in seconds, as the device reported it. JSON columns hold what msgspec encoded.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, PrimaryKeyConstraint, String, Table, Text, text

from wheeltapper_fleet.db.metadata import metadata
from wheeltapper_fleet.db.stored_json import StoredJson

__all__ = ["records", "refused", "spools"]

spools = Table(
    "spools",
    metadata,
    Column("device", String(63), nullable=False),
    Column("epoch", String(16), nullable=False),
    Column("contiguous", BigInteger, nullable=False),
    Column("dropped", BigInteger, nullable=False, default=0),
    Column("first_seen_at", Float, nullable=False),
    PrimaryKeyConstraint("device", "epoch"),
)

records = Table(
    "records",
    metadata,
    Column("device", String(63), nullable=False),
    Column("epoch", String(16), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("received_at", Float, nullable=False),
    Column("pipeline", String(63)),
    Column("window", BigInteger),
    Column("t_s", Float),
    Column("model", String(63)),
    Column("release", Integer),
    Column("score", Float),
    Column("severity", String(16)),
    Column("latency_ms", Float),
    Column("body", StoredJson),
    PrimaryKeyConstraint("device", "epoch", "seq"),
    Index(None, "device", "received_at"),
    Index(
        "ix_records_drift",
        "model",
        "release",
        "received_at",
        sqlite_where=text("kind = 'report'"),
        postgresql_where=text("kind = 'report'"),
    ),
)

refused = Table(
    "refused",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("code", String(80), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("last_at", Float, nullable=False),
    Column("last_detail", Text, nullable=False),
)

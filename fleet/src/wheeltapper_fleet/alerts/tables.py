"""The table of alerts. Each is also a row of ``records``, with the same device, epoch and sequence number.

``at`` is Unix seconds by the device's clock; ``t_s`` is the machine's time in seconds.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, String, Table

from wheeltapper_fleet.db.metadata import metadata
from wheeltapper_fleet.db.stored_json import StoredJson

__all__ = ["alerts"]

alerts = Table(
    "alerts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("device", String(63), nullable=False, index=True),
    Column("epoch", String(16), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("pipeline", String(63), nullable=False),
    Column("window", BigInteger, nullable=False),
    Column("t_s", Float, nullable=False),
    Column("at", Float, nullable=False),
    Column("model", String(63), nullable=False),
    Column("release", Integer, nullable=False),
    Column("score", Float, nullable=False),
    Column("severity", String(16), nullable=False),
    Column("raised", Boolean, nullable=False),
    Column("reasons", StoredJson, nullable=False),
    Column("label", String(64)),
    Column("value", Float),
    Column("unit", String(64)),
    Column("zone", String(8)),
    Index("uq_alerts_record", "device", "epoch", "seq", unique=True),
)

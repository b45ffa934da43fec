"""The table of captures: recordings that devices uploaded, by the command (or the rule's name) that they answer.

``length`` is in bytes; ``received_at`` is Unix seconds. The bytes are in a file named by ``sha256``.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, String, Table

from wheeltapper_fleet.db.metadata import metadata

__all__ = ["captures"]

captures = Table(
    "captures",
    metadata,
    Column("command", String(64), primary_key=True),
    Column("device", String(63), nullable=False),
    Column("pipeline", String(63), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("snapshots", Integer, nullable=False),
    Column("received_at", Float, nullable=False),
    Index("ix_captures_received_at_command", "received_at", "command"),
    Index("ix_captures_sha256", "sha256", "command"),
)

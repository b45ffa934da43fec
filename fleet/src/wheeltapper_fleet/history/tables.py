"""The table of segments: one row for each file of raw history.

A segment holds the records of the messages ``first_message`` to ``last_message`` (ids of the table ``messages``). They
came on one day (UTC), from ``from_at`` to ``to_at`` (Unix seconds). ``path`` is below the history's folder or bucket.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, String, Table

from wheeltapper_fleet.db.metadata import metadata

__all__ = ["segments"]

segments = Table(
    "segments",
    metadata,
    Column("first_message", BigInteger, primary_key=True, autoincrement=False),
    Column("last_message", BigInteger, nullable=False, index=True),
    Column("day", String(10), nullable=False),
    Column("from_at", Float, nullable=False),
    Column("to_at", Float, nullable=False, index=True),
    Column("records", BigInteger, nullable=False),
    Column("unreadable", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("path", String(200), nullable=False),
    Column("written_at", Float, nullable=False),
)

"""The table of changes: one row for each request that changed something, or that was forbidden to.

``at`` is Unix seconds. ``route`` is the method and template of the route, ``subject`` the values of its parameters;
``digest`` links the row to the one before (:mod:`wheeltapper_fleet.audit.chain`). ``audit_chain`` has one row: the
newest digest, and of what was cut the last digest, its time, and how many rows there were.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Integer, String, Table

from wheeltapper_fleet.db.metadata import metadata
from wheeltapper_fleet.db.stored_json import StoredJson

__all__ = ["audit", "audit_chain"]

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("who", String(128), nullable=False),
    Column("via", String(200), nullable=False),
    Column("route", String(200), nullable=False),
    Column("subject", StoredJson, nullable=False),
    Column("status", Integer, nullable=False),
    Column("request", String(64), nullable=False),
    Column("address", String(64), nullable=False),
    Column("digest", String(64), nullable=False, server_default=""),
)

audit_chain = Table(
    "audit_chain",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(64), nullable=False),
    Column("cut_digest", String(64), nullable=False),
    Column("cut_up_to", Float),
    Column("cut_rows", BigInteger, nullable=False),
)

"""Tables of campaigns.

    * ``campaigns``: one row per campaign; ``version`` rises with each change of state, waves or reason.
    * ``executions``: one device's attempt within a campaign.
    * ``assignments``: the newest signed assignment of each device, as the DSSE envelope's text, with its counter.
    * ``campaign_log``: who did what, and what the engine did.

Times are Unix seconds. JSON columns hold what msgspec encoded.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Integer, String, Table, Text

from wheeltapper_fleet.db.metadata import metadata
from wheeltapper_fleet.db.stored_json import StoredJson

__all__ = ["assignments", "campaign_log", "campaigns", "executions"]

campaigns = Table(
    "campaigns",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("state", String(24), nullable=False),
    Column("spec", StoredJson, nullable=False),
    Column("waves", StoredJson, nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)

executions = Table(
    "executions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("campaign", String(64), ForeignKey("campaigns.id"), nullable=False, index=True),
    Column("device", String(63), nullable=False, index=True),
    Column("wave", Integer, nullable=False),
    Column("state", String(24), nullable=False),
    Column("code", String(80), nullable=False, default=""),
    Column("detail", Text, nullable=False, default=""),
    Column("assigned_at", Float),
    Column("deadline_at", Float),
    Column("updated_at", Float, nullable=False),
)

assignments = Table(
    "assignments",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("counter", BigInteger, nullable=False),
    Column("execution", String(64), nullable=False),
    Column("envelope", Text, nullable=False),
    Column("issued_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)

campaign_log = Table(
    "campaign_log",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("campaign", String(64), ForeignKey("campaigns.id"), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("who", String(128), nullable=False),
    Column("event", String(64), nullable=False),
    Column("detail", Text, nullable=False, default=""),
)

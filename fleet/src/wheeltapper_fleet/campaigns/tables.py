"""Tables of campaigns.

    * ``campaigns``: one row per campaign; ``version`` rises with each change of state, waves or reason. From ``due_at``
      on a tick looks at it though nothing has happened to it; NULL: never. ``takes_back`` is the campaign whose
      devices this one takes back; ``taken_back`` counts devices of this one that were.
      ``continuous``: devices may join it.
    * ``campaign_releases``: which campaigns take, or took, a release to devices.
    * ``campaign_cursors``: up to which row another room's log was followed.
    * ``executions``: one device's attempt within a campaign, or for a default release (the other of the two columns is
      NULL). ``pipelines`` are those that it covers; NULL until it is first ordered. ``ended_at`` is NULL until it has
      ended. ``attempt`` counts how often the device was asked, from 1.
    * ``campaign_tallies``: how many executions a campaign has by wave and state, and how many of them were ever
      assigned. ``tally_changes`` are the changes that are not in it yet, each written in the transaction that moved
      the executions (:mod:`wheeltapper_fleet.campaigns.tallies`).
    * ``assignments``: the newest signed assignment of each device, as the DSSE envelope's text, with its counter.
      ``digest`` is of its content, ``orders`` the number of its executions; ``published`` is false until it was handed
      to the broker.
    * ``assignments_due``: devices whose assignment is to be composed anew from ``due_at`` on; ``marks`` rises with each
      time that a device is marked.
    * ``tellings``: campaigns and default releases of which every device that was told is to be marked; ``after`` is the
      last device that was looked at.
    * ``default_releases``: who set which one when and why, and who cleared it. ``cursor`` is the last device that was
      looked at since it was set; NULL: all were.
    * ``campaign_log``: who did what, and what the engine did.

Times are Unix seconds. JSON columns hold what msgspec encoded.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Index, Integer, String, Table, Text, false

from wheeltapper_fleet.db.metadata import metadata
from wheeltapper_fleet.db.stored_json import StoredJson

__all__ = [
    "assignments",
    "assignments_due",
    "campaign_cursors",
    "campaign_log",
    "campaign_releases",
    "campaign_tallies",
    "campaigns",
    "default_releases",
    "executions",
    "tally_changes",
    "tellings",
]

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
    Column("due_at", Float, index=True),
    Column("taken_back", Integer, nullable=False, default=0, server_default="0"),
    Column("takes_back", String(64), index=True),
    Column("continuous", Boolean, nullable=False, default=False, server_default=false()),
    Index("ix_campaigns_created_at_id", "created_at", "id"),
)

executions = Table(
    "executions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("campaign", String(64), ForeignKey("campaigns.id")),
    Column("default_release", String(64)),
    Column("device", String(63), nullable=False, index=True),
    Column("wave", Integer, nullable=False),
    Column("pipelines", StoredJson),
    Column("state", String(24), nullable=False),
    Column("code", String(80), nullable=False, default=""),
    Column("detail", Text, nullable=False, default=""),
    Column("assigned_at", Float),
    Column("deadline_at", Float),
    Column("updated_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("attempt", Integer, nullable=False, default=1, server_default="1"),
    Index("ix_executions_campaign_device", "campaign", "device", unique=True),
    Index("ix_executions_campaign_wave", "campaign", "wave", "device"),
    Index("ix_executions_campaign_state", "campaign", "state", "wave", "device"),
    Index("ix_executions_default_release_device", "default_release", "device"),
)
_UNFINISHED: Final = executions.c.ended_at.is_(None)
Index("ix_executions_deadline", executions.c.deadline_at, sqlite_where=_UNFINISHED, postgresql_where=_UNFINISHED)

campaign_releases = Table(
    "campaign_releases",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("release", Integer, primary_key=True),
    Column("campaign", String(64), primary_key=True),
)

campaign_tallies = Table(
    "campaign_tallies",
    metadata,
    Column("campaign", String(64), primary_key=True),
    Column("wave", Integer, primary_key=True),
    Column("state", String(24), primary_key=True),
    Column("n", Integer, nullable=False),
    Column("assigned", Integer, nullable=False),
)

tally_changes = Table(
    "tally_changes",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("campaign", String(64), nullable=False, index=True),
    Column("wave", Integer, nullable=False),
    Column("state", String(24), nullable=False),
    Column("n", Integer, nullable=False),
    Column("assigned", Integer, nullable=False),
)

campaign_cursors = Table(
    "campaign_cursors",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("after", BigInteger, nullable=False),
)

assignments = Table(
    "assignments",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("counter", BigInteger, nullable=False),
    Column("envelope", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("orders", Integer, nullable=False),
    Column("published", Boolean, nullable=False, index=True),
    Column("issued_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)

assignments_due = Table(
    "assignments_due",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("due_at", Float, nullable=False, index=True),
    Column("marks", Integer, nullable=False, default=0),
)

tellings = Table(
    "tellings",
    metadata,
    Column("origin", String(64), primary_key=True),
    Column("of_campaign", Boolean, nullable=False),
    Column("after", String(63), nullable=False),
)

default_releases = Table(
    "default_releases",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("model", String(63), nullable=False),
    Column("release", Integer, nullable=False),
    Column("pipeline", String(63), nullable=False),
    Column("audience", StoredJson, nullable=False),
    Column("set_at", Float, nullable=False),
    Column("set_by", String(128), nullable=False),
    Column("why", Text, nullable=False),
    Column("cleared_at", Float),
    Column("cleared_by", String(128)),
    Column("cleared_why", Text),
    Column("cursor", String(63)),
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

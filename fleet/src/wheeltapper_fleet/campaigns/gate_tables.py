"""Tables of telemetry gates.

* ``gate_panels``: the devices of each wave that gates listen to, each with the one that it is compared with.
  ``spoken`` is NULL until it was heard, then ``yes`` or ``no`` (it served another one as its control at that time, or
  nothing is asked of it); ``ending`` is ``yes`` once it was counted how its execution ended. ``until`` is the end of
  the time over which it was compared (Unix seconds).
* ``campaign_gates``: what each gate of a campaign has seen and says, by its place in the specification.
"""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, Integer, String, Table, Text

from wheeltapper_fleet.db.metadata import metadata
from wheeltapper_fleet.db.stored_json import StoredJson

__all__ = ["campaign_gates", "gate_panels"]

gate_panels = Table(
    "gate_panels",
    metadata,
    Column("campaign", String(64), primary_key=True),
    Column("device", String(63), primary_key=True),
    Column("wave", Integer, nullable=False),
    Column("control", String(63)),
    Column("spoken", String(3)),
    Column("ending", String(3)),
    Column("until", Float),
    Index("ix_gate_panels_campaign_control", "campaign", "control"),
)

campaign_gates = Table(
    "campaign_gates",
    metadata,
    Column("campaign", String(64), primary_key=True),
    Column("gate", Integer, primary_key=True),
    Column("kind", String(24), nullable=False),
    Column("wave", Integer, nullable=False),
    Column("state", StoredJson, nullable=False),
    Column("verdict", String(8), nullable=False),
    Column("sentence", Text, nullable=False),
    Column("devices", Integer, nullable=False),
    Column("p_value", Float),
    Column("judged_at", Float, nullable=False),
)

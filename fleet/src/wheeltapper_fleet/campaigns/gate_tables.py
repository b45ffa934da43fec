"""Tables of telemetry gates.

* ``gate_panels``: the devices of each wave that gates listen to, each with the one that it is compared with.
  ``spoken`` is NULL until it was heard, then ``yes`` or ``no`` (it served another one as its control at that time, or
  nothing is asked of it); ``ending`` is ``yes`` once it was counted how its execution ended. ``until`` is the end of
  the time over which it was compared (Unix seconds).
* ``campaign_gates``: what each gate of a campaign has seen and says, by its place in the specification.
* ``gate_points``: how it came to that: by how many ``devices`` had spoken, the logarithm of the ``evidence`` against
  the release at that time, and the means of updated devices and of those that they were compared with (NULL: of none).
"""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, Integer, String, Table, Text

from wheeltapper_fleet.db.metadata import metadata
from wheeltapper_fleet.db.stored_json import StoredJson

__all__ = ["campaign_gates", "gate_panels", "gate_points"]

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

gate_points = Table(
    "gate_points",
    metadata,
    Column("campaign", String(64), primary_key=True),
    Column("gate", Integer, primary_key=True),
    Column("devices", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("evidence", Float, nullable=False),
    Column("mean", Float, nullable=False),
    Column("control_mean", Float),
)

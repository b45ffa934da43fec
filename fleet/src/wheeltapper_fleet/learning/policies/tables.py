"""Tables of policies. Times are Unix seconds.

* ``policies``: one row a policy. ``text`` is its file as it was applied; ``state`` where it is
  (:class:`~wheeltapper_fleet.learning.policies.rules.PolicyState`), ``stage`` the same for lists; ``version`` rises
  with each change. ``due_at`` is when a turn looks at it again; NULL: never. ``problem`` says what keeps it from
  being looked at; ``event`` is its newest event.
* ``policy_events``: every arrow, forever. ``input`` is what the machine was told, so that its state can be computed
  again; ``cause`` is the event without which this one would not be.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, String, Table, Text

from wheeltapper_fleet.db.metadata import metadata
from wheeltapper_fleet.db.stored_json import StoredJson

__all__ = ["policies", "policy_events"]

policies = Table(
    "policies",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("model", String(63), nullable=False),
    Column("text", Text, nullable=False),
    Column("stage", String(16), nullable=False),
    Column("state", StoredJson, nullable=False),
    Column("version", Integer, nullable=False),
    Column("event", BigInteger, nullable=False),
    Column("due_at", Float, index=True),
    Column("problem", Text, nullable=False),
    Column("looked_at", Float),
    Column("found", Text, nullable=False),
    Column("applied_at", Float, nullable=False),
    Column("applied_by", String(128), nullable=False),
)

policy_events = Table(
    "policy_events",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("policy", String(63), nullable=False),
    Column("cycle", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("kind", String(24), nullable=False),
    Column("cause", BigInteger),
    Column("subject", String(200), nullable=False),
    Column("detail", Text, nullable=False),
    Column("input", StoredJson),
    Index(None, "policy", "id"),
)

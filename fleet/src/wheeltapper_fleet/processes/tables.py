"""Tables of processes.

    * ``processes``: one row a process that has run lately, by its name; ``seen_at`` is its newest beat.
    * ``leadership``: one row a part of the service that only one process does; ``epoch`` rises with each new leader.

Times are Unix seconds, by the database's clock.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Integer, String, Table

from wheeltapper_fleet.db.metadata import metadata

__all__ = ["leadership", "processes"]

processes = Table(
    "processes",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", String(40), nullable=False),
    Column("started_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
)

leadership = Table(
    "leadership",
    metadata,
    Column("part", String(16), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("holder", String(63), nullable=False),
    Column("since", Float, nullable=False),
)

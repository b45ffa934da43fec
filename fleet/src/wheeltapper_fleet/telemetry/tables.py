"""Tables of telemetry: messages as they came, how far each spool has come, and what pages and gates read of them.

    * ``messages``: one row a message that brought something new; ``body`` is its payload as it came (MessagePack, or
      zstd of it, for telemetry; JSON for alerts and reports). Where part of a message was stored before, ``body`` holds
      the new part. On PostgreSQL it has a partition a month (:mod:`wheeltapper_fleet.telemetry.partitions`).
    * ``spools``: per device and epoch, the number up to which nothing is outstanding (``contiguous``), the highest one
      known, and how many records are stored and how many the device dropped.
    * ``spool_gaps``: the runs of numbers below ``highest`` that are not stored; ``state`` says whether they are
      ``missing`` or ``dropped``.
    * ``latest``: per device and pipeline, the newest score, and the pace of its windows.
    * ``rollups``: sums over windows, by 300 s, hour and day.
    * ``drift_reports``: where the reports of drift of a release are among the messages.
    * ``refused``: messages that could not be accepted, counted by device and error code.

``received_at``, ``at``, ``first_seen_at`` and ``last_at`` are Unix seconds by the fleet's clock; ``t_s`` is the
machine's time in seconds, as the device reported it; ``bucket`` is in Unix seconds
(:func:`wheeltapper_fleet.telemetry.rollup.event_time` says of which clock).
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, LargeBinary, PrimaryKeyConstraint, String, Table, Text

from wheeltapper_fleet.db.metadata import metadata

__all__ = ["drift_reports", "latest", "messages", "refused", "rollups", "spool_gaps", "spools"]

spools = Table(
    "spools",
    metadata,
    Column("device", String(63), nullable=False),
    Column("epoch", String(16), nullable=False),
    Column("contiguous", BigInteger, nullable=False),
    Column("dropped", BigInteger, nullable=False, default=0),
    Column("first_seen_at", Float, nullable=False),
    Column("highest", BigInteger, nullable=False, default=0, server_default="0"),
    Column("stored", BigInteger, nullable=False, default=0, server_default="0"),
    PrimaryKeyConstraint("device", "epoch"),
)

spool_gaps = Table(
    "spool_gaps",
    metadata,
    Column("device", String(63), nullable=False),
    Column("epoch", String(16), nullable=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("state", String(8), nullable=False),
    PrimaryKeyConstraint("device", "epoch", "first_seq"),
    sqlite_with_rowid=False,
)

messages = Table(
    "messages",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("device", String(63), nullable=False),
    Column("epoch", String(16), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("records", Integer, nullable=False),
    Column("received_at", Float, nullable=False),
    Column("from_t_s", Float),
    Column("to_t_s", Float),
    Column("pipeline", String(63)),
    Column("body", LargeBinary, nullable=False),
    Index(None, "device", "received_at", "id"),
)

latest = Table(
    "latest",
    metadata,
    Column("device", String(63), nullable=False),
    Column("pipeline", String(63), nullable=False),
    Column("epoch", String(16), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("received_at", Float, nullable=False),
    Column("last_t_s", Float, nullable=False),
    Column("windows", BigInteger, nullable=False),
    Column("paced", Integer, nullable=False),
    Column("arrival_pace_s", Float, nullable=False),
    Column("machine_pace_s", Float, nullable=False),
    Column("at", Float),
    Column("t_s", Float),
    Column("model", String(63)),
    Column("release", Integer),
    Column("score", Float),
    Column("severity", String(16)),
    Column("label", String(64)),
    Column("value", Float),
    Column("zone", String(8)),
    PrimaryKeyConstraint("device", "pipeline"),
    Index("ix_latest_severity", "severity"),
    sqlite_with_rowid=False,
)

rollups = Table(
    "rollups",
    metadata,
    Column("device", String(63), nullable=False),
    Column("pipeline", String(63), nullable=False),
    Column("span", Integer, nullable=False),
    Column("bucket", BigInteger, nullable=False),
    Column("model", String(63), nullable=False),
    Column("release", Integer, nullable=False),
    Column("windows", BigInteger, nullable=False),
    Column("scored", BigInteger, nullable=False),
    Column("missing", BigInteger, nullable=False),
    Column("score_sum", Float, nullable=False),
    Column("score_sq_sum", Float, nullable=False),
    Column("score_min", Float),
    Column("score_max", Float),
    Column("latency_sum_ms", Float, nullable=False),
    Column("latency_max_ms", Float),
    Column("latency_count", BigInteger, nullable=False),
    Column("warnings", BigInteger, nullable=False),
    Column("criticals", BigInteger, nullable=False),
    Column("alerts", BigInteger, nullable=False),
    PrimaryKeyConstraint("device", "pipeline", "span", "bucket", "model", "release"),
    sqlite_with_rowid=False,
)

drift_reports = Table(
    "drift_reports",
    metadata,
    Column("device", String(63), nullable=False),
    Column("epoch", String(16), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("model", String(63), nullable=False),
    Column("release", Integer, nullable=False),
    Column("received_at", Float, nullable=False),
    PrimaryKeyConstraint("device", "epoch", "seq"),
    Index(None, "model", "release", "received_at"),
)

refused = Table(
    "refused",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("code", String(80), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("last_at", Float, nullable=False),
    Column("last_detail", Text, nullable=False),
)

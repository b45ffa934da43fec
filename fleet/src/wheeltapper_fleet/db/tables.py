"""The tables of the fleet's database, for SQLite and PostgreSQL alike.

Times are Unix seconds (float). JSON columns hold what msgspec or pydantic encoded. Migrations in ``migrations/`` make
the same tables; a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

devices = Table(
    "devices",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("tags", JSON, nullable=False),
    Column("enrolled_at", Float, nullable=False),
    Column("certificate_sha256", String(64), nullable=False),
    Column("certificate_expires_at", Float, nullable=False),
    Column("revoked", Boolean, nullable=False, default=False),
    Column("online", Boolean, nullable=False, default=False),
    Column("last_seen_at", Float),
    Column("status", JSON),
    Column("counter", BigInteger, nullable=False, default=0),
)

enrolment_tokens = Table(
    "enrolment_tokens",
    metadata,
    Column("secret_sha256", String(64), primary_key=True),
    Column("device", String(63), nullable=False),
    Column("tags", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("used_at", Float),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("secret_sha256", String(64), primary_key=True),
    Column("name", String(63), nullable=False),
    Column("created_at", Float, nullable=False),
)

spools = Table(
    "spools",
    metadata,
    Column("device", String(63), nullable=False),
    Column("epoch", String(16), nullable=False),
    Column("contiguous", BigInteger, nullable=False),
    Column("dropped", BigInteger, nullable=False, default=0),
    Column("first_seen_at", Float, nullable=False),
    PrimaryKeyConstraint("device", "epoch"),
)

records = Table(
    "records",
    metadata,
    Column("device", String(63), nullable=False),
    Column("epoch", String(16), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("received_at", Float, nullable=False),
    Column("pipeline", String(63)),
    Column("window", BigInteger),
    Column("t_s", Float),
    Column("model", String(63)),
    Column("release", Integer),
    Column("score", Float),
    Column("severity", String(16)),
    Column("latency_ms", Float),
    Column("body", JSON),
    PrimaryKeyConstraint("device", "epoch", "seq"),
    Index(None, "device", "received_at"),
    Index(
        "ix_records_drift",
        "model",
        "release",
        "received_at",
        sqlite_where=text("kind = 'report'"),
        postgresql_where=text("kind = 'report'"),
    ),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("device", String(63), nullable=False, index=True),
    Column("epoch", String(16), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("pipeline", String(63), nullable=False),
    Column("window", BigInteger, nullable=False),
    Column("t_s", Float, nullable=False),
    Column("at", Float, nullable=False),
    Column("model", String(63), nullable=False),
    Column("release", Integer, nullable=False),
    Column("score", Float, nullable=False),
    Column("severity", String(16), nullable=False),
    Column("raised", Boolean, nullable=False),
    Column("reasons", JSON, nullable=False),
    Index("uq_alerts_record", "device", "epoch", "seq", unique=True),
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

commands = Table(
    "commands",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("device", String(63), nullable=False, index=True),
    Column("body", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("answered_at", Float),
    Column("answer", JSON),
)

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
)

releases = Table(
    "releases",
    metadata,
    Column("model", String(63), nullable=False),
    Column("release", Integer, nullable=False),
    Column("path", String(200), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("manifest", JSON, nullable=False),
    Column("published_at", Float, nullable=False),
    Column("published_by", String(128), nullable=False),
    PrimaryKeyConstraint("model", "release"),
)

campaigns = Table(
    "campaigns",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("state", String(24), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("waves", JSON, nullable=False),
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

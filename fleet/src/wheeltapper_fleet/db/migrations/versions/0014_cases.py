"""Alerts become cases: what people act on, its log, maintenance, labels.

Alerts that are there already wait for triage like new ones: what is still raised becomes a case. They keep their order,
and the time at which they happened is the device's.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_WAITING = sa.text("triaged = FALSE")
_OPEN = sa.text("state <> 'resolved'")


def upgrade() -> None:
    op.add_column("alerts", sa.Column("happened_at", sa.Float(), nullable=False, server_default="0"))
    op.add_column("alerts", sa.Column("triaged", sa.Boolean(), nullable=False, server_default=sa.text("FALSE")))
    op.add_column("alerts", sa.Column("case_id", sa.Integer(), nullable=True))
    op.add_column("alerts", sa.Column("point", sa.String(length=63), nullable=True))
    op.add_column("alerts", sa.Column("silenced", sa.Boolean(), nullable=False, server_default=sa.text("FALSE")))
    op.execute("UPDATE alerts SET happened_at = at")
    op.drop_index(op.f("ix_alerts_device"), "alerts")
    for column in ("device", "case_id", "point", "model", "severity"):
        op.create_index(f"ix_alerts_{column}", "alerts", [column, "id"])
    op.create_index("ix_alerts_waiting", "alerts", ["id"], sqlite_where=_WAITING, postgresql_where=_WAITING)
    _create_cases()
    op.create_table(
        "case_log",
        sa.Column("id", _Id, autoincrement=True, nullable=False),
        sa.Column("case_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("who", sa.String(length=128), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_case_log")),
    )
    op.create_index("ix_case_log_case_id", "case_log", ["case_id", "id"])
    op.create_table(
        "silences",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("asset", sa.String(length=63), nullable=True),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("from_at", sa.Float(), nullable=False),
        sa.Column("to_at", sa.Float(), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("who", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_silences")),
    )
    op.create_index("ix_silences_to_at", "silences", ["to_at", "id"])
    _create_labels()


def _create_cases() -> None:
    texts = {"key": 200, "kind": 16, "state": 16, "attention": 16, "severity": 16, "worst": 16}
    texts |= {"device": 63, "pipeline": 63, "model": 63, "criticality": 8}
    optional = {"point": 63, "machine": 63, "site": 120, "label": 64, "zone": 8, "resolved_by": 128, "assignee": 128}
    optional |= {"verdict": 16, "part": 120, "work_order": 120, "told": 16}
    numbers = ("version", "release", "alerts", "silenced", "episode", "episode_alerts")
    times = ("risk", "episode_at", "first_at", "last_at", "opened_at", "changed_at")
    later = ("score", "first_score", "acknowledged_at", "resolved_at", "failed_at", "look_at")
    op.create_table(
        "cases",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        *(sa.Column(name, sa.String(length=length), nullable=False) for name, length in texts.items()),
        *(sa.Column(name, sa.String(length=length), nullable=True) for name, length in optional.items()),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in numbers),
        *(sa.Column(name, sa.Float(), nullable=False) for name in times),
        *(sa.Column(name, sa.Float(), nullable=True) for name in later),
        sa.Column("why", sa.JSON(), nullable=False),
        sa.Column("raised", sa.Boolean(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("parent", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cases")),
    )
    op.create_index("ix_cases_open", "cases", ["risk", "id"], sqlite_where=_OPEN, postgresql_where=_OPEN)
    for column in ("key", "state", "point", "machine", "site", "device", "parent"):
        op.create_index(f"ix_cases_{column}", "cases", [column, "id"])
    op.create_index("ix_cases_model", "cases", ["model", "release", "opened_at"])
    op.create_index("ix_cases_look_at", "cases", ["look_at"])


def _create_labels() -> None:
    op.create_table(
        "labels",
        sa.Column("id", _Id, autoincrement=True, nullable=False),
        sa.Column("case_id", sa.Integer(), nullable=False),
        sa.Column("episode", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("pipeline", sa.String(length=63), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("point", sa.String(length=63), nullable=True),
        sa.Column("machine", sa.String(length=63), nullable=True),
        sa.Column("site", sa.String(length=120), nullable=True),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("part", sa.String(length=120), nullable=True),
        sa.Column("from_at", sa.Float(), nullable=False),
        sa.Column("to_at", sa.Float(), nullable=False),
        sa.Column("from_t_s", sa.Float(), nullable=False),
        sa.Column("to_t_s", sa.Float(), nullable=False),
        sa.Column("failed_at", sa.Float(), nullable=True),
        sa.Column("resolved_at", sa.Float(), nullable=False),
        sa.Column("who", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_labels")),
    )
    op.create_index("ix_labels_case_id", "labels", ["case_id", "episode", "device", "pipeline"], unique=True)
    op.create_index("ix_labels_model", "labels", ["model", "resolved_at"])
    op.create_index("ix_labels_device", "labels", ["device", "pipeline", "from_at"])
    op.create_index("ix_labels_resolved_at", "labels", ["resolved_at"])


def downgrade() -> None:
    for table in ("labels", "silences", "case_log", "cases"):
        op.drop_table(table)
    for column in ("waiting", "device", "case_id", "point", "model", "severity"):
        op.drop_index(f"ix_alerts_{column}", "alerts")
    op.create_index(op.f("ix_alerts_device"), "alerts", ["device"])
    for name in ("silenced", "point", "case_id", "triaged", "happened_at"):
        op.drop_column("alerts", name)

"""Campaigns decide on counts: tallies with their changes, an index for each question, and who is to be told anew."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("campaigns") as batch:
        batch.add_column(sa.Column("due_at", sa.Float(), nullable=True))
        batch.create_index(op.f("ix_campaigns_due_at"), ["due_at"])
    with op.batch_alter_table("executions") as batch:
        batch.add_column(sa.Column("ended_at", sa.Float(), nullable=True))
        batch.drop_index(op.f("ix_executions_campaign"))
        batch.drop_index(op.f("ix_executions_default_release"))
    with op.batch_alter_table("assignments_due") as batch:
        batch.add_column(sa.Column("marks", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "campaign_tallies",
        sa.Column("campaign", sa.String(length=64), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=24), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("assigned", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("campaign", "wave", "state", name=op.f("pk_campaign_tallies")),
    )
    op.create_table(
        "tally_changes",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("campaign", sa.String(length=64), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=24), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("assigned", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tally_changes")),
    )
    op.create_index(op.f("ix_tally_changes_campaign"), "tally_changes", ["campaign"])
    op.create_table(
        "tellings",
        sa.Column("origin", sa.String(length=64), nullable=False),
        sa.Column("of_campaign", sa.Boolean(), nullable=False),
        sa.Column("after", sa.String(length=63), nullable=False),
        sa.PrimaryKeyConstraint("origin", name=op.f("pk_tellings")),
    )
    op.execute(
        "UPDATE executions SET ended_at = updated_at"
        " WHERE state IN ('CANCELLED', 'COMMITTED', 'FAILED', 'REJECTED', 'ROLLED_BACK', 'SUPERSEDED')"
    )
    op.execute(
        "INSERT INTO campaign_tallies (campaign, wave, state, n, assigned)"
        " SELECT campaign, wave, state, COUNT(*), COUNT(assigned_at) FROM executions"
        " WHERE campaign IS NOT NULL GROUP BY campaign, wave, state"
    )
    op.execute(
        "UPDATE campaigns SET due_at = 0 WHERE state NOT IN ('DRAFT', 'AWAITING_APPROVAL', 'COMPLETED', 'ROLLED_BACK')"
    )
    op.create_index("ix_executions_campaign_device", "executions", ["campaign", "device"], unique=True)
    op.create_index("ix_executions_campaign_wave", "executions", ["campaign", "wave", "device"])
    op.create_index("ix_executions_campaign_state", "executions", ["campaign", "state", "wave", "device"])
    op.create_index("ix_executions_default_release_device", "executions", ["default_release", "device"])
    unfinished = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_executions_deadline",
        "executions",
        ["deadline_at"],
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )


def downgrade() -> None:
    for name in ("deadline", "default_release_device", "campaign_state", "campaign_wave", "campaign_device"):
        op.drop_index(f"ix_executions_{name}", table_name="executions")
    for table in ("tellings", "tally_changes", "campaign_tallies"):
        op.drop_table(table)
    with op.batch_alter_table("assignments_due") as batch:
        batch.drop_column("marks")
    with op.batch_alter_table("executions") as batch:
        batch.drop_column("ended_at")
        batch.create_index(op.f("ix_executions_default_release"), ["default_release"])
        batch.create_index(op.f("ix_executions_campaign"), ["campaign"])
    with op.batch_alter_table("campaigns") as batch:
        batch.drop_index(op.f("ix_campaigns_due_at"))
        batch.drop_column("due_at")

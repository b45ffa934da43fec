"""The channel that an alert is about, and the limits of triage that somebody has set."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("alerts", sa.Column("channel", sa.String(length=64), nullable=True))
    op.create_table(
        "triage_limits",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("set_at", sa.Float(), nullable=False),
        sa.Column("set_by", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_triage_limits")),
    )


def downgrade() -> None:
    op.drop_table("triage_limits")
    with op.batch_alter_table("alerts") as batch:
        batch.drop_column("channel")

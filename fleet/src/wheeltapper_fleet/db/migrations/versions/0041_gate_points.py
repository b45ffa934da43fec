"""How telemetry gates came to what they say."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gate_points",
        sa.Column("campaign", sa.String(length=64), nullable=False),
        sa.Column("gate", sa.Integer(), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("evidence", sa.Float(), nullable=False),
        sa.Column("mean", sa.Float(), nullable=False),
        sa.Column("control_mean", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("campaign", "gate", "devices", name=op.f("pk_gate_points")),
    )

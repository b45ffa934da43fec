"""Notices of devices, and the changes of instance that one of them follows from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("devices", sa.Column("instances", sa.JSON(), nullable=True))
    op.create_table(
        "device_notices",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("code", sa.String(length=80), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("first_at", sa.Float(), nullable=False),
        sa.Column("last_at", sa.Float(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("device", "code", name=op.f("pk_device_notices")),
    )


def downgrade() -> None:
    op.drop_table("device_notices")
    op.drop_column("devices", "instances")

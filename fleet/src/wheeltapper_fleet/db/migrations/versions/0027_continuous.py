"""Campaigns that devices may join later, and up to where the log of devices was followed for them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("campaigns", sa.Column("continuous", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "campaign_cursors",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("after", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_campaign_cursors")),
    )
    op.execute("INSERT INTO campaign_cursors (name, after) SELECT 'device_log', COALESCE(MAX(id), 0) FROM device_log")


def downgrade() -> None:
    op.drop_table("campaign_cursors")
    with op.batch_alter_table("campaigns") as batch:
        batch.drop_column("continuous")

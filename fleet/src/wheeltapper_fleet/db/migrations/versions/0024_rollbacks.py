"""Campaigns that take devices back name the one that committed on them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("campaigns", sa.Column("taken_back", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("campaigns", sa.Column("takes_back", sa.String(length=64), nullable=True))
    op.create_index(op.f("ix_campaigns_takes_back"), "campaigns", ["takes_back"])


def downgrade() -> None:
    with op.batch_alter_table("campaigns") as batch:
        batch.drop_index(op.f("ix_campaigns_takes_back"))
        batch.drop_column("takes_back")
        batch.drop_column("taken_back")

"""API tokens that are limited to some permissions, and to the devices of a query."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_tokens", sa.Column("permissions", sa.String(length=500), nullable=True))
    op.add_column("api_tokens", sa.Column("scope", sa.String(length=4000), nullable=False, server_default=""))


def downgrade() -> None:
    with op.batch_alter_table("api_tokens") as batch:
        batch.drop_column("scope")
        batch.drop_column("permissions")

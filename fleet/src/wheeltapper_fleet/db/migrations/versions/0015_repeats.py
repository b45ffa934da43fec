"""Requests that may be repeated, with their answers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "repeats",
        sa.Column("who", sa.String(length=200), nullable=False),
        sa.Column("key", sa.String(length=104), nullable=False),
        sa.Column("request_sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("media_type", sa.String(length=120), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("who", "key", name=op.f("pk_repeats")),
    )
    op.create_index(op.f("ix_repeats_created_at"), "repeats", ["created_at"])


def downgrade() -> None:
    op.drop_index(op.f("ix_repeats_created_at"), table_name="repeats")
    op.drop_table("repeats")

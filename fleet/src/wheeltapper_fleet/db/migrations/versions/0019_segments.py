"""The table of segments: raw history on a folder or S3."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "segments",
        sa.Column("first_message", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("last_message", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("from_at", sa.Float(), nullable=False),
        sa.Column("to_at", sa.Float(), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("unreadable", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("path", sa.String(200), nullable=False),
        sa.Column("written_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("first_message", name="pk_segments"),
    )
    op.create_index("ix_segments_last_message", "segments", ["last_message"])
    op.create_index("ix_segments_to_at", "segments", ["to_at"])


def downgrade() -> None:
    op.drop_table("segments")

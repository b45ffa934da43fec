"""Which version of a dataset a release was trained on. Earlier releases were trained on none."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "release_datasets",
        sa.Column("dataset", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("split", sa.String(length=200), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("dataset", "version", "model", "release", name=op.f("pk_release_datasets")),
    )


def downgrade() -> None:
    op.drop_table("release_datasets")

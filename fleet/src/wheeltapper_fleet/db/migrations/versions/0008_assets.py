"""Assets, and which device's pipeline and channel measures a point."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "assets",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("parent", sa.String(length=63), nullable=True),
        sa.Column("site", sa.String(length=63), nullable=False),
        sa.Column("machine", sa.String(length=63), nullable=True),
        sa.Column("component", sa.String(length=63), nullable=True),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("criticality", sa.String(length=8), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("retired_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assets")),
    )
    op.create_index(op.f("ix_assets_parent"), "assets", ["parent"])
    for column in ("site", "machine", "component", "kind"):
        op.create_index(f"ix_assets_{column}", "assets", [column, "id"])
    op.create_table(
        "point_mappings",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("point", sa.String(length=63), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("pipeline", sa.String(length=63), nullable=False),
        sa.Column("channel", sa.String(length=64), nullable=False),
        sa.Column("from_at", sa.Float(), nullable=False),
        sa.Column("to_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_point_mappings")),
    )
    op.create_index("ix_point_mappings_device", "point_mappings", ["device", "pipeline", "from_at"])
    op.create_index("ix_point_mappings_point", "point_mappings", ["point", "from_at"])


def downgrade() -> None:
    op.drop_table("point_mappings")
    op.drop_table("assets")

"""Assignments are composed from all campaigns and default releases; an outbox names the devices that wait for one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("executions") as batch:
        batch.alter_column("campaign", existing_type=sa.String(length=64), nullable=True)
        batch.add_column(sa.Column("default_release", sa.String(length=64), nullable=True))
        batch.add_column(sa.Column("pipelines", sa.JSON(), nullable=True))
        batch.create_index(op.f("ix_executions_default_release"), ["default_release"])
    with op.batch_alter_table("assignments") as batch:
        batch.drop_column("execution")
        batch.add_column(sa.Column("digest", sa.String(length=64), nullable=False, server_default=""))
        batch.add_column(sa.Column("orders", sa.Integer(), nullable=False, server_default="1"))
        batch.add_column(sa.Column("published", sa.Boolean(), nullable=False, server_default=sa.true()))
        batch.create_index(op.f("ix_assignments_published"), ["published"])
    op.create_table(
        "assignments_due",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("due_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_assignments_due")),
    )
    op.create_index(op.f("ix_assignments_due_due_at"), "assignments_due", ["due_at"])
    # What is signed so far may name an execution that was called off since: every device gets a newer one.
    op.execute("INSERT INTO assignments_due (device, due_at) SELECT device, 0 FROM assignments")
    op.create_table(
        "default_releases",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("pipeline", sa.String(length=63), nullable=False),
        sa.Column("audience", sa.JSON(), nullable=False),
        sa.Column("set_at", sa.Float(), nullable=False),
        sa.Column("set_by", sa.String(length=128), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("cleared_at", sa.Float(), nullable=True),
        sa.Column("cleared_by", sa.String(length=128), nullable=True),
        sa.Column("cleared_why", sa.Text(), nullable=True),
        sa.Column("cursor", sa.String(length=63), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_default_releases")),
    )


def downgrade() -> None:
    op.drop_table("default_releases")
    op.drop_table("assignments_due")
    with op.batch_alter_table("assignments") as batch:
        batch.drop_index(op.f("ix_assignments_published"))
        batch.drop_column("published")
        batch.drop_column("orders")
        batch.drop_column("digest")
        batch.add_column(sa.Column("execution", sa.String(length=64), nullable=False, server_default=""))
    op.execute("DELETE FROM executions WHERE campaign IS NULL")
    with op.batch_alter_table("executions") as batch:
        batch.drop_index(op.f("ix_executions_default_release"))
        batch.drop_column("pipelines")
        batch.drop_column("default_release")
        batch.alter_column("campaign", existing_type=sa.String(length=64), nullable=False)

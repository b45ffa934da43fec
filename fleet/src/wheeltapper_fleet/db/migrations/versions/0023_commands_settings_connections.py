"""Commands with who asked and an index of those that wait, bundles that answer them, settings, and connections."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("commands", sa.Column("who", sa.String(length=128), nullable=False, server_default=""))
    waiting = sa.text("answered_at IS NULL")
    op.create_index(
        "ix_commands_open", "commands", ["expires_at", "id"], sqlite_where=waiting, postgresql_where=waiting
    )
    op.create_table(
        "command_bundles",
        sa.Column("command", sa.String(length=64), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("command", name=op.f("pk_command_bundles")),
    )
    op.create_table(
        "device_settings",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("desired", sa.JSON(), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False),
        sa.Column("reported_version", sa.BigInteger(), nullable=True),
        sa.Column("reported_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_device_settings")),
    )
    op.create_table(
        "device_connections",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(length=16), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device_connections")),
    )
    op.create_index("ix_device_connections_device_id", "device_connections", ["device", "id"])


def downgrade() -> None:
    for table in ("device_connections", "device_settings", "command_bundles"):
        op.drop_table(table)
    op.drop_index("ix_commands_open", "commands")
    op.drop_column("commands", "who")

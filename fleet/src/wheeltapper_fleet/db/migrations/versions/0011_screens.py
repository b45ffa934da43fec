"""Indexes of what screens show in order: campaigns, commands and recordings by time, pipelines that warn."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_INDEXES = {
    "ix_latest_severity": ("latest", ["severity"]),
    "ix_commands_created_at_id": ("commands", ["created_at", "id"]),
    "ix_captures_received_at_command": ("captures", ["received_at", "command"]),
    "ix_campaigns_created_at_id": ("campaigns", ["created_at", "id"]),
}


def upgrade() -> None:
    for name, (table, columns) in _INDEXES.items():
        op.create_index(name, table, columns)


def downgrade() -> None:
    for name, (table, _) in _INDEXES.items():
        op.drop_index(name, table_name=table)

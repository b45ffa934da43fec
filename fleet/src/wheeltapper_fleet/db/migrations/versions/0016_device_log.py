"""What happened to devices, who did it and why; tokens are found by their device."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "device_log",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("who", sa.String(length=128), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device_log")),
    )
    op.create_index("ix_device_log_device_id", "device_log", ["device", "id"])
    op.drop_index("ix_devices_last_seen_at", "devices")
    op.create_index("ix_devices_seen_id", "devices", [sa.text("coalesce(last_seen_at, 0.0)"), "id"])
    op.create_index(op.f("ix_enrolment_tokens_device"), "enrolment_tokens", ["device"])


def downgrade() -> None:
    op.drop_index(op.f("ix_enrolment_tokens_device"), "enrolment_tokens")
    op.drop_index("ix_devices_seen_id", "devices")
    op.create_index("ix_devices_last_seen_at", "devices", ["last_seen_at"])
    op.drop_table("device_log")

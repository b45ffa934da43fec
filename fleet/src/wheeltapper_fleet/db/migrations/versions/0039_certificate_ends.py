"""An index of when the certificates of devices end, which every page asks for."""

from __future__ import annotations

from alembic import op

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_devices_certificate_ends", "devices", ["state", "certificate_expires_at"])


def downgrade() -> None:
    op.drop_index("ix_devices_certificate_ends", "devices")

"""A device's next certificate, which replaces the present one when the device shows it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("devices", sa.Column("next_certificate_sha256", sa.String(64)))
    op.add_column("devices", sa.Column("next_certificate_expires_at", sa.Float))


def downgrade() -> None:
    op.drop_column("devices", "next_certificate_expires_at")
    op.drop_column("devices", "next_certificate_sha256")

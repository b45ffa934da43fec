"""Reports of drift are found by release and time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    reports = sa.text("kind = 'report'")
    op.create_index(
        "ix_records_drift",
        "records",
        ["model", "release", "received_at"],
        sqlite_where=reports,
        postgresql_where=reports,
    )


def downgrade() -> None:
    op.drop_index("ix_records_drift", "records")

"""What could not be delivered has an index of its own; the one of all states misled the search for what waits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

_DEAD, _WAITING = sa.text("state = 'dead'"), sa.text("state = 'waiting'")


def upgrade() -> None:
    op.drop_index("ix_notifications_state", "notifications")
    op.create_index("ix_notifications_dead", "notifications", ["id"], sqlite_where=_DEAD, postgresql_where=_DEAD)
    _waiting("target", "next_at", "id")


def downgrade() -> None:
    op.drop_index("ix_notifications_dead", "notifications")
    op.create_index("ix_notifications_state", "notifications", ["state", "id"])
    _waiting("target", "id")


def _waiting(*columns: str) -> None:
    op.drop_index("ix_notifications_waiting", "notifications")
    op.create_index(
        "ix_notifications_waiting",
        "notifications",
        list(columns),
        sqlite_where=_WAITING,
        postgresql_where=_WAITING,
    )

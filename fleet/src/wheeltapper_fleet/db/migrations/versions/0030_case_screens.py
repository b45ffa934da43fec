"""Cases are listed by risk within what triage says of them, their state and their site."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

_OPEN = sa.text("state <> 'resolved'")


def upgrade() -> None:
    for column in ("attention", "state", "site"):
        name = f"ix_cases_open_{column}"
        op.create_index(name, "cases", [column, "risk", "id"], sqlite_where=_OPEN, postgresql_where=_OPEN)
    op.create_index("ix_cases_attention", "cases", ["attention", "id"])


def downgrade() -> None:
    op.drop_index("ix_cases_attention", "cases")
    for column in ("attention", "state", "site"):
        op.drop_index(f"ix_cases_open_{column}", "cases")

"""A chain of digests through the record of changes; the changes so far are linked in their order."""

from __future__ import annotations

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

_SLICE = 1000
_COVERED = ("at", "who", "via", "route", "subject", "status", "request", "address")


def upgrade() -> None:
    op.add_column("audit", sa.Column("digest", sa.String(length=64), nullable=False, server_default=""))
    chain = op.create_table(
        "audit_chain",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("cut_digest", sa.String(length=64), nullable=False),
        sa.Column("cut_up_to", sa.Float(), nullable=True),
        sa.Column("cut_rows", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_chain")),
    )
    digest = _link(op.get_bind())
    op.execute(sa.insert(chain).values(id=1, digest=digest, cut_digest="", cut_up_to=None, cut_rows=0))


def _link(connection: sa.Connection) -> str:
    """Give each change its digest, some at a time; returns that of the last one."""
    audit = sa.table("audit", *(sa.column(name) for name in ("id", "digest", *_COVERED)))
    change = sa.update(audit).where(audit.c.id == sa.bindparam("of")).values(digest=sa.bindparam("new"))
    digest, last = "", 0
    while True:
        wanted = sa.select(audit).where(audit.c.id > last).order_by(audit.c.id).limit(_SLICE)
        rows = connection.execute(wanted).all()
        if not rows:
            return digest
        changes = []
        for row in rows:
            values = dict(row._mapping)
            subject = values["subject"]
            values["subject"] = json.loads(subject) if isinstance(subject, str | bytes) else subject
            listed = [digest, *(values[name] for name in _COVERED)]
            text = json.dumps(listed, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
            digest, last = hashlib.sha256(text.encode("ascii")).hexdigest(), row.id
            changes.append({"of": row.id, "new": digest})
        connection.execute(change, changes)


def downgrade() -> None:
    op.drop_table("audit_chain")
    with op.batch_alter_table("audit") as batch:
        batch.drop_column("digest")

"""Telemetry gates of campaigns: whom they listen to, and what each says."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from wheeltapper_fleet.db.stored_json import StoredJson

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gate_panels",
        sa.Column("campaign", sa.String(64), primary_key=True),
        sa.Column("device", sa.String(63), primary_key=True),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("control", sa.String(63)),
        sa.Column("spoken", sa.String(3)),
        sa.Column("ending", sa.String(3)),
        sa.Column("until", sa.Float()),
    )
    op.create_index("ix_gate_panels_campaign_control", "gate_panels", ["campaign", "control"])
    op.create_table(
        "campaign_gates",
        sa.Column("campaign", sa.String(64), primary_key=True),
        sa.Column("gate", sa.Integer(), primary_key=True),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("state", StoredJson(), nullable=False),
        sa.Column("verdict", sa.String(8), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("p_value", sa.Float()),
        sa.Column("judged_at", sa.Float(), nullable=False),
    )

"""Alerts keep the label, the value with its unit, and the zone that the device sent. Those of older alerts are in their
records."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "label": sa.String(64),
    "value": sa.Float(),
    "unit": sa.String(64),
    "zone": sa.String(8),
}


def upgrade() -> None:
    for name, kind in _COLUMNS.items():
        op.add_column("alerts", sa.Column(name, kind, nullable=True))
    get = (
        "records.body ->> '{}'" if op.get_bind().dialect.name == "postgresql" else "json_extract(records.body, '$.{}')"
    )
    same = "records.device = alerts.device AND records.epoch = alerts.epoch AND records.seq = alerts.seq"
    for name in _COLUMNS:
        said = f"CAST({get.format(name)} AS FLOAT)" if name == "value" else get.format(name)
        op.execute(f"UPDATE alerts SET {name} = (SELECT {said} FROM records WHERE {same})")  # noqa: S608  # fixed names


def downgrade() -> None:
    for name in reversed(_COLUMNS):
        op.drop_column("alerts", name)

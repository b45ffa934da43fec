"""Reads alerts for the API and the page."""

from __future__ import annotations

from sqlalchemy import Engine, select

from wheeltapper_fleet.alerts.schemas import AlertView
from wheeltapper_fleet.alerts.tables import alerts
from wheeltapper_fleet.db.engine import reading
from wheeltapper_protocols.wire.messages import NO_SCORE

__all__ = ["list_alerts"]


def list_alerts(engine: Engine, limit: int = 200, after_id: int = 0) -> list[AlertView]:
    """The newest alerts, newest first: at most ``limit``, and only those with an id above ``after_id``."""
    query = select(alerts).where(alerts.c.id > after_id).order_by(alerts.c.id.desc()).limit(limit)
    with reading(engine) as connection:
        rows = connection.execute(query).all()
    return [
        AlertView(
            **{name: row._mapping[name] for name in AlertView.model_fields if name not in ("reasons", "score")},
            score=None if row.label == NO_SCORE else row.score,
            reasons=[each for each in row.reasons or () if isinstance(each, dict)],
        )
        for row in rows
    ]

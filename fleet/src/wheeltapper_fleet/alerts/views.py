"""Reads alerts for the API and the page."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, Row, select

from wheeltapper_fleet.alerts.schemas import AlertView
from wheeltapper_fleet.alerts.tables import alerts
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_protocols.wire.messages import NO_SCORE

__all__ = ["list_alerts"]


def list_alerts(engine: Engine, limit: int = DEFAULT_LIMIT, after: str | None = None) -> Page[AlertView]:
    """A page of the alerts, newest first.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    with reading(engine) as connection:
        rows, following = page_of(connection, select(alerts), (alerts.c.id,), limit=limit, after=after, descending=True)
    return Page([_view(row) for row in rows], following)


def _view(row: Row[Any]) -> AlertView:
    return AlertView(
        **{name: row._mapping[name] for name in AlertView.model_fields if name not in ("reasons", "score")},
        score=None if row.label == NO_SCORE else row.score,
        reasons=[each for each in row.reasons or () if isinstance(each, dict)],
    )

"""Reads releases for the API and the page."""

from __future__ import annotations

from sqlalchemy import Engine, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.registry.schemas import ReleaseView
from wheeltapper_fleet.registry.tables import releases

__all__ = ["list_releases"]


def list_releases(engine: Engine) -> list[ReleaseView]:
    """All releases, by model and number."""
    columns = [releases.c[name] for name in ReleaseView.model_fields]
    with reading(engine) as connection:
        rows = connection.execute(select(*columns).order_by(releases.c.model, releases.c.release))
        return [ReleaseView(**row._mapping) for row in rows]

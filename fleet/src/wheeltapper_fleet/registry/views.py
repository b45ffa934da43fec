"""Reads releases for the API and the page."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, func, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.registry.schemas import ReleaseView
from wheeltapper_fleet.registry.tables import releases

__all__ = ["count_releases", "list_releases"]


def list_releases(engine: Engine, limit: int = DEFAULT_LIMIT, after: str | None = None) -> Page[ReleaseView]:
    """A page of the releases, by model and number.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    query = select(*(releases.c[name] for name in ReleaseView.model_fields))
    key = (releases.c.model, releases.c.release)
    with reading(engine) as connection:
        rows, following = page_of(connection, query, key, limit=limit, after=after)
    return Page([ReleaseView(**row._mapping) for row in rows], following)


def count_releases(connection: Connection) -> int:
    """How many releases there are, of all models."""
    return int(connection.execute(select(func.count()).select_from(releases)).scalar_one())

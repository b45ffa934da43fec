"""Reads releases for the API and the page."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Engine, func, select, tuple_

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.registry.schemas import ModelView, ReleaseView
from wheeltapper_fleet.registry.tables import release_aliases, releases

__all__ = [
    "count_releases",
    "list_model_releases",
    "list_models",
    "list_releases",
    "manifests_of",
    "published_since",
]


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


def published_since(engine: Engine, since: float, limit: int) -> list[ReleaseView]:
    """The releases that were published since ``since`` (Unix seconds), newest first, at most ``limit``.

    Costs a pass over the releases, which are as many as people made; their manifests are not read.
    """
    query = select(*(releases.c[name] for name in ReleaseView.model_fields)).where(releases.c.published_at >= since)
    with reading(engine) as connection:
        rows = connection.execute(query.order_by(releases.c.published_at.desc(), releases.c.model).limit(limit)).all()
    return [ReleaseView(**row._mapping) for row in rows]


def manifests_of(connection: Connection, wanted: Collection[tuple[str, int]]) -> dict[tuple[str, int], dict[str, Any]]:
    """The manifests of ``wanted`` (model, release), as stored; those that are not there are left out.

    A manifest is as long as its model's thresholds and bins, so ask for few.
    """
    key = tuple_(releases.c.model, releases.c.release)
    query = select(releases.c.model, releases.c.release, releases.c.manifest).where(key.in_(sorted(wanted)))
    rows = connection.execute(query).all() if wanted else []
    return {(row.model, row.release): row.manifest for row in rows if isinstance(row.manifest, dict)}


def list_model_releases(
    engine: Engine, model: str, limit: int = DEFAULT_LIMIT, after: str | None = None
) -> Page[ReleaseView]:
    """A page of the releases of a model, newest first.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    query = select(*(releases.c[name] for name in ReleaseView.model_fields)).where(releases.c.model == model)
    with reading(engine) as connection:
        rows, following = page_of(connection, query, (releases.c.release,), limit=limit, after=after, descending=True)
    return Page([ReleaseView(**row._mapping) for row in rows], following)


def list_models(engine: Engine, limit: int = DEFAULT_LIMIT, after: str | None = None) -> Page[ModelView]:
    """A page of the models that have releases, by name, each with its newest release and its aliases.

    Cost: the keys of the models' releases, in an index; nothing of the fleet.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    newest, count = func.max(releases.c.release), func.count()
    query = select(releases.c.model, newest.label("newest"), count.label("releases")).group_by(releases.c.model)
    with reading(engine) as connection:
        rows, following = page_of(connection, query, (releases.c.model,), limit=limit, after=after)
        named = select(release_aliases).where(release_aliases.c.model.in_([row.model for row in rows]))
        aliases: dict[str, dict[str, int]] = {}
        for each in connection.execute(named.order_by(release_aliases.c.alias)):
            aliases.setdefault(each.model, {})[each.alias] = each.release
    return Page([ModelView(**row._mapping, aliases=aliases.get(row.model, {})) for row in rows], following)


def count_releases(connection: Connection) -> int:
    """How many releases there are, of all models."""
    return int(connection.execute(select(func.count()).select_from(releases)).scalar_one())

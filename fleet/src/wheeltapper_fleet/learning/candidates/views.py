"""Reads candidates for the API and the page."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, Row, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.learning.candidates.schemas import CandidateDetail, CandidateView
from wheeltapper_fleet.learning.candidates.tables import candidates
from wheeltapper_fleet.learning.runs.views import get_run
from wheeltapper_fleet.registry.tables import releases

__all__ = ["get_candidate", "list_candidates"]


def list_candidates(
    engine: Engine,
    *,
    state: str | None = None,
    model: str | None = None,
    limit: int = DEFAULT_LIMIT,
    after: str | None = None,
) -> Page[CandidateView]:
    """A page of the candidates, newest first; one of ``model`` and ``state`` is looked up in an index, the other
    narrows the page.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    query, within = select(candidates), None
    if state is not None:
        query = query.where(candidates.c.state == state)
    if model is not None and state is None:
        query = query.where(candidates.c.model == model)
    elif model is not None:
        within = candidates.c.model == model
    key = (candidates.c.made_at, candidates.c.id)
    with reading(engine) as connection:
        rows, following = page_of(connection, query, key, limit=limit, after=after, descending=True, within=within)
    return Page([CandidateView(**row._mapping) for row in rows], following)


def get_candidate(engine: Engine, candidate: str) -> CandidateDetail:
    """One candidate, with what its run measured.

    Raises:
        FleetError: ``candidate.not_found``, ``run.not_found``.
    """
    with reading(engine) as connection:
        row = connection.execute(select(candidates).where(candidates.c.id == candidate)).one_or_none()
        if row is None:
            raise FleetError("candidate.not_found", f"there is no candidate {candidate[:80]!r}", 404)
        published = _published(connection, row)
    run = get_run(engine, row.run)
    more: dict[str, Any] = {"gates": run.gates, "warnings": run.warnings, "recipe_toml": run.recipe_toml}
    return CandidateDetail(**row._mapping, **more, published=published)


def _published(connection: Connection, row: Row[Any]) -> int | None:
    """The newest release of its model, if its lineage names the candidate: who signs says it there."""
    if row.release is not None:
        return int(row.release)
    newest = select(releases.c.release, releases.c.manifest).where(releases.c.model == row.model)
    found = connection.execute(newest.order_by(releases.c.release.desc()).limit(1)).first()
    if found is None or not isinstance(found.manifest, dict):
        return None
    lineage = found.manifest.get("lineage") or {}
    return int(found.release) if lineage.get("candidate") == row.id else None

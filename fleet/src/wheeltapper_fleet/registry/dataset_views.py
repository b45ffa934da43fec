"""Which releases were trained on which version of a dataset, and by which run, by their signed manifests.

The lineage's entries ``dataset`` (``NAME@VERSION``) and ``run`` are indexed when a release is published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, Engine, insert, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.ground.paging import Page
from wheeltapper_fleet.registry.tables import release_datasets, release_runs

__all__ = ["list_dataset_releases", "record_origin"]

_REF: Final = re.compile(r"([a-z0-9][a-z0-9-]{0,62})@([1-9][0-9]{0,7})\Z")
_RUN: Final = re.compile(r"r-[0-9a-f]{12}\Z")


def record_origin(connection: Connection, model: str, release: int, lineage: Mapping[str, str]) -> None:
    """Write down what a release was trained on, and by which run, as far as its lineage says it; in the caller's
    transaction."""
    if _RUN.match(lineage.get("run", "")):
        made = {"run": lineage["run"], "model": model, "release": release}
        connection.execute(insert(release_runs).values(made))
    match = _REF.match(lineage.get("dataset", ""))
    if match is not None:
        row: dict[str, Any] = {
            "dataset": match[1],
            "version": int(match[2]),
            "model": model,
            "release": release,
            "split": lineage.get("dataset_split", "")[:200],
            "sha256": lineage.get("dataset_sha256", "")[:64],
        }
        connection.execute(insert(release_datasets).values(row))


def list_dataset_releases(
    engine: Engine, dataset: str, version: int | None, limit: int, after: str | None
) -> Page[dict[str, Any]]:
    """The releases that were trained on a dataset, by version, model and number; with ``version`` only those of it.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    query = select(release_datasets).where(release_datasets.c.dataset == dataset)
    if version is not None:
        query = query.where(release_datasets.c.version == version)
    key = (release_datasets.c.version, release_datasets.c.model, release_datasets.c.release)
    with reading(engine) as connection:
        rows, following = page_of(connection, query, key, limit=limit, after=after)
    return Page([dict(row._mapping) for row in rows], following)

"""Which releases were trained on which version of a dataset, by the lineage of their signed manifests.

The lineage's entry ``dataset`` is ``NAME@VERSION``; the index is written when a release is published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, Engine, insert, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.ground.paging import Page
from wheeltapper_fleet.registry.tables import release_datasets

__all__ = ["list_dataset_releases", "record_dataset"]

_REF: Final = re.compile(r"([a-z0-9][a-z0-9-]{0,62})@([1-9][0-9]{0,7})\Z")


def record_dataset(connection: Connection, model: str, release: int, lineage: Mapping[str, str]) -> None:
    """Write down what a release was trained on, if its lineage says it; in the caller's transaction."""
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

"""Reads versions of datasets for the API.

Cost: a page reads one manifest (some kB) for each of its entries; pages of items read a part of one file; a difference
reads two lists of items. Nothing is kept in memory between requests: the store is the truth, whoever writes to it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from wheeltapper_fleet.ground.paging import Page, read_cursor, write_cursor
from wheeltapper_fleet.learning.datasets.comparing import difference
from wheeltapper_fleet.learning.datasets.manifest import Ref
from wheeltapper_fleet.learning.datasets.reading import Dataset
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.learning.schemas import DatasetDifference, DatasetItem, DatasetVersion, DatasetView

__all__ = ["compare_versions", "get_version", "list_datasets", "list_items", "list_versions"]


def list_datasets(store: DatasetStore, limit: int, after: str | None) -> Page[DatasetView]:
    """Datasets by name, each with its newest version.

    Raises:
        FleetError: ``cursor.invalid``, ``dataset.unreachable``, ``dataset.damaged``.
    """
    last = "" if after is None else str(read_cursor(after, str)[0])
    names = [name for name in store.names() if name > last]
    shown = names[:limit]
    found = [_view(store, Ref(name, versions[-1])) for name in shown if (versions := store.versions(name))]
    return Page(found, write_cursor(shown[-1]) if len(names) > limit else None)


def list_versions(store: DatasetStore, name: str, limit: int, after: str | None) -> Page[DatasetView]:
    """The versions of a dataset, newest first.

    Raises:
        FleetError: ``cursor.invalid``, ``dataset.not_found``, ``dataset.unreachable``, ``dataset.damaged``.
    """
    store.resolve(Ref(name))
    last = 10**9 if after is None else int(read_cursor(after, int)[0])
    numbers = [number for number in reversed(store.versions(name)) if number < last]
    shown = numbers[:limit]
    found = [_view(store, Ref(name, number)) for number in shown]
    return Page(found, write_cursor(shown[-1]) if len(numbers) > limit else None)


def get_version(store: DatasetStore, name: str, version: int | None) -> DatasetVersion:
    """One version; None: the newest.

    Raises:
        FleetError: ``dataset.not_found``, ``dataset.unreachable``, ``dataset.damaged``.
    """
    manifest, sha256 = store.manifest(Ref(name, version))
    return DatasetVersion(sha256=sha256, manifest=msgspec.to_builtins(manifest))


def list_items(store: DatasetStore, name: str, version: int | None, limit: int, after: str | None) -> Page[DatasetItem]:
    """The items of a version in their order.

    Raises:
        FleetError: ``cursor.invalid``, ``dataset.cursor``, ``dataset.not_found``, ``dataset.unreachable``.
    """
    manifest, _ = store.manifest(Ref(name, version))
    at = 0 if after is None else int(read_cursor(after, int)[0])
    items, following = store.items_page(manifest.items, at, limit)
    removed = store.tombstones()
    shown = []
    for item in items:
        tombstone = store.tombstone(item.sha256) if item.sha256 in removed else None
        why = None if tombstone is None else tombstone.why
        shown.append(DatasetItem(item=msgspec.to_builtins(item), removed=why))
    return Page(shown, None if following is None else write_cursor(following))


def compare_versions(store: DatasetStore, name: str, one: int, other: int) -> DatasetDifference:
    """What changed from one version of a dataset to another.

    Raises:
        FleetError: ``dataset.not_found``, ``dataset.unreachable``, ``dataset.damaged``.
    """
    pair = [Dataset(store, *store.manifest(Ref(name, version))) for version in (one, other)]
    found: dict[str, Any] = difference(pair[0], pair[1])
    return DatasetDifference(from_version=found.pop("from"), to_version=found.pop("to"), **found)


def _view(store: DatasetStore, ref: Ref) -> DatasetView:
    manifest, sha256 = store.manifest(ref)
    return DatasetView(
        name=manifest.name,
        version=manifest.version,
        items=manifest.items.count,
        machines=manifest.machines,
        bytes=manifest.bytes,
        created_at=manifest.created_at,
        sha256=sha256,
        split=manifest.splitting.lineage,
        failed=[check.name for check in manifest.checks if check.verdict == "fail"],
    )

"""Compares two versions, and checks one again.

Cost: both lists of items are in the same order, so that they are read once, side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from wheeltapper_fleet.learning.datasets.checks import Checker
from wheeltapper_fleet.learning.datasets.manifest import Check, Item
from wheeltapper_fleet.learning.datasets.reading import Dataset
from wheeltapper_fleet.learning.errors import DatasetError

__all__ = ["check_version", "difference"]

_LISTED: Final = 1000
"""Changes that are listed of each kind; all are counted."""
_COMPARED: Final = ("machine", "source", "labels", "condition", "split")


def difference(one: Dataset, other: Dataset) -> dict[str, Any]:
    """What changed from one version to the other: items that were added, removed, or of which something else is known.

    At most a thousand of each are listed; ``counts`` has all. ``manifest`` has what differs of the versions as a whole.
    """
    found: dict[str, Any] = {
        "from": one.manifest.ref,
        "to": other.manifest.ref,
        "added": [],
        "removed": [],
        "changed": [],
    }
    counts = {"added": 0, "removed": 0, "changed": 0, "same": 0}
    for before, after in _side_by_side(one.items(), other.items()):
        fields: list[str] = []
        if before is not None and after is not None:
            fields = [name for name in _COMPARED if getattr(before, name) != getattr(after, name)]
            kind = "changed" if fields else "same"
        else:
            kind = "added" if before is None else "removed"
        counts[kind] += 1
        item = after or before
        if kind != "same" and item is not None and len(found[kind]) < _LISTED:
            entry = {"sha256": item.sha256, "machine": item.machine, "source": item.source, "first": item.first}
            found[kind].append({**entry, "fields": fields} if fields else entry)
    compared = ("description", "schema", "splitting", "labels", "checks")
    whole = [name for name in compared if getattr(one.manifest, name) != getattr(other.manifest, name)]
    return {**found, "counts": counts, "manifest": whole}


def _side_by_side(one: Iterator[Item], other: Iterator[Item]) -> Iterator[tuple[Item | None, Item | None]]:
    """The items of two lists in their order; those of one content, part and machine together."""
    before, after = next(one, None), next(other, None)
    while before is not None or after is not None:
        if after is None or (before is not None and before.key < after.key):
            yield before, None
            before = next(one, None)
        elif before is None or after.key < before.key:
            yield None, after
            after = next(other, None)
        else:
            yield before, after
            before, after = next(one, None), next(other, None)


def check_version(dataset: Dataset, content: bool, progress: Callable[[str], None]) -> list[Check]:
    """Check a version again: its items as when it was made, what was removed since, and with ``content`` every byte.

    Raises:
        DatasetError: ``dataset.damaged``: the list of items.
    """
    checker, removed, damaged = Checker(), 0, list[str]()
    tombstones, read = dataset.store.tombstones(), set[str]()
    for number, item in enumerate(dataset.items(), start=1):
        checker.add(item)
        if item.sha256 in tombstones:
            removed += 1
        elif item.sha256 not in read:
            read.add(item.sha256)
            if number % 100 == 1 or content:
                progress(f"item {number} of {dataset.manifest.items.count}")
            if not (_whole(dataset, item) if content else dataset.store.has(item.sha256, item.bytes)):
                damaged.append(item.sha256[:12])
    what = "contents that are missing or changed" if content else "contents that are missing or of another length"
    return [
        *checker.checks(dataset.manifest.splitting.shares),
        _counted("removed_contents", removed, "items whose content was removed on request"),
        msgspec.structs.replace(
            _counted("content", len(damaged), f"{what}: {', '.join(damaged[:5])}"),
            verdict="fail" if damaged else "pass",
        ),
    ]


def _whole(dataset: Dataset, item: Item) -> bool:
    try:
        with dataset.store.content(item.sha256):
            return True
    except DatasetError:
        return False


def _counted(name: str, value: int, detail: str) -> Check:
    verdict: Any = "warn" if value else "pass"
    return Check(name=name, verdict=verdict, value=float(value), limit=0.0, detail=detail if value else "")

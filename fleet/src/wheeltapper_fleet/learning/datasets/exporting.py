"""Writes a version as files that other programs read: recordings and tables as ``.npz``, its items, and Croissant.

Invariants:
    * A file appears whole or not at all. One that is there with its hash is not written again, so that an export that
      was killed goes on when it is started again.
    * Names come from machines and hashes only, and stay in the folder, whatever a machine is called.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from wheeltapper_fleet.ground import files
from wheeltapper_fleet.learning.datasets.croissant import croissant_of
from wheeltapper_fleet.learning.datasets.manifest import Item, encode
from wheeltapper_fleet.learning.datasets.reading import Dataset

__all__ = ["export_version"]

_UNFIT: Final = re.compile(r"[^A-Za-z0-9_-]+")


def export_version(dataset: Dataset, out: Path, split: str | None, progress: Callable[[str], None]) -> tuple[int, int]:
    """Write the contents of a version into a folder: ``data/MACHINE/SHA256.npz``, ``items.jsonl``, ``manifest.json``
    and
    ``croissant.json``; returns how many items it has, and how many contents were written.

    Args:
        dataset: the version.
        out: the folder; it may hold an earlier export.
        split: only this side; items.jsonl lists all.
        progress: called with a few words for each content.

    Raises:
        DatasetError: ``dataset.split``, ``dataset.removed``, ``dataset.damaged``.
    """
    count = written = 0
    files.make_folder(out)
    for item in dataset.items(split):
        count += 1
        target = out / "data" / _folder(item) / f"{item.sha256}.npz"
        if target.is_file() and _sha256(target) == item.sha256:
            continue
        progress(f"{item.machine}: {item.source}")
        files.make_folder(target.parent)
        with dataset.store.content(item.sha256) as content:
            files.write_atomic(target, content.read())
        written += 1
    listed = dataset.manifest.items
    with dataset.store.place.opened(f"items/{listed.sha256}.jsonl") as lines:
        files.write_atomic(out / "items.jsonl", lines.read())
    files.write_atomic(out / "manifest.json", encode(dataset.manifest))
    files.write_atomic(out / "croissant.json", croissant_of(dataset.manifest, "items.jsonl"))
    return count, written


def _folder(item: Item) -> str:
    return _UNFIT.sub("-", item.machine)[:80] or "machine"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

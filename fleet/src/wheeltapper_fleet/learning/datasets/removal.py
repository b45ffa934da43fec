"""Removes contents on request, such as all recordings of a customer's machine.

What is left is a tombstone with the reason, and the manifests, whose hashes still say what a model was trained on.
The bytes are gone from every version of every dataset of the store, and are not taken again.

Cost: the lists of items of all versions are read once, to say which of them are concerned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from wheeltapper_fleet.learning.datasets.manifest import Ref, Tombstone
from wheeltapper_fleet.learning.datasets.reading import Dataset
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.learning.errors import DatasetError

__all__ = ["Pruned", "Removal", "chosen_contents", "prune", "remove_contents"]

LEAST_AGE_SECONDS: Final = 3600.0
"""An import that is under way has written contents that no version names yet."""


@dataclass(frozen=True)
class Removal:
    """What was removed: hashes of contents, their bytes, and the versions (``name@version``) that hold one of them."""

    contents: list[str]
    bytes: int
    versions: list[str]


def chosen_contents(dataset: Dataset, machine: str | None, content: str | None, whole: bool) -> dict[str, int]:
    """The contents of a version that are meant, by hash with their length.

    Args:
        dataset: the version.
        machine: all of this machine.
        content: the one whose hash begins so; at least 8 digits.
        whole: all of the version.

    Raises:
        DatasetError: ``dataset.remove``: it is not said which, or none is meant.
    """
    if sum((machine is not None, content is not None, whole)) != 1 or (content is not None and len(content) < 8):
        message = "say what to remove: all of a machine, one content by 8 or more digits of its hash, or all"
        raise DatasetError("dataset.remove", message, 400)
    found = {
        item.sha256: item.bytes
        for item in dataset.items()
        if whole or item.machine == machine or (content is not None and item.sha256.startswith(content))
    }
    if not found:
        raise DatasetError("dataset.remove", f"nothing in {dataset.manifest.ref} is meant by this", 404)
    return found


def remove_contents(
    store: DatasetStore,
    contents: dict[str, int],
    why: str,
    who: str,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Removal:
    """Remove contents and leave tombstones. One that was removed already stays as it is; ended early, it can go on.

    Args:
        store: from which.
        contents: hashes with their lengths.
        why: the reason, which the tombstones keep.
        who: asked for it.
        now: the time.

    Raises:
        DatasetError: ``dataset.remove``: there is no reason, or it is too long.
    """
    if not 0 < len(why.strip()) <= 500:
        raise DatasetError("dataset.remove", "give a reason of 1 to 500 characters", 400)
    at = now().isoformat(timespec="seconds")
    for sha256, length in sorted(contents.items()):
        store.remove_content(Tombstone(sha256=sha256, why=why, who=who[:128], at=at, bytes=length))
    return Removal(sorted(contents), sum(contents.values()), _versions_with(store, set(contents)))


@dataclass(frozen=True)
class Pruned:
    """What was removed because no version names it: files, and their bytes."""

    files: int
    bytes: int


def prune(store: DatasetStore, older_seconds: float, now: float, progress: Callable[[str], None]) -> Pruned:
    """Remove contents and lists that no version names: an import that ended early left them.

    Cost: the lists of items of all versions are read once, and every file is looked at.

    Args:
        store: of which.
        older_seconds: only what was written so long ago; at least :data:`LEAST_AGE_SECONDS`.
        now: Unix seconds.
        progress: called with a few words for each folder.

    Raises:
        DatasetError: ``dataset.prune``; ``dataset.damaged``: a list cannot be read, and nothing was removed.
    """
    if older_seconds < LEAST_AGE_SECONDS:
        raise DatasetError("dataset.prune", f"leave what is younger than {LEAST_AGE_SECONDS / 3600:g} h", 400)
    named = set[str]()
    for name in store.names():
        for version in store.versions(name):
            manifest, _ = store.manifest(Ref(name, version))
            named.add(f"{manifest.items.sha256}.jsonl")
            named.update(item.sha256 for item in store.items(manifest.items))
    count = length = 0
    for folder in ("items", *(f"blobs/{name}" for name in store.place.names("blobs"))):
        progress(folder)
        for path, size, written_at in store.place.files(folder):
            if path.rpartition("/")[2] not in named and now - written_at >= older_seconds:
                store.place.remove(path)
                count, length = count + 1, length + size
    return Pruned(count, length)


def _versions_with(store: DatasetStore, contents: set[str]) -> list[str]:
    """All versions of all datasets that hold one of some contents."""
    found = []
    for name in store.names():
        for version in store.versions(name):
            manifest, _ = store.manifest(Ref(name, version))
            if any(item.sha256 in contents for item in store.items(manifest.items)):
                found.append(manifest.ref)
    return found

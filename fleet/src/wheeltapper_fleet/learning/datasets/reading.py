"""What training opens: a version of a dataset, item by item, each with what is known of it.

Example:
    >>> dataset = open_dataset("bearings@3")
    >>> for recording in dataset.recordings("train"):
    ...     print(recording.meta["machine"], recording.meta["labels"])

Invariants:
    * Every content has the hash that the manifest says; a version of which contents were removed is refused, and the
      error says how to make one without them.
    * One content is in memory at a time.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from wheeltapper_fleet.learning.datasets.manifest import DatasetManifest, Item, Value, parse_ref
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.learning.datasets.table import DataTable, read_table
from wheeltapper_fleet.learning.errors import DatasetError
from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.signal.recording import Recording, read_recording

__all__ = ["STORE_VARIABLE", "Dataset", "default_store", "open_dataset"]

STORE_VARIABLE: Final = "WHEELTAPPER_DATASETS"


def default_store() -> str:
    """Where datasets are kept if nothing else is said: what the environment says, else in ``wheeltapper-data``."""
    return os.environ.get(STORE_VARIABLE) or str(Path("wheeltapper-data") / "datasets")


def open_dataset(ref: str, store: DatasetStore | str | Path | None = None) -> Dataset:
    """Open a version of a dataset.

    Args:
        ref: ``NAME``, of which the newest version is opened, or ``NAME@VERSION``.
        store: where it is kept; by default :func:`default_store`.

    Raises:
        DatasetError: ``dataset.name``, ``dataset.not_found``, ``dataset.damaged``.
    """
    found = store if isinstance(store, DatasetStore) else DatasetStore(store or default_store())
    manifest, sha256 = found.manifest(parse_ref(ref))
    return Dataset(found, manifest, sha256)


class Dataset:
    """One version of a dataset. Made by :func:`open_dataset`.

    Args:
        store: where it is kept.
        manifest: of the version.
        sha256: of the manifest.
    """

    def __init__(self, store: DatasetStore, manifest: DatasetManifest, sha256: str) -> None:
        self.store = store
        self.manifest = manifest
        self.sha256 = sha256

    @property
    def lineage(self) -> dict[str, str]:
        """What a model that was trained on it has in the lineage of its manifest."""
        found = self.manifest
        return {"dataset": found.ref, "dataset_sha256": self.sha256, "dataset_split": found.splitting.lineage}

    @property
    def training_side(self) -> str | None:
        """The side to train on: ``train`` where items are divided; None, and so all items, where they are not."""
        return "train" if "train" in self.manifest.splitting.sides else None

    def items(self, split: str | None = None, only: Mapping[str, str] | None = None) -> Iterator[Item]:
        """Its items in their order, or those of one side.

        Args:
            split: the side; None: all.
            only: values that a label or the condition must have, by name; numbers as Python writes them.

        Raises:
            DatasetError: ``dataset.damaged``; ``dataset.split``: it has no such side.
        """
        if split is not None and split not in self.manifest.splitting.sides:
            sides = ", ".join(side for side in self.manifest.splitting.sides if side) or "none"
            raise DatasetError("dataset.split", f"{self.manifest.ref} has no side {split!r}; its sides: {sides}", 400)
        for item in self.store.items(self.manifest.items):
            if (split is None or item.split == split) and _has(item, only or {}):
                yield item

    def recordings(self, split: str | None = None, only: Mapping[str, str] | None = None) -> Iterator[Recording]:
        """Its recordings, or those of one side. What is known of each item is in its ``meta``: ``machine``, ``labels``,
        ``condition``, ``split``, ``sha256``, ``first``. The arguments are those of :meth:`items`.

        Raises:
            DatasetError: ``dataset.damaged``, ``dataset.split``, ``dataset.removed``.
        """
        for item in self.items(split, only):
            if item.kind == "recording":
                yield self.recording(item)

    def tables(self, split: str | None = None) -> Iterator[DataTable]:
        """Its tables, or those of one side; raises as :meth:`recordings`."""
        for item in self.items(split):
            if item.kind == "table":
                yield self.table(item)

    def recording(self, item: Item) -> Recording:
        """The recording of an item; raises as :meth:`recordings`."""
        with self._removal_explained(), self.store.content(item.sha256) as file:
            try:
                whole = read_recording(file)
            except RecordingError as error:
                message = f"the content {item.sha256} is no recording: {error.message} ({error.code})"
                raise DatasetError("dataset.damaged", message, 409) from error
        part = whole if item.count == whole.snapshots else whole.part(slice(item.first, item.first + item.count))
        return dataclasses.replace(part, meta={**whole.meta, **_known(item)})

    def table(self, item: Item) -> DataTable:
        """The table of an item; raises as :meth:`recordings`."""
        with self._removal_explained(), self.store.content(item.sha256) as file:
            whole = read_table(file)
        part = whole if item.count == whole.rows else whole.part(slice(item.first, item.first + item.count))
        return dataclasses.replace(part, meta={**whole.meta, **_known(item)})

    def _removal_explained(self) -> _Explained:
        return _Explained(self.manifest)


class _Explained:
    """Says of a removed content how to go on without it."""

    def __init__(self, manifest: DatasetManifest) -> None:
        self._manifest = manifest

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DatasetError) and error.code == "dataset.removed":
            name, ref = self._manifest.name, self._manifest.ref
            message = f"{error.message}; make a version without it: `wheeltapper dataset import {name} --base {ref}`"
            raise DatasetError("dataset.removed", message, 410) from error


def _has(item: Item, only: Mapping[str, str]) -> bool:
    """Whether each name is that of a label or condition with this value."""
    for name, value in only.items():
        known = [label.value for label in item.labels if label.name == name]
        known += [item.condition[name]] if name in item.condition else []
        if not any(str(found) == value or _number(found) == value for found in known):
            return False
    return True


def _number(value: Value) -> str:
    """A number without a fraction as people write it."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _known(item: Item) -> dict[str, Any]:
    found: dict[str, Any] = {
        "machine": item.machine,
        "labels": [msgspec.to_builtins(label) for label in item.labels],
        "condition": dict(item.condition),
        "split": item.split,
        "sha256": item.sha256,
        "first": item.first,
    }
    return found

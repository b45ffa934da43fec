"""Datasets as the API gives them out."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

__all__ = [
    "CaptureForDataset",
    "CaptureLabel",
    "DatasetDifference",
    "DatasetItem",
    "DatasetRelease",
    "DatasetVersion",
    "DatasetView",
]


class DatasetView(BaseModel):
    """The newest version of a dataset, or one of its versions. ``bytes`` is of all contents; ``split`` says how items
    were divided, ``failed`` names the checks that fail."""

    name: str
    version: int
    items: int
    machines: int
    bytes: int
    created_at: str
    sha256: str
    split: str
    failed: list[str]


class DatasetVersion(BaseModel):
    """One version: its manifest as it is stored, and the SHA-256 of that."""

    sha256: str
    manifest: dict[str, Any]


class DatasetItem(BaseModel):
    """One item of a version, as its list has it, and why its content was removed, if it was."""

    item: dict[str, Any]
    removed: str | None


class DatasetDifference(BaseModel):
    """What one version has and another has not; at most a thousand items of each kind are listed, all are counted."""

    from_version: str
    to_version: str
    counts: dict[str, int]
    added: list[dict[str, Any]]
    removed: list[dict[str, Any]]
    changed: list[dict[str, Any]]
    manifest: list[str]


class DatasetRelease(BaseModel):
    """A release that was trained on a version of a dataset, by the lineage of its signed manifest."""

    dataset: str
    version: int
    model: str
    release: int
    split: str
    sha256: str


class CaptureLabel(BaseModel):
    """What a resolved case says of what a pipeline measured, in the seconds of its own times."""

    case: int
    verdict: str
    part: str | None
    from_t_s: float
    to_t_s: float
    from_at: float


class CaptureForDataset(BaseModel):
    """A recording that came from a device, with its machine and with labels of its pipeline.

    ``machine`` is that of the measuring point, or the device where none is mapped; ``site`` is empty there. ``labels``
    are those of cases that began before it came, newest first, at most 50: whoever reads the recording compares the
    times.
    """

    command: str
    device: str
    pipeline: str
    machine: str
    site: str
    sha256: str
    length: int
    snapshots: int
    received_at: float
    labels: list[CaptureLabel]

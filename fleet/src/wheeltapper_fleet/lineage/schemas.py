"""Lineage as the API gives it out. Pure. Times are Unix seconds."""

from __future__ import annotations

from pydantic import BaseModel

from wheeltapper_fleet.alerts.schemas import AlertView
from wheeltapper_fleet.learning.runs.schemas import RunView

__all__ = [
    "AlertLineage",
    "DatasetSpan",
    "RecordingDevice",
    "RecordingLineage",
    "RecordingRelease",
    "RecordingRun",
    "RecordingSource",
    "ReleaseCampaign",
    "ReleaseDevice",
    "ReleaseLineage",
    "RunLineage",
    "RunRelease",
    "TrainedOn",
    "UsedRecording",
]


class TrainedOn(BaseModel):
    """The version of a dataset that a release was trained on, by the lineage of its signed manifest.

    ``sha256`` is of the version's manifest, ``split`` says how its items were divided.
    """

    dataset: str
    version: int
    sha256: str
    split: str


class ReleaseCampaign(BaseModel):
    """A campaign that takes or took a release to devices."""

    id: str
    state: str
    created_at: float


class ReleaseLineage(BaseModel):
    """Where a release came from: run, policy, dataset, and everything else that its signed manifest says of it.

    ``run``, ``policy`` and ``trained_on`` are None where the manifest does not say it. ``campaigns`` are the newest 20.
    """

    model: str
    release: int
    sha256: str
    published_at: float
    published_by: str
    run: str | None
    policy: str | None
    trained_on: list[TrainedOn]
    lineage: dict[str, str]
    aliases: list[str]
    campaigns: list[ReleaseCampaign]


class AlertLineage(BaseModel):
    """An alert, the machine that it is about, and the release that raised it.

    The release is the one that the alert's own record names: it ran at that time. ``release`` is None where no such
    release is published here. ``runs_now`` is what the pipeline says that it runs today, as ``MODEL RELEASE``.
    """

    alert: AlertView
    machine: str | None
    site: str | None
    runs_now: str | None
    release: ReleaseLineage | None


class ReleaseDevice(BaseModel):
    """A pipeline of a device that said that it runs a release, first at ``first_at``; ``runs_now``: it still does."""

    device: str
    pipeline: str
    first_at: float
    runs_now: bool


class RecordingSource(BaseModel):
    """The device that a recording came from, and the command (or the rule's name) that it answers."""

    command: str
    device: str
    pipeline: str
    received_at: float


class UsedRecording(BaseModel):
    """A recording that a release was trained or judged on, as the dataset's version has it.

    ``side`` is its side of the split. ``captured`` is None where it was not captured by a device of this fleet.
    ``removed`` says why its content was removed, if it was.
    """

    sha256: str
    machine: str
    source: str
    side: str
    first: int
    count: int
    captured: RecordingSource | None
    removed: str | None


class DatasetSpan(BaseModel):
    """A recording is in these versions of a dataset, from the first to the last one."""

    dataset: str
    first_version: int
    last_version: int


class RecordingLineage(BaseModel):
    """Where a recording came from and which versions of datasets hold it, at most 100 runs of versions.

    ``not_indexed`` names the datasets of which the newest version is not known here yet.
    """

    sha256: str
    captured: list[RecordingSource]
    removed: str | None
    datasets: list[DatasetSpan]
    not_indexed: list[str]


class RecordingRelease(BaseModel):
    """A release that was trained on a version of a dataset which holds a recording."""

    dataset: str
    version: int
    model: str
    release: int


class RecordingDevice(BaseModel):
    """A pipeline of a device that ran a release which was trained on a recording; ``runs_now``: it still does."""

    model: str
    release: int
    device: str
    pipeline: str
    first_at: float
    runs_now: bool


class RecordingRun(BaseModel):
    """A run on a version of a dataset that holds a recording; ``result`` is the SHA-256 of its bundle's manifest."""

    id: str
    state: str
    model: str
    dataset: str
    requested_at: float
    result: str | None


class RunRelease(BaseModel):
    """A release that was made of a run's bundle."""

    model: str
    release: int
    published_at: float


class RunLineage(BaseModel):
    """A run, with its data and its cause, and what became of its bundle.

    ``candidate`` is None where none was made, ``policy`` where a person asked. ``releases`` are those whose signed
    manifests name the run, at most 20.
    """

    run: RunView
    candidate: str | None
    candidate_state: str | None
    policy: str | None
    releases: list[RunRelease]

"""Routes of datasets: versions, their items, what changed, what was trained on them; captures as their source."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from fastapi import APIRouter, Path, Query

from wheeltapper_fleet.api.context import Context
from wheeltapper_fleet.api.parameters import After, Limit, PipelineName, Q
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.learning import captures
from wheeltapper_fleet.learning.datasets import views
from wheeltapper_fleet.learning.schemas import (
    CaptureForDataset,
    DatasetDifference,
    DatasetItem,
    DatasetRelease,
    DatasetVersion,
    DatasetView,
)
from wheeltapper_fleet.registry.dataset_views import list_dataset_releases

__all__ = ["router"]

router = APIRouter()

DatasetName: TypeAlias = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Version: TypeAlias = Annotated[int | None, Query(ge=1, le=99_999_999, description="The newest where it is left out.")]
Number: TypeAlias = Annotated[int, Query(ge=1, le=99_999_999)]


@router.get("/datasets")
def list_datasets(context: Context, limit: Limit = DEFAULT_LIMIT, after: After = None) -> Page[DatasetView]:
    """Datasets by name, each with its newest version."""
    return views.list_datasets(context.datasets, limit, after)


@router.get("/datasets/{dataset}")
def get_dataset(dataset: DatasetName, context: Context, version: Version = None) -> DatasetVersion:
    """One version of a dataset: its manifest."""
    return views.get_version(context.datasets, dataset, version)


@router.get("/datasets/{dataset}/versions")
def list_versions(
    dataset: DatasetName, context: Context, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> Page[DatasetView]:
    """The versions of a dataset, newest first."""
    return views.list_versions(context.datasets, dataset, limit, after)


@router.get("/datasets/{dataset}/items")
def list_items(
    dataset: DatasetName,
    context: Context,
    version: Version = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Page[DatasetItem]:
    """The items of a version: machine, labels, condition, hash."""
    return views.list_items(context.datasets, dataset, version, limit, after)


@router.get("/datasets/{dataset}/diff")
def compare_versions(dataset: DatasetName, context: Context, one: Number, other: Number) -> DatasetDifference:
    """What changed from the version `one` to the version `other`."""
    return views.compare_versions(context.datasets, dataset, one, other)


@router.get("/datasets/{dataset}/releases")
def list_releases(
    dataset: DatasetName,
    context: Context,
    version: Version = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Page[DatasetRelease]:
    """The releases that were trained on a version of a dataset, or on any."""
    found = list_dataset_releases(context.engine, dataset, version, limit, after)
    return Page([DatasetRelease(**row) for row in found.items], found.next)


@router.get("/dataset-captures")
def list_captures(
    context: Context,
    q: Q = None,
    pipeline: PipelineName = None,
    since: Annotated[float | None, Query(ge=0, le=1e12, description="Unix seconds.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Page[CaptureForDataset]:
    """Recordings from devices, oldest first, each with its machine and labels; with `q` of the devices that it
    means."""
    return captures.list_captures(
        context.engine, context.clock(), limit, after, query=q or "", pipeline=pipeline, since=since
    )

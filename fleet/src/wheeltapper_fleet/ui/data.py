"""Pages of what models are learned from: recordings, datasets, and (in ``learning.py``) runs, policies, candidates.

Cost: one page of each list; a version of a dataset costs its manifest and one page of its items. What two versions
differ in costs both lists of items, and is read only when somebody asks for it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response

from wheeltapper_fleet.captures.views import list_captures
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import Page as ListPage
from wheeltapper_fleet.learning.candidates.views import list_candidates
from wheeltapper_fleet.learning.datasets.manifest import DatasetManifest, Item, Ref
from wheeltapper_fleet.learning.datasets.views import (
    compare_versions,
    get_version,
    list_datasets,
    list_items,
    list_versions,
)
from wheeltapper_fleet.learning.policies.views import list_policies
from wheeltapper_fleet.learning.runs.views import list_runs
from wheeltapper_fleet.lineage.runs import recording_runs
from wheeltapper_fleet.lineage.views import recording_devices, recording_lineage, recording_releases
from wheeltapper_fleet.registry.dataset_views import list_dataset_releases
from wheeltapper_fleet.ui.answering import ROWS_SHOWN, Named, answer, attempt
from wheeltapper_fleet.ui.rendering import After, Asked, Page, Viewer, render

__all__ = ["router"]

router = APIRouter(include_in_schema=False)
FEW_SHOWN: Final = 6
VERSIONS_SHOWN: Final = 20
CHANGES_SHOWN: Final = 100
_Version: TypeAlias = Annotated[int | None, Query(ge=1, le=99_999_999)]
_Number: TypeAlias = Annotated[int, Query(ge=1, le=99_999_999)]
_Sha256: TypeAlias = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
_Device: TypeAlias = Annotated[str, Query(pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$")]
_NOTHING: Final[ListPage[Any]] = ListPage([])


def _overview(page: Page) -> dict[str, Any]:
    """The newest of everything; a store that cannot be reached is said, and the rest is shown."""
    datasets, problem = attempt(lambda: list_datasets(page.datasets, FEW_SHOWN, None), _NOTHING)
    return {
        "candidates": list_candidates(page.engine, state="WAITING", limit=FEW_SHOWN),
        **_under_way(page),
        "runs": list_runs(page.engine, limit=FEW_SHOWN),
        "policies": list_policies(page.engine, limit=FEW_SHOWN),
        "captures": list_captures(page.engine, limit=FEW_SHOWN),
        "datasets": datasets,
        "problem": problem,
    }


def _under_way(page: Page) -> dict[str, Any]:
    return {name.lower(): list_runs(page.engine, state=name, limit=FEW_SHOWN) for name in ("RUNNING", "QUEUED")}


@router.get("/fragments/runs-under-way")
def show_under_way(request: Request, page: Asked, who: Viewer) -> Response:
    """How far the runs are that are under way, rendered anew."""
    return render("data/going.html", who, request, _under_way(page))


@router.get("/data")
def show_data(request: Request, page: Asked) -> Response:
    """What waits for a person, what is under way, and the newest of everything."""
    return answer("data/data.html", request, page, lambda who: _overview(page) | {"may": who.may})


@router.get("/data/recordings")
def show_recordings(request: Request, page: Asked, device: _Device = "", after: After = None) -> Response:
    """Recordings that were asked for or came by a device's rule, newest first."""
    return answer(
        "data/recordings.html",
        request,
        page,
        lambda _: {
            "found": list_captures(page.engine, device or None, ROWS_SHOWN, after or None),
            "device": device,
        },
    )


@router.get("/data/recordings/{sha256}")
def show_recording(sha256: _Sha256, request: Request, page: Asked, after: After = None) -> Response:
    """A recording forward: datasets that hold it, releases trained on them, devices that ran these."""
    now = page.clock()
    return answer(
        "data/recording.html",
        request,
        page,
        lambda _: {
            "recording": recording_lineage(page.engine, page.datasets, sha256, "", now),
            "releases": recording_releases(page.engine, sha256, ROWS_SHOWN, scope="", now=now),
            "runs": recording_runs(page.engine, sha256, ROWS_SHOWN, scope="", now=now),
            "devices": recording_devices(page.engine, sha256, ROWS_SHOWN, after or None, scope="", now=now),
        },
    )


@router.get("/data/datasets")
def show_datasets(request: Request, page: Asked, after: After = None) -> Response:
    """Datasets by name, each with its newest version."""
    return answer(
        "data/datasets.html",
        request,
        page,
        lambda _: {"found": list_datasets(page.datasets, ROWS_SHOWN, after or None)},
    )


@router.get("/data/datasets/{dataset}")
def show_dataset(
    dataset: Named, request: Request, page: Asked, version: _Version = None, after: After = None
) -> Response:
    """One version of a dataset: what it is, its checks, its sides, what was trained on it, a page of its items."""
    return answer("data/dataset.html", request, page, lambda _: _dataset(page, dataset, version, after or None))


def _dataset(page: Page, name: str, version: int | None, after: str | None) -> dict[str, Any]:
    found = get_version(page.datasets, name, version)
    manifest = msgspec.convert(found.manifest, DatasetManifest)
    number = manifest.version
    items, problem = attempt(lambda: list_items(page.datasets, name, number, ROWS_SHOWN, after), _NOTHING)
    return {
        "manifest": manifest,
        "sha256": found.sha256,
        "versions": list_versions(page.datasets, name, VERSIONS_SHOWN, None),
        "items": [(msgspec.convert(each.item, Item), each.removed) for each in items.items],
        "following": items,
        "problem": problem,
        "runs": list_runs(page.engine, dataset=Ref(name, number), limit=FEW_SHOWN),
        "releases": list_dataset_releases(page.engine, name, number, ROWS_SHOWN, None),
    }


@router.get("/data/datasets/{dataset}/diff")
def show_difference(dataset: Named, request: Request, page: Asked, one: _Number = 1, other: _Number = 2) -> Response:
    """What one version of a dataset has and another has not."""

    def read(_: object) -> dict[str, Any]:
        if one == other:
            raise FleetError("dataset.same", "choose two versions: these are the same one", 400)
        found = compare_versions(page.datasets, dataset, one, other)
        return {"dataset": dataset, "one": one, "other": other, "difference": found, "shown": CHANGES_SHOWN}

    return answer("data/difference.html", request, page, read)

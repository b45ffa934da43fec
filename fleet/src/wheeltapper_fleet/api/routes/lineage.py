"""Routes of lineage: from an alert back to recordings, and from a recording forward to every device."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from fastapi import APIRouter, Path

from wheeltapper_fleet.api.context import Context, Scope
from wheeltapper_fleet.api.parameters import After, Limit, ModelName, ReleaseNumber, RunId
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.lineage import runs, views
from wheeltapper_fleet.lineage.schemas import (
    AlertLineage,
    RecordingDevice,
    RecordingLineage,
    RecordingRelease,
    RecordingRun,
    ReleaseDevice,
    ReleaseLineage,
    RunLineage,
    UsedRecording,
)

__all__ = ["router"]

router = APIRouter()

AlertNumber: TypeAlias = Annotated[int, Path(ge=1, le=2**31 - 1)]
Content: TypeAlias = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="SHA-256 of the recording, in hex")]


@router.get("/lineage/alerts/{alert}")
def alert_lineage(alert: AlertNumber, context: Context, scope: Scope) -> AlertLineage:
    """The machine, the release that raised an alert, and what that was trained on."""
    return views.alert_lineage(context.engine, alert, scope, context.clock())


@router.get("/lineage/releases/{model}/{release}")
def release_lineage(model: ModelName, release: ReleaseNumber, context: Context) -> ReleaseLineage:
    """Where a release came from: run, dataset, recipe; the aliases that name it and the campaigns that took it."""
    return views.release_lineage(context.engine, model, release)


@router.get("/lineage/releases/{model}/{release}/devices")
def release_devices(
    model: ModelName,
    release: ReleaseNumber,
    context: Context,
    scope: Scope,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Page[ReleaseDevice]:
    """The devices that run or ran a release, by device and pipeline."""
    return views.release_devices(context.engine, model, release, limit, after, scope=scope, now=context.clock())


@router.get("/lineage/releases/{model}/{release}/recordings")
def release_recordings(
    model: ModelName, release: ReleaseNumber, context: Context, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> Page[UsedRecording]:
    """The recordings that a release was trained or judged on, each with the capture that it came by."""
    return views.release_recordings(context.engine, context.datasets, model, release, limit, after)


@router.get("/lineage/recordings/{sha256}")
def recording_lineage(sha256: Content, context: Context, scope: Scope) -> RecordingLineage:
    """Where a recording came from, and which versions of datasets hold it."""
    return views.recording_lineage(context.engine, context.datasets, sha256, scope, context.clock())


@router.get("/lineage/recordings/{sha256}/releases")
def recording_releases(
    sha256: Content, context: Context, scope: Scope, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> Page[RecordingRelease]:
    """The releases that were trained on a version which holds a recording."""
    return views.recording_releases(context.engine, sha256, limit, after, scope=scope, now=context.clock())


@router.get("/lineage/recordings/{sha256}/runs")
def recording_runs(
    sha256: Content, context: Context, scope: Scope, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> Page[RecordingRun]:
    """The runs on a version which holds a recording, newest first."""
    return runs.recording_runs(context.engine, sha256, limit, after, scope=scope, now=context.clock())


@router.get("/lineage/runs/{run}")
def run_lineage(run: RunId, context: Context) -> RunLineage:
    """A run with its data and its cause; the candidate and the releases that were made of its bundle."""
    return runs.run_lineage(context.engine, run)


@router.get("/lineage/recordings/{sha256}/devices")
def recording_devices(
    sha256: Content, context: Context, scope: Scope, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> Page[RecordingDevice]:
    """The devices that run or ran a release which was trained on a recording. A page may be short and yet go on."""
    return views.recording_devices(context.engine, sha256, limit, after, scope=scope, now=context.clock())

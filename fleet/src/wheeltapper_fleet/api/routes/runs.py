"""Routes of runs: queue, list, cancel; what trainers say; bundles and plots that runs made."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import FileResponse

from wheeltapper_fleet.api.context import Context, Who
from wheeltapper_fleet.api.parameters import After, FileName, Limit, ModelName, RunId, Sha256
from wheeltapper_fleet.api.upload import receive_blob
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.ground.request import note_subject
from wheeltapper_fleet.learning.candidates.schemas import CandidateDetail
from wheeltapper_fleet.learning.candidates.service import candidate_of
from wheeltapper_fleet.learning.candidates.views import get_candidate
from wheeltapper_fleet.learning.datasets.manifest import parse_ref
from wheeltapper_fleet.learning.runs import service, views
from wheeltapper_fleet.learning.runs.rules import Cause, Outcome, State
from wheeltapper_fleet.learning.runs.schemas import (
    ClaimRequest,
    ClaimView,
    FinishRequest,
    ProgressRequest,
    RunDetail,
    RunFile,
    RunRequest,
    RunView,
    StateName,
)

__all__ = ["router"]

router = APIRouter()

PlotName: TypeAlias = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
CauseKind: TypeAlias = Annotated[str | None, Query(pattern="^(person|policy|search)$")]
CauseId: TypeAlias = Annotated[str | None, Query(pattern=r"^[ -~]{1,128}$", description="Together with cause_kind.")]
DatasetRef: TypeAlias = Annotated[
    str | None, Query(pattern=r"^[a-z0-9][a-z0-9-]{0,62}@[1-9][0-9]{0,7}$", description="NAME@VERSION")
]
_FILE: Final = {
    "required": True,
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary", "minLength": 1}}},
}
_SVG_HEADERS: Final = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}
"""A plot comes from a trainer: whatever is in it, it runs nothing and fetches nothing."""


@router.post("/runs", status_code=201)
def queue_run(body: RunRequest, context: Context, who: Who) -> RunDetail:
    """Queue a run of a recipe; a trainer takes it when it has time."""
    made = service.queue_run(
        context.engine,
        body.recipe,
        who=who,
        cause=Cause("person", who),
        now=context.clock(),
        seed=body.seed,
        against=body.against,
        datasets=context.datasets,
    )
    note_subject(run=made)
    return views.get_run(context.engine, made)


@router.get("/runs")
def list_runs(
    context: Context,
    state: StateName | None = None,
    model: ModelName | None = None,
    cause_kind: CauseKind = None,
    cause_id: CauseId = None,
    dataset: DatasetRef = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Page[RunView]:
    """Runs, newest first; those that were trained on a version of a dataset, or all."""
    cause = None if cause_kind is None or cause_id is None else Cause(cause_kind, cause_id)
    ref = None if dataset is None else parse_ref(dataset)
    return views.list_runs(context.engine, state=state, model=model, cause=cause, dataset=ref, limit=limit, after=after)


@router.get("/runs/{run}")
def get_run(run: RunId, context: Context) -> RunDetail:
    """One run, with everything that is recorded of it."""
    return views.get_run(context.engine, run)


@router.post("/runs/{run}/cancel")
def cancel_run(run: RunId, context: Context, who: Who) -> RunDetail:
    """Cancel a run that has not ended; its trainer ends the execution within seconds."""
    return service.cancel_run(context.engine, run, who=who, now=context.clock())


@router.post("/runs/{run}/candidate", status_code=201)
def make_candidate(run: RunId, context: Context) -> CandidateDetail:
    """Let the bundle of a run that a person asked for wait for an approval. Once a run, however often it is asked."""
    made = candidate_of(context.engine, run, now=context.clock())
    note_subject(candidate=made)
    return get_candidate(context.engine, made)


@router.post("/run-claims")
def claim_run(body: ClaimRequest, context: Context) -> ClaimView:
    """Take the oldest queued run, for a trainer. It then says how it goes at least once a minute."""
    found = service.claim_run(context.engine, body.trainer, now=context.clock(), recipes=body.recipes)
    return ClaimView(run=found, datasets_url=None if found is None else context.datasets.url)


@router.post("/runs/{run}/progress", status_code=204)
def report_progress(run: RunId, body: ProgressRequest, context: Context) -> None:
    """Say that an execution goes on; refused with `run.lost` where it is to end."""
    service.report_progress(
        context.engine, run, body.attempt, progress=body.progress, text=body.text, now=context.clock()
    )


@router.put("/runs/{run}/files/{sha256}", status_code=201, openapi_extra={"requestBody": _FILE})
async def put_file(
    run: RunId,
    sha256: Sha256,
    request: Request,
    context: Context,
    attempt: Annotated[int, Query(ge=1, le=1_000_000)],
) -> RunFile:
    """Store a file of the bundle, or a plot, of a run that the requester executes. Nothing is published by it."""
    service.check_claim(context.engine, run, attempt)
    blob = await receive_blob(context.blobs, sha256, request.stream())
    return RunFile(sha256=blob.sha256, length=blob.length)


@router.post("/runs/{run}/finish")
def finish_run(run: RunId, body: FinishRequest, context: Context) -> RunDetail:
    """End an execution: with the bundle that was uploaded, or with what went wrong; or give the run back."""
    said = body.model_dump(exclude={"attempt", "state"})
    outcome = Outcome(state=State(body.state), **said)
    return service.finish_run(context.engine, context.blobs, run, body.attempt, outcome, now=context.clock())


@router.get("/runs/{run}/bundle/{file}", response_class=FileResponse)
def get_bundle_file(run: RunId, file: FileName, context: Context) -> FileResponse:
    """A file of the bundle that a run made; `manifest.json` names the others. It is not signed."""
    path = views.bundle_file(context.engine, context.blobs, run, file)
    return FileResponse(path, media_type="application/octet-stream", headers={"X-Content-SHA256": path.name})


@router.get("/runs/{run}/plots/{plot}", response_class=FileResponse)
def get_plot(run: RunId, plot: PlotName, context: Context) -> FileResponse:
    """A plot of what a run measured, as SVG."""
    path = views.plot_file(context.engine, context.blobs, run, plot)
    return FileResponse(path, media_type="image/svg+xml", headers=_SVG_HEADERS)

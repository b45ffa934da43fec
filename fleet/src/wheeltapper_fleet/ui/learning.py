"""Pages of learning: runs with their plots, up to four of them side by side; policies and why they act; candidates.

Cost: one page of each list. A run is a row with everything that is recorded of it; :data:`MOST_COMPARED` of them are
read for a comparison. What is under way is asked for again by the page's script, a fragment at a time.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

from fastapi import APIRouter, Path, Query, Request, Response

from wheeltapper_fleet.access.principal import Principal
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.candidates.views import get_candidate, list_candidates
from wheeltapper_fleet.learning.policies.events import Stage
from wheeltapper_fleet.learning.policies.rules import BUDGET_SECONDS
from wheeltapper_fleet.learning.policies.spec import PolicySpec, parse_policy, read_policy
from wheeltapper_fleet.learning.policies.views import explain_event, get_policy, list_events, list_policies
from wheeltapper_fleet.learning.runs.schemas import RunDetail
from wheeltapper_fleet.learning.runs.views import get_run, headline_metrics, list_runs
from wheeltapper_fleet.lineage.runs import run_lineage
from wheeltapper_fleet.ui.answering import ROWS_SHOWN, Named, Word, answer, attempt
from wheeltapper_fleet.ui.rendering import After, Asked, Page, Viewer, render

__all__ = ["MOST_COMPARED", "router"]

router = APIRouter(include_in_schema=False)
MOST_COMPARED: Final = 4
GOING: Final = ("QUEUED", "RUNNING")
RUN_STATES: Final = ("RUNNING", "QUEUED", "SUCCEEDED", "FAILED", "CANCELLED")
CANDIDATE_STATES: Final = ("WAITING", "APPROVED", "REJECTED", "EXPIRED")
TRIALS_SHOWN: Final = 100
_CYCLE: Final = tuple(each for each in Stage if each not in (Stage.CANCELLING, Stage.STOPPED))
"""The stages of a cycle, in order."""
_KINDS: Final = ("parameters", "digests", "metrics")
_Chosen: TypeAlias = Annotated[list[Annotated[str, Query(pattern="^r-[0-9a-f]{12}$")]], Query(alias="run")]
_Cycle: TypeAlias = Annotated[int | None, Query(ge=0, le=999_999_999)]
_Event: TypeAlias = Annotated[int, Path(ge=1, le=2**53)]


@router.get("/data/runs")
def show_runs(request: Request, page: Asked, state: Word = "", model: Word = "", after: After = None) -> Response:
    """Runs, newest first; of a state, of a model."""

    def read(_: object) -> dict[str, Any]:
        found = list_runs(page.engine, state=state or None, model=model or None, limit=ROWS_SHOWN, after=after or None)
        metrics = headline_metrics(page.engine, [run.id for run in found.items])
        return {"found": found, "metrics": metrics, "states": RUN_STATES, "state": state, "model": model}

    return answer("data/runs.html", request, page, read)


@router.get("/data/compare")
def show_comparison(request: Request, page: Asked, chosen: _Chosen = []) -> Response:  # noqa: B006  # FastAPI copies it
    """Up to four runs side by side."""
    return answer("data/compare.html", request, page, lambda _: _compared(page, list(dict.fromkeys(chosen))))


def _compared(page: Page, names: list[str]) -> dict[str, Any]:
    """What differs between runs, and all metrics."""
    if not 2 <= len(names) <= MOST_COMPARED:
        raise FleetError("run.compare", f"choose 2 to {MOST_COMPARED} runs; {len(names)} are chosen", 422)
    found = [get_run(page.engine, name) for name in names]
    settings = [(name, [getattr(run, name) for run in found]) for name in ("model", "recipe", "dataset", "seed")]
    parts = {kind: _rows(found, kind) for kind in _KINDS}
    plots = list(dict.fromkeys(name for run in found for name in sorted(run.plots)))
    return {"runs": found, "settings": settings, "parts_of": parts, "plots": plots}


def _rows(found: list[RunDetail], kind: str) -> list[tuple[str, list[Any], bool]]:
    """Each name with what every run has there, and whether they differ; those that differ come first."""
    values: list[dict[str, Any]] = [getattr(run, kind) for run in found]
    rows = []
    for name in sorted(set().union(*values)):
        row = [each.get(name) for each in values]
        rows.append((name, row, any(each != row[0] for each in row)))
    return rows if kind == "metrics" else sorted(rows, key=lambda row: not row[2])


def _run(page: Page, run: str, who: Principal) -> dict[str, Any]:
    found = get_run(page.engine, run)
    going = found.state in GOING
    gates = {gate.get("name") for gate in found.gates}
    lineage = run_lineage(page.engine, run)
    made = found.state == "SUCCEEDED" and found.cause_kind != "policy" and lineage.candidate is None
    return {
        "run": found,
        "lineage": lineage,
        "may_make": made and who.may("run.queue"),
        "going": going,
        "may_cancel": going and who.may("run.cancel"),
        "metrics": {name: value for name, value in sorted(found.metrics.items()) if name not in gates},
        "trials": found.trials[:TRIALS_SHOWN],
        "more_trials": max(0, len(found.trials) - TRIALS_SHOWN),
    }


@router.get("/data/runs/{run}")
def show_run(run: Named, request: Request, page: Asked) -> Response:
    """A run: how far it is or how it ended, what it was made of, what it measured."""
    return answer("data/run.html", request, page, lambda who: _run(page, run, who))


@router.get("/fragments/run")
def show_run_again(request: Request, page: Asked, who: Viewer, run: Word = "") -> Response:
    """How far a run is, rendered anew."""
    return render("data/run_body.html", who, request, _run(page, run, who))


@router.get("/data/policies")
def show_policies(request: Request, page: Asked, model: Word = "", after: After = None) -> Response:
    """Policies by name."""
    return answer(
        "data/policies.html",
        request,
        page,
        lambda _: {
            "found": list_policies(page.engine, model=model or None, limit=ROWS_SHOWN, after=after or None),
            "model": model,
        },
    )


@router.get("/data/policies/{policy}")
def show_policy(policy: Named, request: Request, page: Asked, cycle: _Cycle = None, after: After = None) -> Response:
    """A policy: where it is, what it may still cost, what happened to it."""

    def read(who: Principal) -> dict[str, Any]:
        found = get_policy(page.engine, policy)
        spec, _ = attempt(lambda: read_policy(parse_policy(found.text)), None)
        return {
            "policy": found,
            "stages": _CYCLE,
            "budget": [] if spec is None else _budget(spec, found.state, page.clock()),
            "cool_down_seconds": None if spec is None else spec.cool_down_seconds,
            "events": list_events(page.engine, policy, cycle=cycle, limit=ROWS_SHOWN, after=after or None),
            "cycle": cycle,
            "may_pause": not found.paused and who.may("policy.pause"),
            "may_resume": (found.paused or found.stage == Stage.STOPPED) and who.may("policy.resume"),
        }

    return answer("data/policy.html", request, page, read)


def _budget(spec: PolicySpec, state: dict[str, Any], now: float) -> list[tuple[str, int, int]]:
    """What a policy began in the last 30 days, and how much it may."""

    def begun(name: str) -> int:
        times = state.get(name)
        return sum(now - BUDGET_SECONDS < at for at in times) if isinstance(times, list) else 0

    return [("runs", begun("runs_at"), spec.budget.runs), ("campaigns", begun("campaigns_at"), spec.budget.campaigns)]


@router.get("/data/policies/{policy}/events/{event}")
def show_causes(policy: Named, event: _Event, request: Request, page: Asked) -> Response:
    """Something that happened to a policy, with its causes back to the limit that was crossed."""
    return answer(
        "data/causes.html",
        request,
        page,
        lambda _: {"policy": policy, "chain": explain_event(page.engine, policy, event)},
    )


@router.get("/data/candidates")
def show_candidates(request: Request, page: Asked, state: Word = "", model: Word = "", after: After = None) -> Response:
    """Candidates, newest first."""
    return answer(
        "data/candidates.html",
        request,
        page,
        lambda _: {
            "found": list_candidates(
                page.engine, state=state or None, model=model or None, limit=ROWS_SHOWN, after=after or None
            ),
            "states": CANDIDATE_STATES,
            "state": state,
            "model": model,
        },
    )


@router.get("/data/candidates/{candidate}")
def show_candidate(candidate: Named, request: Request, page: Asked) -> Response:
    """A candidate: what its gates measured, and how it becomes a release."""

    def read(who: Principal) -> dict[str, Any]:
        found = get_candidate(page.engine, candidate)
        waits = found.state == "WAITING"
        return {
            "candidate": found,
            "waits": waits,
            "may_decide": waits and who.may("candidate.decide"),
            "may_publish": who.may("release.publish"),
        }

    return answer("data/candidate.html", request, page, read)

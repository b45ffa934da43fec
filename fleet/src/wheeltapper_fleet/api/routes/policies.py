"""Routes of policies and candidates: what retrains by itself, and what a person signs or rejects."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from fastapi import APIRouter, Query, Response
from pydantic import WithJsonSchema

from wheeltapper_fleet.api.context import Context, Who
from wheeltapper_fleet.api.parameters import After, Key, Limit, ModelName
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.ground.request import note_subject
from wheeltapper_fleet.learning.candidates import service as candidates
from wheeltapper_fleet.learning.candidates import views as candidate_views
from wheeltapper_fleet.learning.candidates.schemas import (
    ApproveRequest,
    CandidateDetail,
    CandidateState,
    CandidateView,
    RejectRequest,
)
from wheeltapper_fleet.learning.policies import service, views
from wheeltapper_fleet.learning.policies.schemas import (
    PolicyActionRequest,
    PolicyDetail,
    PolicyEventCauses,
    PolicyEventView,
    PolicyRequest,
    PolicyView,
)

__all__ = ["router"]

router = APIRouter()
Cycle: TypeAlias = Annotated[int | None, Query(ge=0, le=999_999_999, description="Only of this cycle.")]
EventNumber: TypeAlias = Annotated[int, WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 2**53})]


@router.post("/policies", status_code=201)
def apply_policy(body: PolicyRequest, context: Context, who: Who) -> PolicyDetail:
    """Take a policy's file (TOML): a new policy, or the new text of one. It begins to watch at once."""
    name = service.apply_policy(context.engine, body.text, who=who, now=context.clock())
    note_subject(policy=name)
    return views.get_policy(context.engine, name)


@router.get("/policies")
def list_policies(
    context: Context,
    model: Annotated[ModelName | None, Query(description="Only of this model.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Page[PolicyView]:
    """Policies, by name."""
    return views.list_policies(context.engine, model=model, limit=limit, after=after)


@router.get("/policies/{policy}")
def get_policy(policy: Key, context: Context) -> PolicyDetail:
    """A policy, where it is, and what is under way."""
    return views.get_policy(context.engine, policy)


@router.get("/policies/{policy}/events")
def list_events(
    policy: Key, context: Context, cycle: Cycle = None, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> Page[PolicyEventView]:
    """What happened to a policy, newest first; also to one that was removed."""
    return views.list_events(context.engine, policy, cycle=cycle, limit=limit, after=after)


@router.get("/policies/{policy}/events/{event}/causes")
def explain_event(policy: Key, event: EventNumber, context: Context) -> PolicyEventCauses:
    """An event and its causes, back to the limit that was crossed; a hundred of them at most."""
    return PolicyEventCauses(chain=views.explain_event(context.engine, policy, event))


@router.post("/policies/{policy}/remove", status_code=204)
def remove_policy(policy: Key, body: PolicyActionRequest, context: Context, who: Who) -> Response:
    """Remove a policy: its run is cancelled, its candidate expires, a campaign goes on. What happened stays."""
    service.remove_policy(context.engine, policy, who=who, why=body.why, now=context.clock())
    return Response(status_code=204)


@router.post("/policies/{policy}/pause")
def pause_policy(policy: Key, body: PolicyActionRequest, context: Context, who: Who) -> PolicyDetail:
    """Let a policy do nothing more for now; what is under way goes on."""
    service.pause_policy(context.engine, policy, who=who, why=body.why, now=context.clock())
    return views.get_policy(context.engine, policy)


@router.post("/policies/{policy}/resume")
def resume_policy(policy: Key, body: PolicyActionRequest, context: Context, who: Who) -> PolicyDetail:
    """Let a paused policy go on, or one that has stopped watch again."""
    service.resume_policy(context.engine, policy, who=who, why=body.why, now=context.clock())
    return views.get_policy(context.engine, policy)


@router.get("/candidates")
def list_candidates(
    context: Context,
    state: Annotated[CandidateState | None, Query(description="Only in this state.")] = None,
    model: Annotated[ModelName | None, Query(description="Only of this model.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Page[CandidateView]:
    """Candidates, newest first."""
    return candidate_views.list_candidates(context.engine, state=state, model=model, limit=limit, after=after)


@router.get("/candidates/{candidate}")
def get_candidate(candidate: Key, context: Context) -> CandidateDetail:
    """A candidate, with what its run measured."""
    return candidate_views.get_candidate(context.engine, candidate)


@router.post("/candidates/{candidate}/approve")
def approve_candidate(candidate: Key, body: ApproveRequest, context: Context, who: Who) -> CandidateDetail:
    """Say that a candidate was signed and published as a release, which must be of the same content."""
    candidates.approve_candidate(
        context.engine, context.blobs, candidate, body.release, who=who, why=body.why, now=context.clock()
    )
    return candidate_views.get_candidate(context.engine, candidate)


@router.post("/candidates/{candidate}/reject")
def reject_candidate(candidate: Key, body: RejectRequest, context: Context, who: Who) -> CandidateDetail:
    """Reject a candidate."""
    candidates.reject_candidate(context.engine, candidate, who=who, why=body.why, now=context.clock())
    return candidate_views.get_candidate(context.engine, candidate)

"""Routes of cases and silences: what needs a person, and what people do about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, TypeAlias

from fastapi import APIRouter, Depends, Path, Query, Response

from wheeltapper_fleet.alerts import silences, views
from wheeltapper_fleet.alerts.schemas import (
    AssignRequest,
    CaseDetail,
    CaseLogEntry,
    CaseVersion,
    CaseView,
    CommentRequest,
    ResolveRequest,
    SilenceRequest,
    SilenceView,
    SimilarCases,
    WorkRequest,
)
from wheeltapper_fleet.alerts.service import Cases, Feedback
from wheeltapper_fleet.alerts.similar import similar_cases
from wheeltapper_fleet.api.context import AdminContext, Context, Scope, Who
from wheeltapper_fleet.api.parameters import After, DeviceId, Limit, ModelName
from wheeltapper_fleet.api.versions import IfMatch, conflict_response, decided_on
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.notify.outbox import announce

__all__ = ["router"]

router = APIRouter()
_MOST: Final = 2**31 - 1
Number: TypeAlias = Annotated[int, Path(ge=1, le=_MOST)]
Person: TypeAlias = Annotated[str, Query(pattern="^[^\\x00]{1,120}$")]
State: TypeAlias = Literal["open", "acknowledged", "in_work", "resolved"]


def _mine(case: Number, context: Context, scope: Scope) -> None:
    """Refuse a case that is none of the requester's devices."""
    views.check_case(context.engine, case, scope, context.clock())


_OF_MINE: Final = [Depends(_mine)]


@router.get("/cases")
def list_cases(
    context: Context,
    scope: Scope,
    order: Literal["risk", "newest"] = "risk",
    state: State | None = None,
    attention: Literal["person", "nobody", "waiting"] | None = None,
    kind: Literal["machine", "device", "release"] | None = None,
    severity: Literal["warning", "critical"] | None = None,
    within: ModelName | None = None,
    site: Person | None = None,
    device: DeviceId | None = None,
    model: ModelName | None = None,
    assignee: Person | None = None,
    parent: Annotated[int, Query(ge=1, le=_MOST)] | None = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Page[CaseView]:
    """Cases that are not resolved, the riskiest first; or all, newest first (``order=newest``)."""
    return views.list_cases(
        context.engine,
        limit,
        after,
        newest=order == "newest" or state == "resolved",
        within=within,
        scope=scope,
        now=context.clock(),
        state=state,
        attention=attention,
        kind=kind,
        severity=severity,
        site=site,
        device=device,
        model=model,
        assignee=assignee,
        parent=parent,
    )


@router.get("/cases/{case}", dependencies=_OF_MINE)
def get_case(case: Number, context: Context, response: Response) -> CaseDetail:
    """One case. The header ``ETag`` is its version."""
    return _shown(context, case, response)


@router.get("/cases/{case}/similar", dependencies=_OF_MINE)
def get_similar(case: Number, context: Context, scope: Scope) -> SimilarCases:
    """Earlier cases of the same model whose reasons agree with this one's, and what they turned out to be."""
    return similar_cases(context.engine, case, scope, context.clock())


@router.get("/cases/{case}/log", dependencies=_OF_MINE)
def list_log(case: Number, context: Context, limit: Limit = DEFAULT_LIMIT, after: After = None) -> Page[CaseLogEntry]:
    """What happened to a case and who did it, newest first."""
    return views.list_case_log(context.engine, case, limit, after)


@router.post("/cases/{case}/acknowledge", response_model=CaseDetail, dependencies=_OF_MINE)
def acknowledge(
    case: Number, body: CaseVersion, context: Context, who: Who, response: Response, if_match: IfMatch = None
) -> Any:
    """Say that somebody has seen the case; it becomes theirs if it was nobody's."""
    version = decided_on(if_match, body.expected_version)
    return _act(context, case, response, if_match, lambda it: it.acknowledge(case, version, who, context.clock()))


@router.post("/cases/{case}/work", response_model=CaseDetail, dependencies=_OF_MINE)
def work(
    case: Number, body: WorkRequest, context: Context, who: Who, response: Response, if_match: IfMatch = None
) -> Any:
    """Say that somebody works on the case."""
    version = decided_on(if_match, body.expected_version)
    return _act(
        context, case, response, if_match, lambda it: it.work(case, version, who, context.clock(), body.work_order)
    )


@router.post("/cases/{case}/resolve", response_model=CaseDetail, dependencies=_OF_MINE)
def resolve(
    case: Number, body: ResolveRequest, context: Context, who: Who, response: Response, if_match: IfMatch = None
) -> Any:
    """Say what was found; it becomes labels. A resolved case may be resolved again, to correct what was said."""
    version = decided_on(if_match, body.expected_version)
    found = Feedback(**body.model_dump(exclude={"expected_version"}))
    return _act(context, case, response, if_match, lambda it: it.resolve(case, version, who, context.clock(), found))


@router.post("/cases/{case}/assign", response_model=CaseDetail, dependencies=_OF_MINE)
def assign(
    case: Number, body: AssignRequest, context: Context, who: Who, response: Response, if_match: IfMatch = None
) -> Any:
    """Say whose case it is."""
    version = decided_on(if_match, body.expected_version)
    return _act(
        context, case, response, if_match, lambda it: it.assign(case, version, who, context.clock(), body.assignee)
    )


@router.post("/cases/{case}/comment", response_model=CaseDetail, dependencies=_OF_MINE)
def comment(
    case: Number, body: CommentRequest, context: Context, who: Who, response: Response, if_match: IfMatch = None
) -> Any:
    """Write a line into the case's log."""
    version = decided_on(if_match, body.expected_version)
    return _act(
        context, case, response, if_match, lambda it: it.comment(case, version, who, context.clock(), body.text)
    )


@router.get("/silences")
def list_silences(
    context: Context, ended: bool = False, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> Page[SilenceView]:
    """Maintenance that holds or is to come, newest first; with ``ended`` also what was."""
    return views.list_silences(context.engine, context.clock(), limit, after, ended)


@router.post("/silences", status_code=201)
def create_silence(body: SilenceRequest, context: Context, who: Who) -> dict[str, int]:
    """Silence an asset and what belongs to it, or the devices of a query; the answer has the silence's number."""
    now = context.clock()
    made = silences.create_silence(
        context.engine,
        asset=body.asset,
        query=body.query,
        from_at=now if body.from_at is None else body.from_at,
        to_at=body.to_at,
        reason=body.reason,
        who=who,
        now=now,
    )
    return {"id": made}


@router.post("/silences/{silence}/end", status_code=204)
def end_silence(silence: Number, context: Context) -> None:
    """End a silence now; what is still raised is looked at again."""
    silences.end_silence(context.engine, silence, context.clock())


def _shown(context: AdminContext, case: int, response: Response) -> CaseDetail:
    found = views.get_case(context.engine, case)
    response.headers["ETag"] = f'"{found.version}"'
    return found


def _act(
    context: AdminContext, case: int, response: Response, if_match: str | None, action: Callable[[Cases], None]
) -> Any:
    """Do something with a case; a conflict is answered with the case as it is now."""
    try:
        action(Cases(context.engine, announce))
    except FleetError as error:
        if error.status != 409:
            raise
        current = views.get_case(context.engine, case)
        return conflict_response(error, if_match, current, current.version)
    return _shown(context, case, response)

"""Routes of aliases: what ``champion`` and ``candidate`` name, and what they named."""

from __future__ import annotations

from fastapi import APIRouter, Response

from wheeltapper_fleet.api import schemas
from wheeltapper_fleet.api.context import Context, Who
from wheeltapper_fleet.api.parameters import After, AliasName, Limit, ModelName
from wheeltapper_fleet.api.versions import IfMatch, conflict_response, decided_on
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.ground.request import note_subject
from wheeltapper_fleet.promotion import service
from wheeltapper_fleet.registry import aliases
from wheeltapper_fleet.registry.schemas import AliasChange, AliasView

__all__ = ["router"]

router = APIRouter()


@router.get("/aliases")
def list_all_aliases(context: Context, limit: Limit = DEFAULT_LIMIT, after: After = None) -> Page[AliasView]:
    """The aliases of all models, by model and name."""
    return aliases.list_aliases(context.engine, None, limit, after)


@router.get("/models/{model}/aliases")
def list_aliases(
    model: ModelName, context: Context, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> Page[AliasView]:
    """The aliases of a model, by name."""
    return aliases.list_aliases(context.engine, model, limit, after)


@router.get("/models/{model}/alias-changes")
def list_changes(
    model: ModelName,
    context: Context,
    alias: AliasName | None = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Page[AliasChange]:
    """Every change of a model's aliases, or of one of them, newest first."""
    return aliases.list_alias_changes(context.engine, model, alias, limit, after)


@router.get("/models/{model}/aliases/{alias}")
def get_alias(model: ModelName, alias: AliasName, context: Context, response: Response) -> AliasView:
    """What an alias names now."""
    found = aliases.get_alias(context.engine, model, alias)
    response.headers["ETag"] = f'"{found.version}"'
    return found


@router.put("/models/{model}/aliases/{alias}", response_model=AliasView)
def set_alias(
    model: ModelName,
    alias: AliasName,
    body: schemas.AliasRequest,
    context: Context,
    who: Who,
    response: Response,
    if_match: IfMatch = None,
) -> AliasView | Response:
    """Let an alias name a release, now; it changes nothing on a device. `If-Match: 0` if it is to be a new one.

    An alias that has a rule which is not met refuses it (`alias.rule`): ask for it by `POST /promotions`.
    """
    note_subject(model=model, alias=alias, release=str(body.release))
    version = None if if_match is None else decided_on(if_match, None)
    try:
        found = service.set_alias(
            context.engine, model, alias, body.release, who=who, why=body.why, now=context.clock(), version=version
        )
    except FleetError as error:
        return _refused(context, model, alias, error, if_match)
    response.headers["ETag"] = f'"{found.version}"'
    return found


@router.post("/models/{model}/aliases/{alias}/remove", status_code=204)
def remove_alias(
    model: ModelName,
    alias: AliasName,
    body: schemas.AliasRemoval,
    context: Context,
    who: Who,
    if_match: IfMatch = None,
) -> Response:
    """Let an alias name nothing. What it named is kept among its changes."""
    note_subject(model=model, alias=alias)
    version = None if if_match is None else decided_on(if_match, None)
    try:
        aliases.remove_alias(context.engine, model, alias, who=who, why=body.why, now=context.clock(), version=version)
    except FleetError as error:
        return _refused(context, model, alias, error, if_match)
    return Response(status_code=204)


def _refused(context: Context, model: str, alias: str, error: FleetError, if_match: str | None) -> Response:
    if error.code != "alias.conflict":
        raise error
    try:
        current = aliases.get_alias(context.engine, model, alias)
    except FleetError:
        raise error from None
    return conflict_response(error, if_match, current, current.version)

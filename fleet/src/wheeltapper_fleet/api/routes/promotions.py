"""Routes of promotions: the rules of aliases, who asks that an alias should name a release, who approves."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from fastapi import APIRouter, Path, Response

from wheeltapper_fleet.api.context import Context, Who
from wheeltapper_fleet.api.parameters import After, AliasName, Limit, ModelName
from wheeltapper_fleet.api.versions import IfMatch, conflict_response, decided_on
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.ground.request import note_subject
from wheeltapper_fleet.promotion import service, views
from wheeltapper_fleet.promotion.schemas import (
    PromotionAnswer,
    PromotionDetail,
    PromotionLogEntry,
    PromotionRequest,
    PromotionView,
    RuleRemoval,
    RuleRequest,
)
from wheeltapper_fleet.registry import promotion as rules
from wheeltapper_fleet.registry.schemas import RuleView

__all__ = ["router"]

router = APIRouter()

Number: TypeAlias = Annotated[int, Path(ge=1, le=2**31 - 1)]


@router.get("/promotion-rules")
def list_rules(
    context: Context, model: ModelName | None = None, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> Page[RuleView]:
    """The rules of all aliases, or of those of a model."""
    return rules.list_rules(context.engine, model, limit, after)


@router.get("/models/{model}/aliases/{alias}/rule")
def get_rule(model: ModelName, alias: AliasName, context: Context, response: Response) -> RuleView:
    """What an alias asks of a release."""
    found = rules.get_rule(context.engine, model, alias)
    response.headers["ETag"] = f'"{found.version}"'
    return found


@router.put("/models/{model}/aliases/{alias}/rule", response_model=RuleView)
def set_rule(
    model: ModelName,
    alias: AliasName,
    body: RuleRequest,
    context: Context,
    who: Who,
    response: Response,
    if_match: IfMatch = None,
) -> RuleView | Response:
    """Let an alias have a rule, in place of the one that it has. `If-Match: 0` if it is to be the first."""
    note_subject(model=model, alias=alias)
    version = None if if_match is None else decided_on(if_match, None)
    try:
        found = rules.set_rule(
            context.engine, model, alias, body.rule, who=who, why=body.why, now=context.clock(), version=version
        )
    except FleetError as error:
        return _refused(context, model, alias, error, if_match)
    response.headers["ETag"] = f'"{found.version}"'
    return found


@router.post("/models/{model}/aliases/{alias}/rule/remove", status_code=204)
def remove_rule(
    model: ModelName, alias: AliasName, body: RuleRemoval, context: Context, who: Who, if_match: IfMatch = None
) -> Response:
    """Let an alias ask nothing of a release."""
    note_subject(model=model, alias=alias)
    version = None if if_match is None else decided_on(if_match, None)
    try:
        rules.remove_rule(context.engine, model, alias, who=who, why=body.why, now=context.clock(), version=version)
    except FleetError as error:
        return _refused(context, model, alias, error, if_match)
    return Response(status_code=204)


@router.get("/models/{model}/promotion-log")
def list_log(
    model: ModelName, context: Context, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> Page[PromotionLogEntry]:
    """What happened to the rules and promotions of a model, newest first."""
    return views.list_promotion_log(context.engine, model, limit, after)


@router.post("/promotions", status_code=201)
def request_promotion(body: PromotionRequest, context: Context, who: Who) -> PromotionDetail:
    """Ask that an alias should name a release, as soon as its rule is met; at once, if it is."""
    note_subject(model=body.model, alias=body.alias, release=str(body.release))
    number = service.request_promotion(
        context.engine, body.model, body.alias, body.release, who=who, why=body.why, now=context.clock()
    )
    return views.get_promotion(context.engine, number, context.clock())


@router.get("/promotions")
def list_promotions(
    context: Context,
    model: ModelName | None = None,
    state: Literal["waiting", "promoted", "rejected", "superseded", "expired"] | None = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Page[PromotionView]:
    """Promotions, newest first."""
    return views.list_promotions(context.engine, model, state, limit, after)


@router.get("/promotions/{promotion}")
def get_promotion(promotion: Number, context: Context) -> PromotionDetail:
    """One promotion: each condition of the rule with what was found, who approved, what happened."""
    return views.get_promotion(context.engine, promotion, context.clock())


@router.post("/promotions/{promotion}/approve")
def approve_promotion(promotion: Number, body: PromotionAnswer, context: Context, who: Who) -> PromotionDetail:
    """Approve a promotion that another person asked for."""
    service.approve_promotion(context.engine, promotion, who=who, why=body.why, now=context.clock())
    return views.get_promotion(context.engine, promotion, context.clock())


@router.post("/promotions/{promotion}/reject")
def reject_promotion(promotion: Number, body: PromotionAnswer, context: Context, who: Who) -> PromotionDetail:
    """Reject a promotion; `why` says the reason."""
    service.reject_promotion(context.engine, promotion, who=who, why=body.why, now=context.clock())
    return views.get_promotion(context.engine, promotion, context.clock())


def _refused(context: Context, model: str, alias: str, error: FleetError, if_match: str | None) -> Response:
    if error.code != "promotion_rule.conflict":
        raise error
    try:
        current = rules.get_rule(context.engine, model, alias)
    except FleetError:
        raise error from None
    return conflict_response(error, if_match, current, current.version)

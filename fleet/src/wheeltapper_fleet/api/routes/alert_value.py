"""Routes of what alerts are worth (the ledger, labels, budgets), and of the limits of triage."""

from __future__ import annotations

import logging
from typing import Annotated, Final, TypeAlias

from fastapi import APIRouter, Path, Query

from wheeltapper_fleet.alerts import policy, value
from wheeltapper_fleet.alerts.schemas import BudgetRequest, BudgetView, LabelView, LimitsRequest, LimitsView, ValueView
from wheeltapper_fleet.api.context import Context, Scope, Who
from wheeltapper_fleet.api.parameters import After, DeviceId, Limit, ModelName
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page

__all__ = ["router"]

_LOG: Final = logging.getLogger(__name__)
_YEAR_SECONDS: Final = 365 * 86_400.0
router = APIRouter()
Time: TypeAlias = Annotated[float, Query(ge=0, le=1e11, allow_inf_nan=False)]
Site: TypeAlias = Annotated[str, Query(pattern="^[^\\x00]{1,120}$")]


@router.get("/alert-value")
def list_value(
    context: Context,
    since: Time | None = None,
    until: Time | None = None,
    model: ModelName | None = None,
    site: Site | None = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Page[ValueView]:
    """True faults, saves, false alarms, precision and lead times by model and site; of the last year by default."""
    end = context.clock() + 1 if until is None else until
    begin = end - _YEAR_SECONDS if since is None else since
    return value.list_value(context.engine, begin, end, limit, after, model=model, site=site)


@router.get("/labels")
def list_labels(
    context: Context,
    scope: Scope,
    device: DeviceId | None = None,
    model: ModelName | None = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Page[LabelView]:
    """What devices measured and what it was, newest first."""
    return value.list_labels(context.engine, limit, after, device=device, model=model, scope=scope, now=context.clock())


@router.get("/alert-budgets")
def list_budgets(context: Context, limit: Limit = DEFAULT_LIMIT, after: After = None) -> Page[BudgetView]:
    """How many false alarms are accepted, and how that is kept."""
    return value.list_budgets(context.engine, context.clock(), limit, after)


@router.post("/alert-budgets", status_code=201)
def set_budget(body: BudgetRequest, context: Context, who: Who) -> dict[str, int]:
    """State a budget; it replaces the one of the same model and site. The answer has its number."""
    made = value.set_budget(context.engine, body, who, context.clock())
    _LOG.info("alert budget %d set by %s", made, who)
    return {"id": made}


@router.post("/alert-budgets/{budget}/delete", status_code=204)
def delete_budget(budget: Annotated[int, Path(ge=1, le=2**31 - 1)], context: Context, who: Who) -> None:
    """Remove a budget."""
    value.delete_budget(context.engine, budget)
    _LOG.info("alert budget %d deleted by %s", budget, who)


@router.get("/triage-limits")
def list_limits(context: Context) -> LimitsView:
    """How long triage waits for what, and when a release is the cause: each limit with its default and its bounds."""
    return LimitsView(limits=policy.list_limits(context.engine))


@router.patch("/triage-limits")
def change_limits(body: LimitsRequest, context: Context, who: Who) -> LimitsView:
    """Set limits of triage; they hold from its next turn on, for cases that are open too."""
    policy.change_policy(context.engine, body.limits, who, context.clock())
    _LOG.info("limits of triage set by %s: %s", who, ", ".join(sorted(body.limits)))
    return LimitsView(limits=policy.list_limits(context.engine))

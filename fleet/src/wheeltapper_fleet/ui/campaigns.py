"""Pages of campaigns: the list, a new one with its dry run, and one with its waves, gates, failures and executions.

Cost: one page of each list. A dry run reads its audience; while somebody writes, only one of at most
:data:`LIVE_DEVICES` devices is run by itself, and a larger one when it is asked for. Failures are counted up to a bound
(:mod:`wheeltapper_fleet.campaigns.failures`).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from wheeltapper_fleet.access.principal import Principal
from wheeltapper_fleet.campaigns.dry_run import plan_campaign
from wheeltapper_fleet.campaigns.failures import COUNTED, count_failures, gate_curves
from wheeltapper_fleet.campaigns.rules.forecast import Outcome
from wheeltapper_fleet.campaigns.schemas import CampaignPlan
from wheeltapper_fleet.campaigns.views import get_campaign, list_campaigns, list_executions, newest_log
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.selection import count_selected
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.registry.views import list_models
from wheeltapper_fleet.ui.answering import ROWS_SHOWN, Word, answer
from wheeltapper_fleet.ui.campaign_charts import gate_chart, plan_bars, wave_blocks
from wheeltapper_fleet.ui.campaign_form import GATES, CampaignForm, spec_of
from wheeltapper_fleet.ui.charts import wave_bars
from wheeltapper_fleet.ui.rendering import After, Asked, Page, Viewer, render

__all__ = ["router"]

router = APIRouter(include_in_schema=False)
CAMPAIGNS_SHOWN: Final = 20
LOG_SHOWN: Final = 30
LIVE_DEVICES: Final = 500
PLANNED_SHOWN: Final = 50
_MODELS_OFFERED: Final = 200
_ACTIONS: Final = {
    "DRAFT": ("start", "abort"),
    "AWAITING_APPROVAL": ("approve", "abort"),
    "SCHEDULED": ("pause", "abort"),
    "RUNNING": ("pause", "complete", "abort"),
    "PAUSED": ("resume", "complete", "abort"),
}
"""What can be done about a campaign in each state; the campaign itself decides."""
_State: TypeAlias = Annotated[str, Query(pattern="^[A-Z_]{0,24}$")]
_Code: TypeAlias = Annotated[str, Query(pattern=r"^[a-z0-9_.]{0,80}$")]
_Form: TypeAlias = Annotated[CampaignForm, Query()]


@router.get("/campaigns")
def show_campaigns(request: Request, page: Asked, after: After = None) -> Response:
    """Campaigns, newest first."""

    def read(who: Principal) -> dict[str, Any]:
        found = list_campaigns(page.engine, CAMPAIGNS_SHOWN, after or None)
        rows = [(each, wave_blocks(wave_bars(each))) for each in found.items]
        return {"found": found, "rows": rows, "may_create": who.may("campaign.create")}

    return answer("campaigns/list.html", request, page, read)


@router.get("/campaigns/new")
def show_new(request: Request, page: Asked, form: _Form) -> Response:
    """The form of a new campaign, with the dry run of what it says."""

    def read(who: Principal) -> dict[str, Any]:
        if not who.may("campaign.create"):
            raise FleetError("api.forbidden", "creating campaigns takes the role release-manager", 403)
        models = list_models(page.engine, _MODELS_OFFERED).items
        return {"form": form, "gates": GATES, "models": models, "outcomes": list(Outcome)} | _planned(page, form)

    return answer("campaigns/new.html", request, page, read)


@router.get("/fragments/campaign-plan")
def show_plan(request: Request, page: Asked, who: Viewer, form: _Form) -> Response:
    """The dry run of what the form says, rendered anew."""
    return render("campaigns/plan.html", who, request, _planned(page, form))


def _planned(page: Page, form: CampaignForm) -> dict[str, Any]:
    """A dry run, or what keeps it from being one: a field that cannot be read, a query with a fault at a column."""
    values: dict[str, Any] = {"spec": None, "plan": None, "bars": [], "matched": None, "problem": "", "blank": False}
    if not form.model and not form.release:
        return values | {"blank": True}
    now = page.clock()
    try:
        spec = spec_of(form)
        with reading(page.engine) as connection:
            matched = count_selected(connection, form.q, now, LIVE_DEVICES)
        values |= {"spec": spec, "matched": matched}
        if matched <= LIVE_DEVICES or form.full:
            plan = _plan(page, spec, form, now)
            values |= {"plan": plan, "bars": plan_bars(plan.waves)}
    except FleetError as error:
        values |= {"problem": error.message, "spec": None}
    return values


def _plan(page: Page, spec: dict[str, Any], form: CampaignForm, now: float) -> CampaignPlan:
    outcome = Outcome(form.outcome) if form.outcome in set(Outcome) else None
    return plan_campaign(page.engine, spec, now=now, outcome=outcome, limit=PLANNED_SHOWN)


def _campaign(page: Page, campaign: str, who: Principal) -> dict[str, Any]:
    """A campaign by itself, with its log's newest lines and what this person may do about it now."""
    found = get_campaign(page.engine, campaign)
    possible = [each for each in _ACTIONS.get(found.state, ()) if each != "complete" or found.continuous]
    if who.name in found.approved_by:
        possible = [each for each in possible if each != "approve"]
    curves = gate_curves(page.engine, campaign) if found.gates else []
    committed = sum(states.get("COMMITTED", 0) for states in found.executions.values())
    return {
        "campaign": found,
        "blocks": wave_blocks(wave_bars(found)),
        "charts": [(curve, gate_chart(curve)) for curve in curves],
        "failures": count_failures(page.engine, campaign),
        "counted": COUNTED,
        "log": newest_log(page.engine, campaign, LOG_SHOWN),
        "actions": [action for action in possible if who.may(f"campaign.{action}")],
        "may_roll_back": bool(committed) and who.may("campaign.rollback"),
        "live": urlencode({"view": "campaign", "campaign": campaign}),
    }


@router.get("/campaigns/{campaign}")
def show_campaign(
    campaign: str, request: Request, page: Asked, state: _State = "", code: _Code = "", after: After = None
) -> Response:
    """One campaign: its waves, gates and failures, its log, and a page of its executions."""

    def read(who: Principal) -> dict[str, Any]:
        values = _campaign(page, campaign, who)
        executions = list_executions(page.engine, campaign, ROWS_SHOWN, after or None, state or None, code or None)
        counts = values["campaign"].executions.values()
        values |= {"executions": executions, "state": state, "code": code}
        return values | {"states": sorted({name for wave in counts for name in wave})}

    return answer("campaigns/campaign.html", request, page, read)


@router.get("/fragments/campaign")
def show_campaign_again(request: Request, page: Asked, who: Viewer, campaign: Word = "") -> Response:
    """What is known of a campaign, rendered anew."""
    return render("campaigns/body.html", who, request, _campaign(page, campaign, who))

"""What people do with campaigns: create, start, approve, pause, resume, complete and abort them. Each is one
transaction, which moves a bounded number of executions; the engine goes on with the rest.

Invariants:
    * Every action names the version of the campaign that the person saw. If the campaign has moved on since, nothing
      changes and the error says where it stands now.
    * Every action is logged with who did it.

Example::

    campaign = create_campaign(engine, {"model": "bearing", "release": 4}, who="ann", now=time.time())
    start_campaign(engine, campaign, version=1, who="ann", now=time.time())
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, Engine, select

from wheeltapper_fleet.campaigns.approvals import approve
from wheeltapper_fleet.campaigns.audience import audience_of
from wheeltapper_fleet.campaigns.claims import pipelines_shown
from wheeltapper_fleet.campaigns.effects import SLICE, carry_out, wind_down
from wheeltapper_fleet.campaigns.rules.campaign import (
    Abort,
    Approve,
    Campaign,
    Complete,
    Event,
    Pause,
    Resume,
    Start,
    step,
)
from wheeltapper_fleet.campaigns.rules.foresight import foresee
from wheeltapper_fleet.campaigns.rules.spec import BEFORE, CampaignSpec, plan_waves, read_spec
from wheeltapper_fleet.campaigns.rules.waves import Wave
from wheeltapper_fleet.campaigns.store import (
    WARNING,
    abort_unreadable,
    campaign_version,
    insert_campaign,
    load_campaign,
    log_campaign,
    save_campaign,
)
from wheeltapper_fleet.campaigns.tallies import tallies_of
from wheeltapper_fleet.campaigns.windows import check_time_zone
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.registry.tables import releases

__all__ = [
    "abort_campaign",
    "approve_campaign",
    "check_releases",
    "complete_campaign",
    "create_campaign",
    "pause_campaign",
    "resume_campaign",
    "start_campaign",
]

_REASON_CHARACTERS: Final = 500


def create_campaign(engine: Engine, spec: CampaignSpec | Mapping[str, Any], *, who: str, now: float) -> str:
    """Create a campaign as DRAFT, over the devices that are in its audience now; returns its id.

    What may go wrong is in its log as lines of the event ``warning``.

    Args:
        engine: the fleet's database.
        spec: what the campaign is to do.
        who: the person, for the log.
        now: Unix seconds.

    Raises:
        FleetError: ``campaign.spec_invalid``, ``campaign.rule_invalid``, ``campaign.rule_unreachable``,
            ``campaign.waves_invalid``, ``campaign.audience_empty``, ``campaign.pipeline_unknown``,
            ``campaign.time_zone_unknown``, ``query.invalid``, ``release.not_found``, ``device.not_found``.
    """
    checked = read_spec(spec)
    check_time_zone(checked)
    campaign_id = f"c-{secrets.token_hex(6)}"
    with reading(engine) as connection:
        check_releases(connection, checked)
        planned = plan_waves(checked, audience_of(connection, checked.audience, now))
        warnings = foresee(checked, planned, pipelines_shown(connection))
    campaign = Campaign(id=campaign_id, spec=checked, waves=tuple(Wave() for _ in planned))
    with engine.begin() as connection:
        insert_campaign(connection, campaign, planned, now)
        log_campaign(connection, campaign_id, who, "created", f"{sum(map(len, planned))} devices", now)
        for warning in warnings:
            log_campaign(connection, campaign_id, who, WARNING, warning, now)
    return campaign_id


def check_releases(connection: Connection, spec: CampaignSpec) -> None:
    """Refuse a specification whose releases do not exist, or that would go back to what it brings.

    Raises:
        FleetError: ``release.not_found``, ``campaign.spec_invalid``.
    """
    for release in {spec.release, spec.rollback_to} - {None, BEFORE}:
        known = select(releases.c.release).where(releases.c.model == spec.model, releases.c.release == release)
        if connection.execute(known).scalar_one_or_none() is None:
            raise FleetError("release.not_found", f"{spec.model} has no published release {release}")
    if spec.rollback_to == spec.release:
        raise FleetError("campaign.spec_invalid", "rollback_to: it is the release itself; name another one", 422)


def start_campaign(engine: Engine, campaign: str, *, version: int, who: str, now: float) -> None:
    """Start a draft: it waits for approval if its spec says so. Raises FleetError as :func:`pause_campaign`."""
    _act(engine, campaign, Start(), version, who, now)


def approve_campaign(engine: Engine, campaign: str, *, version: int, who: str, now: float) -> None:
    """Approve a campaign that waits for approval, as one of the persons that it takes.

    Raises FleetError as :func:`pause_campaign`, and ``campaign.four_eyes``
    (:mod:`wheeltapper_fleet.campaigns.approvals`).
    """
    _act(engine, campaign, Approve(), version, who, now)


def pause_campaign(engine: Engine, campaign: str, *, version: int, who: str, now: float, reason: str = "") -> None:
    """Pause a campaign: no more assignments for now.

    Raises:
        FleetError: ``campaign.not_found``, ``campaign.conflict`` (it is not at ``version`` any more),
            ``campaign.illegal`` (its state does not allow the action).
    """
    _act(engine, campaign, Pause(reason[:_REASON_CHARACTERS] or f"paused by {who}"), version, who, now)


def resume_campaign(engine: Engine, campaign: str, *, version: int, who: str, now: float) -> None:
    """Resume a paused campaign. Raises FleetError as :func:`pause_campaign`, and ``campaign.wave_failed``."""
    _act(engine, campaign, Resume(), version, who, now)


def complete_campaign(engine: Engine, campaign: str, *, version: int, who: str, now: float) -> None:
    """Let no more devices join a continuous campaign: it completes as soon as those that it has have ended, and what it
    gave stays.

    Raises FleetError as :func:`pause_campaign`, also where no device could join any more.
    """
    _act(engine, campaign, Complete(), version, who, now)


def abort_campaign(engine: Engine, campaign: str, *, version: int, who: str, now: float, reason: str = "") -> None:
    """Abort a campaign: nothing more is assigned, and unfinished executions are cancelled.

    Raises FleetError as :func:`pause_campaign`.
    """
    _act(engine, campaign, Abort(reason[:_REASON_CHARACTERS] or f"aborted by {who}"), version, who, now)


def _act(engine: Engine, campaign_id: str, event: Event, version: int, who: str, now: float) -> None:
    with engine.begin() as connection:
        state, current = campaign_version(connection, campaign_id, lock=True)
        if current != version:
            raise FleetError(
                "campaign.conflict",
                f"the campaign is {state} at version {current}, not {version}: look at it and try again",
                409,
            )
        tallies = tallies_of(connection, campaign_id)
        try:
            campaign, _ = load_campaign(connection, campaign_id, tallies)
        except FleetError as error:
            if not isinstance(event, Abort) or error.code != "campaign.unreadable":
                raise
            abort_unreadable(connection, campaign_id, event.reason, who, now)
            wind_down(connection, campaign_id, tallies, SLICE, now)
            return
        after, effects = step(campaign, tallies, event)
        if isinstance(event, Approve):
            needed = campaign.spec.approvals
            if not approve(connection, campaign_id, needed, version=version, who=who, now=now):
                return
        save_campaign(connection, campaign, after, version, now, now)
        carry_out(connection, after, tallies, effects, who=who, most=SLICE, now=now)

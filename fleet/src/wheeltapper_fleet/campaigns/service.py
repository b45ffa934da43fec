"""What people do with campaigns: start, approve, pause, resume, complete and abort them. Each is one
transaction, which moves a bounded number of executions; the engine goes on with the rest. What creates them is
:mod:`wheeltapper_fleet.campaigns.creation`.

Invariants:
    * Every action names the version of the campaign that the person saw. If the campaign has moved on since, nothing
      changes and the error says where it stands now.
    * Every action is logged with who did it.

Example::

    start_campaign(engine, campaign, version=1, who="ann", now=time.time())
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Engine

from wheeltapper_fleet.campaigns.approvals import approve
from wheeltapper_fleet.campaigns.effects import SLICE, carry_out, wind_down
from wheeltapper_fleet.campaigns.rules.campaign import (
    Abort,
    Approve,
    Complete,
    Event,
    Pause,
    Resume,
    Start,
    step,
)
from wheeltapper_fleet.campaigns.store import (
    abort_unreadable,
    campaign_version,
    load_campaign,
    save_campaign,
)
from wheeltapper_fleet.campaigns.tallies import tallies_of
from wheeltapper_fleet.ground.errors import FleetError

__all__ = [
    "abort_campaign",
    "approve_campaign",
    "complete_campaign",
    "pause_campaign",
    "resume_campaign",
    "start_campaign",
]

_REASON_CHARACTERS: Final = 500


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

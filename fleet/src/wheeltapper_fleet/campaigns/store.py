"""Loads and stores campaigns for the pure rules. Everything here runs in the caller's transaction."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Select, or_, select

from wheeltapper_fleet.campaigns.rules.campaign import Campaign, CampaignState, Cancel, Effect, Log
from wheeltapper_fleet.campaigns.rules.spec import CampaignSpec
from wheeltapper_fleet.campaigns.rules.waves import Execution, Wave, WaveState
from wheeltapper_fleet.campaigns.tables import campaign_log, campaigns, executions
from wheeltapper_fleet.devices.commands import create_cancel
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = [
    "TERMINAL_STATES",
    "active_campaigns",
    "any_active_campaign",
    "insert_campaign",
    "load_campaign",
    "log_campaign",
    "record_effects",
    "save_campaign",
]

TERMINAL_STATES: Final = tuple(state.value for state in ExecutionState if state.terminal)
_ACTIVE_STATES: Final = (CampaignState.SCHEDULED.value, CampaignState.RUNNING.value, CampaignState.PAUSED.value)


def active_campaigns(connection: Connection) -> list[str]:
    """Ids of the campaigns that a tick may move on, oldest first.

    Those are the campaigns under way, and aborted ones that still have unfinished executions.
    """
    return list(connection.execute(_active()).scalars())


def any_active_campaign(connection: Connection) -> bool:
    """Whether :func:`active_campaigns` would name one."""
    return connection.execute(_active().limit(1)).first() is not None


def insert_campaign(connection: Connection, campaign: Campaign, now: float) -> None:
    """Store a new campaign with its executions, at version 1."""
    connection.execute(campaigns.insert().values(id=campaign.id, version=1, created_at=now, **_columns(campaign, now)))
    connection.execute(
        executions.insert(),
        [{**asdict(each), "campaign": campaign.id, "updated_at": now} for each in campaign.executions],
    )


def load_campaign(connection: Connection, campaign: str) -> tuple[Campaign, int]:
    """The campaign and its version.

    Raises:
        FleetError: ``campaign.not_found``.
    """
    row = connection.execute(select(campaigns).where(campaigns.c.id == campaign)).one_or_none()
    if row is None:
        raise FleetError("campaign.not_found", f"there is no campaign {campaign[:64]!r}")
    columns = [executions.c[name] for name in Execution.__dataclass_fields__]
    query = select(*columns).where(executions.c.campaign == campaign).order_by(executions.c.wave, executions.c.device)
    loaded = Campaign(
        id=row.id,
        spec=msgspec.convert(row.spec, CampaignSpec),
        waves=tuple(Wave(WaveState(each["state"]), each["since"]) for each in row.waves),
        executions=tuple(Execution(**each) for each in connection.execute(query).mappings()),
        state=CampaignState(row.state),
        reason=row.reason,
    )
    return loaded, int(row.version)


def save_campaign(connection: Connection, before: Campaign, after: Campaign, version: int, now: float) -> None:
    """Store what changed between ``before`` (at ``version``) and ``after``.

    The version rises by one when state, waves or reason changed.
    """
    for old, new in zip(before.executions, after.executions, strict=True):
        if old != new:
            values = {**asdict(new), "updated_at": now}
            connection.execute(executions.update().where(executions.c.id == new.id).values(values))
    if (before.state, before.waves, before.reason) == (after.state, after.waves, after.reason):
        return
    connection.execute(
        campaigns.update().where(campaigns.c.id == after.id).values(version=version + 1, **_columns(after, now))
    )


def log_campaign(connection: Connection, campaign: str, who: str, event: str, detail: str, now: float) -> None:
    """Add a line to the campaign's log."""
    connection.execute(
        campaign_log.insert().values(campaign=campaign, at=now, who=who[:128], event=event, detail=detail)
    )


def record_effects(connection: Connection, campaign: str, effects: tuple[Effect, ...], who: str, now: float) -> None:
    """Store the effects that are rows: log lines, and commands to cancel an execution."""
    for effect in effects:
        if isinstance(effect, Log):
            log_campaign(connection, campaign, who, effect.event, effect.detail, now)
        elif isinstance(effect, Cancel):
            try:
                create_cancel(connection, device=effect.device, execution=effect.execution, now=now)
            except FleetError as error:  # a revoked device: its execution ends by deadline
                log_campaign(connection, campaign, who, "cancel-failed", f"{effect.device}: {error.code}", now)


def _active() -> Select[str]:
    unfinished = select(executions.c.campaign).where(executions.c.state.not_in(TERMINAL_STATES))
    aborted = (campaigns.c.state == CampaignState.ABORTED.value) & campaigns.c.id.in_(unfinished)
    return (
        select(campaigns.c.id)
        .where(or_(campaigns.c.state.in_(_ACTIVE_STATES), aborted))
        .order_by(campaigns.c.created_at, campaigns.c.id)
    )


def _columns(campaign: Campaign, now: float) -> dict[str, Any]:
    return {
        "state": campaign.state.value,
        "spec": msgspec.to_builtins(campaign.spec),
        "waves": [{"state": wave.state.value, "since": wave.since} for wave in campaign.waves],
        "reason": campaign.reason,
        "updated_at": now,
    }

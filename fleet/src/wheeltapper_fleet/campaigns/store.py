"""Campaigns between the database and the pure machine. Everything here runs in the caller's transaction."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from wheeltapper_fleet.campaigns.rules.campaign import Campaign, CampaignState
from wheeltapper_fleet.campaigns.rules.spec import CampaignSpec
from wheeltapper_fleet.campaigns.rules.waves import Execution, Wave, WaveState
from wheeltapper_fleet.campaigns.tables import campaign_log, campaigns, executions
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["insert_campaign", "load_campaign", "log_campaign", "save_campaign"]


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


def save_campaign(connection: Connection, before: Campaign, after: Campaign, version: int, now: float) -> int:
    """Store what changed; returns the new version, which rises when state, waves or reason changed."""
    for old, new in zip(before.executions, after.executions, strict=True):
        if old != new:
            values = {**asdict(new), "updated_at": now}
            connection.execute(executions.update().where(executions.c.id == new.id).values(values))
    if (before.state, before.waves, before.reason) == (after.state, after.waves, after.reason):
        return version
    connection.execute(
        campaigns.update().where(campaigns.c.id == after.id).values(version=version + 1, **_columns(after, now))
    )
    return version + 1


def log_campaign(connection: Connection, campaign: str, who: str, event: str, detail: str, now: float) -> None:
    """Add a line to the campaign's log."""
    connection.execute(
        campaign_log.insert().values(campaign=campaign, at=now, who=who[:128], event=event, detail=detail)
    )


def _columns(campaign: Campaign, now: float) -> dict[str, Any]:
    return {
        "state": campaign.state.value,
        "spec": msgspec.to_builtins(campaign.spec),
        "waves": [{"state": wave.state.value, "since": wave.since} for wave in campaign.waves],
        "reason": campaign.reason,
        "updated_at": now,
    }

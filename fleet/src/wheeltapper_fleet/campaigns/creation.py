"""Creates campaigns, and takes away what a service that died left of one.

A campaign is written in slices, so that the ingest never waits long: its row first, at the version
:data:`~wheeltapper_fleet.campaigns.store.BEING_CREATED`, then its executions, and at last its first version. Until then
nobody sees it, and nothing happens to it.

Example::

    campaign = create_campaign(engine, {"model": "bearing", "release": 4}, who="ann", now=time.time())
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, select

from wheeltapper_fleet.campaigns.audience import audience_of
from wheeltapper_fleet.campaigns.claims import pipelines_shown
from wheeltapper_fleet.campaigns.rules.campaign import Campaign
from wheeltapper_fleet.campaigns.rules.foresight import foresee
from wheeltapper_fleet.campaigns.rules.spec import CampaignSpec, plan_waves, read_spec
from wheeltapper_fleet.campaigns.rules.waves import Wave
from wheeltapper_fleet.campaigns.store import (
    BEING_CREATED,
    WARNING,
    insert_campaign,
    insert_executions,
    log_campaign,
)
from wheeltapper_fleet.campaigns.tables import (
    campaign_log,
    campaign_releases,
    campaign_tallies,
    campaigns,
    executions,
    tally_changes,
)
from wheeltapper_fleet.campaigns.windows import check_time_zone
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.registry.published import published_release
from wheeltapper_fleet.registry.tables import releases

__all__ = ["SLICE", "check_releases", "create_campaign", "remove_unfinished", "unfinished_turn"]

SLICE: Final = 2000
"""Executions that one transaction writes: some 30 ms of the write lock."""
_REST_SECONDS: Final = 0.01
"""Between two slices, so that the ingest gets its share of the interpreter."""
_ABANDONED_SECONDS: Final = 600.0
"""After this a campaign that is still being created has lost whoever created it."""


def create_campaign(
    engine: Engine,
    spec: CampaignSpec | Mapping[str, Any],
    *,
    who: str,
    now: float,
    campaign_id: str | None = None,
) -> str:
    """Create a campaign as DRAFT, over the devices that are in its audience now; returns its id.

    Cost: some 3 s for 100,000 devices, in transactions of :data:`SLICE` of them.

    What may go wrong is in its log as lines of the event ``warning``.

    Args:
        engine: the fleet's database.
        spec: what the campaign is to do.
        who: the person, for the log.
        now: Unix seconds.
        campaign_id: its id, which no other campaign has, for whoever has to find it again; by default by lot.

    Raises:
        FleetError: ``campaign.spec_invalid``, ``campaign.rule_invalid``, ``campaign.rule_unreachable``,
            ``campaign.waves_invalid``, ``campaign.audience_empty``, ``campaign.pipeline_unknown``,
            ``campaign.time_zone_unknown``, ``campaign.creation_lost``, ``query.invalid``, ``release.not_found``,
            ``device.not_found``.
    """
    checked = read_spec(spec)
    check_time_zone(checked)
    campaign_id = campaign_id or f"c-{secrets.token_hex(6)}"
    with reading(engine) as connection:
        check_releases(connection, checked)
        planned = plan_waves(checked, audience_of(connection, checked.audience, now))
        warnings = foresee(checked, planned, pipelines_shown(connection))
    campaign = Campaign(id=campaign_id, spec=checked, waves=tuple(Wave() for _ in planned))
    places = [(number, device) for number, wave in enumerate(planned) for device in wave]
    with engine.begin() as connection:
        insert_campaign(connection, campaign, now, BEING_CREATED)
    try:
        for start in range(0, len(places), SLICE):
            if start:
                time.sleep(_REST_SECONDS)
            _write_slice(engine, campaign_id, places[start : start + SLICE], now)
        with engine.begin() as connection:
            _appear(connection, campaign_id)
            log_campaign(connection, campaign_id, who, "created", f"{len(places)} devices", now)
            for warning in warnings:
                log_campaign(connection, campaign_id, who, WARNING, warning, now)
    except BaseException as error:
        there = True
        with contextlib.suppress(Exception):  # what hindered the one hinders the other; unfinished_turn does it later
            there = _remove(engine, campaign_id)
        if not there:
            raise _lost() from error
        raise
    return campaign_id


def _write_slice(engine: Engine, campaign: str, places: Sequence[tuple[int, str]], now: float) -> None:
    with engine.begin() as connection:
        insert_executions(connection, campaign, places, now)


def _appear(connection: Connection, campaign: str) -> None:
    """Let a campaign be seen, at its first version."""
    hidden = campaigns.c.id == campaign, campaigns.c.version == BEING_CREATED
    if connection.execute(campaigns.update().where(*hidden).values(version=1)).rowcount != 1:
        raise _lost()


def _lost() -> FleetError:
    return FleetError("campaign.creation_lost", "creating the campaign took too long; create it again", 503)


def check_releases(connection: Connection, spec: CampaignSpec) -> None:
    """Refuse a specification whose releases do not exist, or that would go back to what it brings.

    Raises:
        FleetError: ``release.not_found``, ``campaign.spec_invalid``.
    """
    for release in (spec.release, spec.rollback_to):
        if isinstance(release, int):
            published_release(connection, spec.model, release, releases.c.release)
    if spec.rollback_to == spec.release:
        raise FleetError("campaign.spec_invalid", "rollback_to: it is the release itself; name another one", 422)


def remove_unfinished(engine: Engine, before: float) -> int:
    """Remove the campaigns whose creation began before ``before`` (Unix seconds) and has not come to its end.

    Returns how many. Nobody has seen them.
    """
    query = select(campaigns.c.id).where(campaigns.c.version == BEING_CREATED, campaigns.c.updated_at < before)
    with reading(engine) as connection:
        names = list(connection.execute(query).scalars())
    for name in names:
        _remove(engine, name)
    return len(names)


def unfinished_turn(engine: Engine) -> Callable[[float], bool]:
    """A duty that removes what a service that died has left of campaigns: one turn at a Unix time."""

    def turn(now: float) -> bool:
        remove_unfinished(engine, now - _ABANDONED_SECONDS)
        return False

    return turn


def _remove(engine: Engine, campaign: str) -> bool:
    """Remove a campaign that nobody has seen; returns whether it was there."""
    hidden = campaigns.c.id == campaign, campaigns.c.version == BEING_CREATED
    of_hidden = executions.c.campaign.in_(select(campaigns.c.id).where(*hidden))
    mine = select(executions.c.id).where(executions.c.campaign == campaign, of_hidden).limit(SLICE)
    removed = SLICE
    while removed == SLICE:
        with engine.begin() as connection:
            removed = connection.execute(delete(executions).where(executions.c.id.in_(mine))).rowcount
    with engine.begin() as connection:
        there = connection.execute(select(campaigns.c.id).where(*hidden).with_for_update()).first() is not None
        for table in (tally_changes, campaign_tallies, campaign_releases, campaign_log) if there else ():
            connection.execute(delete(table).where(table.c.campaign == campaign))
        connection.execute(delete(campaigns).where(*hidden))
    return there

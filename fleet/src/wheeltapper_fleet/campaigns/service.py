"""Campaigns as people handle them: create, look at, start, approve, pause, resume, abort.

Invariants: every action carries the version that the person saw; if the campaign has moved on, nothing changes and
the answer says where it stands. Every action is logged with who did it.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, Engine, select

from wheeltapper_fleet.campaigns.rules.campaign import (
    Abort,
    Approve,
    Campaign,
    Cancel,
    Effect,
    Event,
    Log,
    Pause,
    Resume,
    Start,
    step,
)
from wheeltapper_fleet.campaigns.rules.spec import Audience, CampaignSpec, plan_waves, read_spec
from wheeltapper_fleet.campaigns.rules.waves import Execution, Wave
from wheeltapper_fleet.campaigns.store import insert_campaign, load_campaign, log_campaign, save_campaign
from wheeltapper_fleet.campaigns.tables import campaign_log, campaigns, executions
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.commands import create_cancel
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.registry.tables import releases

__all__ = [
    "abort_campaign",
    "approve_campaign",
    "create_campaign",
    "get_campaign",
    "list_campaigns",
    "pause_campaign",
    "resume_campaign",
    "start_campaign",
]

_REASON_CHARACTERS: Final = 500


def create_campaign(
    engine: Engine, spec: CampaignSpec | Mapping[str, Any], *, who: str, now: float, start: bool = False
) -> dict[str, Any]:
    """Create a campaign over the devices that are in its audience now, as DRAFT; with ``start``, started at once.

    Raises:
        FleetError: ``campaign.spec_invalid``, ``campaign.rule_invalid``, ``campaign.rule_unreachable``,
            ``campaign.waves_invalid``, ``campaign.audience_empty``, ``release.not_found``, ``device.not_found``.
    """
    checked = read_spec(spec)
    identity = f"c-{secrets.token_hex(6)}"
    with engine.begin() as connection:
        known = select(releases.c.release).where(
            releases.c.model == checked.model, releases.c.release == checked.release
        )
        if connection.execute(known).scalar_one_or_none() is None:
            raise FleetError("release.not_found", f"{checked.model} has no published release {checked.release}")
        planned = plan_waves(checked, _audience(connection, checked.audience))
        campaign = Campaign(
            id=identity,
            spec=checked,
            waves=tuple(Wave() for _ in planned),
            executions=tuple(
                Execution(id=f"e-{secrets.token_hex(8)}", device=device, wave=index)
                for index, wave in enumerate(planned)
                for device in wave
            ),
        )
        insert_campaign(connection, campaign, now)
        log_campaign(connection, identity, who, "created", f"{len(campaign.executions)} devices", now)
        if start:
            _apply(connection, campaign, 1, Start(), who, now)
    return get_campaign(engine, identity)


def get_campaign(engine: Engine, campaign: str) -> dict[str, Any]:
    """One campaign: id, version, state, reason, spec, waves (state, since, counts), executions, log.

    Raises:
        FleetError: ``campaign.not_found``.
    """
    with reading(engine) as connection:
        row = connection.execute(select(campaigns).where(campaigns.c.id == campaign)).mappings().one_or_none()
        if row is None:
            raise FleetError("campaign.not_found", f"there is no campaign {campaign[:64]!r}")
        query = (
            select(executions).where(executions.c.campaign == campaign).order_by(executions.c.wave, executions.c.device)
        )
        each = [dict(execution) for execution in connection.execute(query).mappings()]
        lines = select(campaign_log).where(campaign_log.c.campaign == campaign).order_by(campaign_log.c.id)
        log = [dict(line) for line in connection.execute(lines).mappings()]
    waves = [
        {**wave, "executions": dict(Counter(one["state"] for one in each if one["wave"] == index))}
        for index, wave in enumerate(row["waves"])
    ]
    return {**row, "waves": waves, "executions": each, "log": log}


def list_campaigns(engine: Engine) -> list[dict[str, Any]]:
    """Campaigns, newest first, each with ``executions``: a count by state."""
    with reading(engine) as connection:
        rows = connection.execute(select(campaigns).order_by(campaigns.c.created_at.desc())).mappings().all()
        counts: dict[str, Counter[str]] = {row["id"]: Counter() for row in rows}
        for campaign, state in connection.execute(select(executions.c.campaign, executions.c.state)):
            counts[campaign][state] += 1
    return [{**row, "executions": dict(counts[row["id"]])} for row in rows]


def start_campaign(engine: Engine, campaign: str, *, version: int, who: str, now: float) -> dict[str, Any]:
    """Release a draft. Raises FleetError as :func:`pause_campaign`."""
    return _act(engine, campaign, Start(), version, who, now)


def approve_campaign(engine: Engine, campaign: str, *, version: int, who: str, now: float) -> dict[str, Any]:
    """Agree to a campaign that needs approval. Raises FleetError as :func:`pause_campaign`."""
    return _act(engine, campaign, Approve(), version, who, now)


def pause_campaign(
    engine: Engine, campaign: str, *, version: int, who: str, now: float, reason: str = ""
) -> dict[str, Any]:
    """Assign nothing more for now.

    Raises:
        FleetError: ``campaign.not_found``, ``campaign.conflict`` (it is not at ``version`` any more),
        ``campaign.illegal``.
    """
    return _act(engine, campaign, Pause(reason[:_REASON_CHARACTERS] or f"paused by {who}"), version, who, now)


def resume_campaign(engine: Engine, campaign: str, *, version: int, who: str, now: float) -> dict[str, Any]:
    """Go on. Raises FleetError as :func:`pause_campaign`, and ``campaign.wave_failed``."""
    return _act(engine, campaign, Resume(), version, who, now)


def abort_campaign(
    engine: Engine, campaign: str, *, version: int, who: str, now: float, reason: str = ""
) -> dict[str, Any]:
    """End it. Raises FleetError as :func:`pause_campaign`."""
    return _act(engine, campaign, Abort(reason[:_REASON_CHARACTERS] or f"aborted by {who}"), version, who, now)


def _act(engine: Engine, identity: str, event: Event, version: int, who: str, now: float) -> dict[str, Any]:
    with engine.begin() as connection:
        campaign, current = load_campaign(connection, identity)
        if current != version:
            raise FleetError(
                "campaign.conflict",
                f"the campaign is {campaign.state} at version {current}, not {version}: look at it and try again",
                409,
            )
        _apply(connection, campaign, current, event, who, now)
    return get_campaign(engine, identity)


def _apply(connection: Connection, campaign: Campaign, version: int, event: Event, who: str, now: float) -> None:
    after, effects = step(campaign, event)
    save_campaign(connection, campaign, after, version, now)
    record_effects(connection, campaign.id, effects, who, now)


def record_effects(connection: Connection, campaign: str, effects: tuple[Effect, ...], who: str, now: float) -> None:
    """Store the effects that are rows: log lines and cancel commands."""
    for effect in effects:
        if isinstance(effect, Log):
            log_campaign(connection, campaign, who, effect.event, effect.detail, now)
        elif isinstance(effect, Cancel):
            try:
                create_cancel(connection, device=effect.device, execution=effect.execution, now=now)
            except FleetError as error:  # a revoked device: its execution ends by deadline
                log_campaign(connection, campaign, who, "cancel-failed", f"{effect.device}: {error.code}", now)


def _audience(connection: Connection, audience: Audience) -> list[str]:
    rows = connection.execute(
        select(devices.c.id, devices.c.tags).where(devices.c.revoked.is_(False)).order_by(devices.c.id)
    ).all()
    if audience.devices:
        known = {row.id for row in rows}
        strange = [device for device in audience.devices if device not in known]
        if strange:
            raise FleetError("device.not_found", f"not enrolled, or revoked: {', '.join(strange[:5])}")
        rows = [row for row in rows if row.id in set(audience.devices)]
    return [row.id for row in rows if _has_tags(row.tags, audience.tags)]


def _has_tags(tags: Any, wanted: Mapping[str, str]) -> bool:
    return not wanted or (isinstance(tags, dict) and all(tags.get(key) == value for key, value in wanted.items()))

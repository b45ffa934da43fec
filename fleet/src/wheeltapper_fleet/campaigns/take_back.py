"""Takes devices back: a campaign that rolls back makes another one, over the devices on which it committed. In the
caller's transaction.

Invariants:
    * Each device on which the campaign has committed, however late it says so, is taken back once.
    * A device on which that fails holds up no other: it is one wave, and goes on whatever fails.
    * Where each device goes back to what it ran before, there is a campaign for each such release. One of which that
      is not known keeps what it has; its execution says so (:data:`KEEPS`), and the campaign's log how many they are.
    * At most as many devices are taken in one transaction as its caller says.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from typing import Final, Literal

from sqlalchemy import Connection, select, update

from wheeltapper_fleet.campaigns.before import Target, ran_before
from wheeltapper_fleet.campaigns.moves import new_execution_id
from wheeltapper_fleet.campaigns.rules.campaign import Campaign, CampaignState
from wheeltapper_fleet.campaigns.rules.execution import PENDING, SUCCESS, Execution
from wheeltapper_fleet.campaigns.rules.spec import BEFORE, Audience, CampaignSpec, Success, WaveSpec
from wheeltapper_fleet.campaigns.rules.waves import Wave
from wheeltapper_fleet.campaigns.store import insert_campaign, insert_executions, log_campaign, look_at
from wheeltapper_fleet.campaigns.tables import campaigns, executions
from wheeltapper_fleet.campaigns.tallies import add_moves

__all__ = ["KEEPS", "take_back"]

KEEPS: Final = "rollback.nothing_before"
"""The code of an execution whose device keeps the release: what it ran before is not known."""
_KEEPS_DETAIL: Final = "what it ran before is not known, or was not one release: it keeps this one"

_WHO: Final = "engine"
_UNDER_WAY: Final = (CampaignState.SCHEDULED.value, CampaignState.RUNNING.value, CampaignState.PAUSED.value)


def take_back(
    connection: Connection, campaign: Campaign, release: int | Literal["before"], most: int, now: float
) -> None:
    """Take up to ``most`` devices on which ``campaign`` committed, and which were not taken yet, to ``release``; with
    ``before`` each to the one that it ran before.

    They join the campaign that takes its devices back to that; it is made where there is none, or where it has ended.
    """
    backs = select(campaigns.c.id).where(campaigns.c.takes_back == campaign.id)
    taken = select(executions.c.device).where(executions.c.campaign.in_(backs))
    committed = (executions.c.campaign == campaign.id, executions.c.state == SUCCESS, executions.c.code != KEEPS)
    query = select(executions.c.device, executions.c.updated_at)
    query = query.where(*committed, executions.c.device.not_in(taken)).order_by(executions.c.wave, executions.c.device)
    found = {row.device: row.updated_at for row in connection.execute(query.limit(most))}
    targets: dict[str, Target | None] = dict.fromkeys(found)
    if release == BEFORE:
        targets = ran_before(connection, campaign.id, campaign.spec, found, {})
    else:
        targets = dict.fromkeys(found, (campaign.spec.model, release))
    by_target: dict[Target | None, list[str]] = defaultdict(list)
    for device, target in targets.items():
        by_target[target].append(device)
    if kept := by_target.pop(None, []):
        _keep(connection, campaign, kept, now)
    for target, devices in by_target.items():
        if target is not None:
            _take(connection, campaign, target, devices, now)


def _take(connection: Connection, campaign: Campaign, target: Target, devices: list[str], now: float) -> None:
    """Have ``devices`` taken to ``target`` by the campaign that does so, or by a new one."""
    under_way = select(campaigns.c.id, campaigns.c.spec).where(
        campaigns.c.takes_back == campaign.id, campaigns.c.state.in_(_UNDER_WAY)
    )
    rows = connection.execute(under_way.order_by(campaigns.c.created_at.desc())).all()
    back = next((row.id for row in rows if (row.spec.get("model"), row.spec.get("release")) == target), None)
    if back is None:
        back = _make(connection, campaign, target, devices, now)
        log_campaign(connection, campaign.id, _WHO, "rollback", f"campaign {back} takes its devices back", now)
        return
    joining = [Execution(new_execution_id(), device, 0, campaign=back) for device in devices]
    common = {"campaign": back, "wave": 0, "state": PENDING, "updated_at": now}
    connection.execute(executions.insert(), [{"id": each.id, "device": each.device, **common} for each in joining])
    add_moves(connection, [(None, each) for each in joining])


def _keep(connection: Connection, campaign: Campaign, devices: list[str], now: float) -> None:
    """Say of ``devices`` that they keep the release."""
    mine = (executions.c.campaign == campaign.id, executions.c.device.in_(devices))
    connection.execute(update(executions).where(*mine).values(code=KEEPS, detail=_KEEPS_DETAIL))
    some = ", ".join(devices[:5]) + (" and others" if len(devices) > 5 else "")
    log_campaign(connection, campaign.id, _WHO, "rollback", f"{len(devices)} devices: {_KEEPS_DETAIL}: {some}", now)


def _make(connection: Connection, campaign: Campaign, target: Target, devices: list[str], now: float) -> str:
    spec = campaign.spec
    back = CampaignSpec(
        model=target[0],
        release=target[1],
        pipelines=spec.pipelines,
        audience=Audience(committed_in=campaign.id),
        waves=(WaveSpec(),),
        success=Success(count=1),
        execution_deadline_seconds=spec.execution_deadline_seconds,
        retry=spec.retry,
        priority=spec.priority,
    )
    made = Campaign(f"c-{secrets.token_hex(6)}", back, (Wave(),), CampaignState.SCHEDULED)
    insert_campaign(connection, made, now)
    insert_executions(connection, made.id, [(0, device) for device in devices], now)
    look_at(connection, made.id, now)
    connection.execute(campaigns.update().where(campaigns.c.id == made.id).values(takes_back=campaign.id))
    log_campaign(connection, made.id, _WHO, "created", f"takes back campaign {campaign.id}: {campaign.reason}", now)
    return made.id

"""Takes devices back: a campaign that rolls back makes another one, over the devices on which it committed. In the
caller's transaction.

Invariants:
    * Each device on which the campaign has committed, however late it says so, is taken back once.
    * A device on which that fails holds up no other: it is one wave, and goes on whatever fails.
    * At most as many devices are taken in one transaction as its caller says.
"""

from __future__ import annotations

import secrets
from typing import Final

from sqlalchemy import Connection, select

from wheeltapper_fleet.campaigns.moves import new_execution_id
from wheeltapper_fleet.campaigns.rules.campaign import Campaign, CampaignState
from wheeltapper_fleet.campaigns.rules.execution import PENDING, SUCCESS, Execution
from wheeltapper_fleet.campaigns.rules.spec import Audience, CampaignSpec, Success, WaveSpec
from wheeltapper_fleet.campaigns.rules.waves import Wave
from wheeltapper_fleet.campaigns.store import insert_campaign, log_campaign, look_at
from wheeltapper_fleet.campaigns.tables import campaigns, executions
from wheeltapper_fleet.campaigns.tallies import add_moves

__all__ = ["take_back"]

_WHO: Final = "engine"
_UNDER_WAY: Final = (CampaignState.SCHEDULED.value, CampaignState.RUNNING.value, CampaignState.PAUSED.value)


def take_back(connection: Connection, campaign: Campaign, release: int, most: int, now: float) -> None:
    """Take up to ``most`` devices on which ``campaign`` committed, and which were not taken yet, to ``release``.

    They join the campaign that takes its devices back; it is made where there is none, or where it has ended.
    """
    backs = select(campaigns.c.id).where(campaigns.c.takes_back == campaign.id)
    taken = select(executions.c.device).where(executions.c.campaign.in_(backs))
    committed = (executions.c.campaign == campaign.id, executions.c.state == SUCCESS)
    query = select(executions.c.device).where(*committed, executions.c.device.not_in(taken))
    found = list(connection.execute(query.order_by(executions.c.wave, executions.c.device).limit(most)).scalars())
    under_way = backs.where(campaigns.c.state.in_(_UNDER_WAY)).order_by(campaigns.c.created_at.desc()).limit(1)
    back = connection.execute(under_way).scalar_one_or_none()
    if found and back is None:
        back = _make(connection, campaign, release, found, now)
        log_campaign(connection, campaign.id, _WHO, "rollback", f"campaign {back} takes its devices back", now)
    elif found:
        joining = [Execution(new_execution_id(), device, 0, campaign=back) for device in found]
        common = {"campaign": back, "wave": 0, "state": PENDING, "updated_at": now}
        connection.execute(executions.insert(), [{"id": each.id, "device": each.device, **common} for each in joining])
        add_moves(connection, [(None, each) for each in joining])


def _make(connection: Connection, campaign: Campaign, release: int, devices: list[str], now: float) -> str:
    spec = campaign.spec
    back = CampaignSpec(
        model=spec.model,
        release=release,
        pipelines=spec.pipelines,
        audience=Audience(committed_in=campaign.id),
        waves=(WaveSpec(),),
        success=Success(count=1),
        execution_deadline_seconds=spec.execution_deadline_seconds,
        retry=spec.retry,
        priority=spec.priority,
    )
    made = Campaign(f"c-{secrets.token_hex(6)}", back, (Wave(),), CampaignState.SCHEDULED)
    insert_campaign(connection, made, [devices], now)
    look_at(connection, made.id, now)
    connection.execute(campaigns.update().where(campaigns.c.id == made.id).values(takes_back=campaign.id))
    log_campaign(connection, made.id, _WHO, "created", f"takes back campaign {campaign.id}: {campaign.reason}", now)
    return made.id

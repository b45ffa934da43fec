"""The devices of a campaign's audience. In the caller's transaction."""

from __future__ import annotations

from sqlalchemy import Connection, select

from wheeltapper_fleet.campaigns.rules.execution import SUCCESS
from wheeltapper_fleet.campaigns.rules.spec import Audience
from wheeltapper_fleet.campaigns.tables import campaigns, executions
from wheeltapper_fleet.devices.audience import select_audience
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["audience_of"]


def audience_of(connection: Connection, audience: Audience, now: float) -> list[str]:
    """Ids of the active devices that are in ``audience`` at ``now`` (Unix seconds), in order.

    Cost: one query; with ``committed_in`` another one, which reads the executions of that campaign.

    Raises:
        FleetError: as :func:`wheeltapper_fleet.devices.audience.select_audience`; ``campaign.not_found``:
            ``committed_in`` is no campaign.
    """
    found = select_audience(connection, audience.devices, audience.tags, audience.query, now)
    if not audience.committed_in:
        return found
    if connection.execute(select(campaigns.c.id).where(campaigns.c.id == audience.committed_in)).first() is None:
        raise FleetError("campaign.not_found", f"committed_in: there is no campaign {audience.committed_in!r}", 422)
    mine = (executions.c.campaign == audience.committed_in, executions.c.state == SUCCESS)
    committed = set(connection.execute(select(executions.c.device).where(*mine)).scalars())
    return [device for device in found if device in committed]

"""Who has approved a campaign: four eyes, and as many persons as it asks for. In the caller's transaction.

Invariants:
    * Who created or started a campaign does not approve it, and nobody approves twice: ``campaign.four_eyes``.
    * A campaign is approved by the last of ``approvals`` different persons; each of them is in its log.

A person is the name that the request was made under, which is that of a user or of an API token.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, select

from wheeltapper_fleet.campaigns.store import log_campaign
from wheeltapper_fleet.campaigns.tables import campaign_log, campaigns
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["approve", "approved_by"]

_MADE: Final = ("created", "started")
_APPROVAL: Final = "approval"


def approve(connection: Connection, campaign: str, needed: int, *, version: int, who: str, now: float) -> bool:
    """Store that ``who`` approves; returns whether that completes the ``needed`` approvals.

    Args:
        connection: within the transaction.
        campaign: it waits for approval, and is at ``version``.
        needed: how many persons must approve.
        version: rises by one with each approval that is not the last.
        who: the person.
        now: Unix seconds.

    Raises:
        FleetError: ``campaign.four_eyes``, ``campaign.conflict``.
    """
    name = who[:128]
    if name in _persons(connection, campaign, _MADE):
        raise FleetError("campaign.four_eyes", f"{who} made or started it: another person must approve it", 403)
    before = approved_by(connection, campaign)
    if name in before:
        raise FleetError("campaign.four_eyes", f"{who} has approved it already: another person must approve it", 403)
    log_campaign(connection, campaign, who, _APPROVAL, f"{len(before) + 1} of {needed}", now)
    if len(before) + 1 >= needed:
        return True
    seen = (campaigns.c.id == campaign, campaigns.c.version == version)
    moved = connection.execute(campaigns.update().where(*seen).values(version=version + 1, updated_at=now))
    if moved.rowcount != 1:
        raise FleetError("campaign.conflict", "the campaign has changed: look at it and try again", 409)
    return False


def approved_by(connection: Connection, campaign: str) -> list[str]:
    """Who has approved it so far, in order."""
    return _persons(connection, campaign, (_APPROVAL,))


def _persons(connection: Connection, campaign: str, events: tuple[str, ...]) -> list[str]:
    mine = (campaign_log.c.campaign == campaign, campaign_log.c.event.in_(events))
    query = select(campaign_log.c.who).where(*mine).order_by(campaign_log.c.id)
    return list(dict.fromkeys(connection.execute(query).scalars()))

"""The specification of a new campaign that does what another one did, with some of its fields changed.

A campaign is cloned by its specification, not by its devices: the audience is evaluated anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Engine, select

from wheeltapper_fleet.campaigns.store import log_campaign
from wheeltapper_fleet.campaigns.tables import campaigns
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["cloned_spec", "log_clone"]

_NOT_CLONED: Final = frozenset({"start_at"})
"""The time at which the other one began is over."""


def cloned_spec(engine: Engine, campaign: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The specification of ``campaign`` with ``changes``; a change to None leaves the field at its default.

    It is not checked: whoever creates the campaign does.

    Raises:
        FleetError: ``campaign.not_found``, ``campaign.unreadable``.
    """
    with reading(engine) as connection:
        row = connection.execute(select(campaigns.c.spec).where(campaigns.c.id == campaign)).one_or_none()
    if row is None:
        raise FleetError("campaign.not_found", f"there is no campaign {campaign[:64]!r}", 404)
    if not isinstance(row.spec, dict):
        raise FleetError("campaign.unreadable", f"campaign {campaign[:64]} has no specification to clone", 409)
    kept = {name: value for name, value in row.spec.items() if name not in _NOT_CLONED}
    return {name: value for name, value in {**kept, **changes}.items() if value is not None}


def log_clone(engine: Engine, campaign: str, made: str, *, who: str, now: float) -> None:
    """Say in the log of both campaigns that ``made`` was cloned from ``campaign``."""
    with engine.begin() as connection:
        log_campaign(connection, made, who, "cloned", f"from campaign {campaign}", now)
        log_campaign(connection, campaign, who, "cloned", f"as campaign {made}", now)

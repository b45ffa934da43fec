"""The fleet in numbers, put together from what the rooms read."""

from __future__ import annotations

from sqlalchemy import Engine

from wheeltapper_fleet.alerts.views import list_alerts
from wheeltapper_fleet.api.schemas import Summary
from wheeltapper_fleet.api.totals import FleetNumbers
from wheeltapper_fleet.campaigns.views import list_campaigns
from wheeltapper_fleet.registry.views import list_releases

__all__ = ["fleet_summary"]

_SHOWN = 20


def fleet_summary(engine: Engine, numbers: FleetNumbers) -> Summary:
    """Devices, windows and records counted, with the first releases, and the newest campaigns and alerts.

    Args:
        engine: the fleet's database.
        numbers: of the same fleet.
    """
    totals = numbers.totals()
    records, windows = numbers.stored()
    return Summary(
        devices_enrolled=totals.devices - totals.pending,
        devices_online=totals.online,
        windows=windows,
        records=records,
        releases=list_releases(engine, _SHOWN).items,
        campaigns=list_campaigns(engine, _SHOWN).items,
        alerts=list_alerts(engine, _SHOWN).items,
    )

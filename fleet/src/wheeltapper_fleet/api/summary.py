"""The fleet in numbers, put together from what the rooms read."""

from __future__ import annotations

from sqlalchemy import Engine

from wheeltapper_fleet.alerts.views import list_alerts
from wheeltapper_fleet.api.schemas import Summary
from wheeltapper_fleet.api.totals import fleet_totals
from wheeltapper_fleet.campaigns.views import list_campaigns
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.registry.views import list_releases
from wheeltapper_fleet.telemetry.views import count_windows, total_records

__all__ = ["fleet_summary"]

_SHOWN = 20


def fleet_summary(engine: Engine) -> Summary:
    """Devices, windows and records counted, with the first releases, and the newest campaigns and alerts.

    The sums read one row a pipeline and one a spool; the answer does not grow with the fleet.
    """
    totals = fleet_totals(engine)
    with reading(engine) as connection:
        records = total_records(connection)
        windows = count_windows(connection)
    return Summary(
        devices_enrolled=totals.devices - totals.pending,
        devices_online=totals.online,
        windows=windows,
        records=records,
        releases=list_releases(engine, _SHOWN).items,
        campaigns=list_campaigns(engine, _SHOWN).items,
        alerts=list_alerts(engine, _SHOWN).items,
    )

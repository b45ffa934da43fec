"""The fleet in numbers, put together from what the rooms read."""

from __future__ import annotations

from sqlalchemy import Engine

from wheeltapper_fleet.alerts.views import list_alerts
from wheeltapper_fleet.api.schemas import Summary
from wheeltapper_fleet.campaigns.views import list_campaigns
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.views import online_by_device
from wheeltapper_fleet.registry.views import list_releases
from wheeltapper_fleet.telemetry.views import count_windows, record_totals

__all__ = ["fleet_summary"]


def fleet_summary(engine: Engine) -> Summary:
    """Devices, windows and records counted, with the first releases, and the newest campaigns and alerts."""
    with reading(engine) as connection:
        online = online_by_device(connection)
        records = record_totals(connection, online)
        windows = count_windows(connection)
    return Summary(
        devices_enrolled=len(online),
        devices_online=sum(online.values()),
        windows=windows,
        records=records,
        releases=list_releases(engine).items,
        campaigns=list_campaigns(engine).items,
        alerts=list_alerts(engine).items,
    )

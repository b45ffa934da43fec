"""The fleet in a few numbers, put together from what the rooms count. None of it reads the fleet row by row."""

from __future__ import annotations

import time

from sqlalchemy import Engine

from wheeltapper_fleet.alerts.views import count_waiting
from wheeltapper_fleet.api.schemas import Totals
from wheeltapper_fleet.campaigns.views import count_campaigns
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.rows import count_alarms, count_present
from wheeltapper_fleet.registry.views import count_releases

__all__ = ["fleet_totals"]


def fleet_totals(engine: Engine, now: float | None = None) -> Totals:
    """Count devices, alarms, releases, campaigns and cases.

    Args:
        engine: the fleet's database.
        now: Unix seconds; None: the system's clock.
    """
    moment = time.time() if now is None else now
    with reading(engine) as connection:
        devices, pending, online = count_present(connection)
        warning, critical = count_alarms(connection, moment)
        releases = count_releases(connection)
        states = count_campaigns(connection)
        waiting = count_waiting(connection)
    return Totals(
        devices=devices,
        pending=pending,
        online=online,
        warning=warning,
        critical=critical,
        releases=releases,
        campaigns=sum(states.values()),
        running=states.get("RUNNING", 0),
        paused=states.get("PAUSED", 0),
        cases=waiting,
    )

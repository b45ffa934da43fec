"""The fleet in a few numbers, put together from what the rooms count.

Counting 100,000 devices in their indexes takes some 50 ms: a fleet of :data:`KEPT_FROM` devices and more is therefore
not counted by each answer, but every second while somebody asks (:mod:`wheeltapper_fleet.ground.kept`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from sqlalchemy import Engine

from wheeltapper_fleet.alerts.views import count_waiting
from wheeltapper_fleet.api.schemas import Totals
from wheeltapper_fleet.campaigns.views import count_campaigns
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.rows import count_alarms, count_present
from wheeltapper_fleet.ground.kept import Kept
from wheeltapper_fleet.registry.views import count_releases
from wheeltapper_fleet.telemetry.schemas import SpoolTotals
from wheeltapper_fleet.telemetry.views import count_windows, total_records

__all__ = ["KEPT_FROM", "FleetNumbers", "fleet_totals"]

KEPT_FROM: Final = 5_000


class FleetNumbers:
    """The numbers of one fleet for pages and answers. A small fleet is counted at each ask.

    Args:
        engine: the fleet's database.
        kept_from: from how many devices on a number is kept, for two seconds at most.
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(
        self, engine: Engine, kept_from: int = KEPT_FROM, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._totals = Kept(lambda: fleet_totals(engine), lambda totals: totals.devices >= kept_from, monotonic)
        self._stored = Kept(self._count_stored, lambda _: self.totals().devices >= kept_from, monotonic)

    def totals(self) -> Totals:
        """Devices, alarms, releases, campaigns and cases."""
        return self._totals.read()

    def stored(self) -> tuple[SpoolTotals, int]:
        """What became of the records of all devices, and how many windows are stored."""
        return self._stored.read()

    def _count_stored(self) -> tuple[SpoolTotals, int]:
        with reading(self._engine) as connection:
            return total_records(connection), count_windows(connection)


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

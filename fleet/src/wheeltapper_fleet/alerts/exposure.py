"""The duty that sums up for how long machines were watched: by day, model and site.

Every ten minutes it counts the machines whose pipelines run a model on a device that is online: several points of one
machine are one, a pipeline that no point is mapped to is a machine by itself.

Invariants:
    * Time in which the service or a device was down is not counted: a rate of false alarms is rather too high than too
      low.
    * One statement reads; one writes a row for each model and site. Costs a pass over the pipelines of the fleet, for
      100,000 of them some tenths of a second, as a reader.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Engine, and_, case, func, literal, or_, select

from wheeltapper_fleet.alerts.tables import exposure
from wheeltapper_fleet.assets.tables import assets, point_mappings
from wheeltapper_fleet.db.engine import reading, upsert_statement
from wheeltapper_fleet.devices.tables import device_pipelines, devices

__all__ = ["COUNT_SECONDS", "Exposure"]

COUNT_SECONDS: Final = 600.0
DAY_SECONDS: Final = 86_400


class Exposure:
    """Counts the machines that are watched, again and again.

    Args:
        engine: the fleet's database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._counted_at: float | None = None

    def turn(self, now: float) -> bool:
        """Count, and add the time since the last count, at most twice the pause between two; never more to do."""
        before, self._counted_at = self._counted_at, now
        if before is None or now <= before:
            return False
        seconds = min(now - before, 2 * COUNT_SECONDS)
        source = device_pipelines.c.device + literal("/") + device_pipelines.c.pipeline
        machine = case((assets.c.machine.is_not(None), literal("m:") + assets.c.machine), else_=literal("p:") + source)
        site = func.coalesce(assets.c.site, devices.c.site, "")
        valid = and_(
            point_mappings.c.device == device_pipelines.c.device,
            point_mappings.c.pipeline == device_pipelines.c.pipeline,
            point_mappings.c.from_at <= now,
            or_(point_mappings.c.to_at.is_(None), point_mappings.c.to_at > now),
        )
        query = (
            select(device_pipelines.c.model, site.label("site"), func.count(machine.distinct()).label("machines"))
            .select_from(device_pipelines)
            .join(devices, and_(devices.c.id == device_pipelines.c.device, devices.c.online.is_(True)))
            .outerjoin(point_mappings, valid)
            .outerjoin(assets, assets.c.id == point_mappings.c.point)
            .where(device_pipelines.c.model.is_not(None))
            .group_by(device_pipelines.c.model, site)
        )
        with reading(self._engine) as connection:
            counted = connection.execute(query).all()
        day = int(now // DAY_SECONDS) * DAY_SECONDS
        rows = [
            {"day": day, "model": row.model, "site": row.site, "seconds": row.machines * seconds} for row in counted
        ]
        if rows:
            with self._engine.begin() as connection:
                statement = upsert_statement(connection, exposure)
                added = exposure.c.seconds + statement.excluded.seconds
                keys = ["day", "model", "site"]
                connection.execute(statement.on_conflict_do_update(index_elements=keys, set_={"seconds": added}), rows)
        return False

"""The history of a point: the curves of everything that measured it, one after the other, whichever device it was."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Engine

from wheeltapper_fleet.assets.schemas import CurveView, PointHistory
from wheeltapper_fleet.assets.store import find_assets, mappings_of
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.telemetry.history import history
from wheeltapper_fleet.telemetry.schemas import PointView

__all__ = ["point_history"]

_MOST: Final = 50
"""Mappings of one answer, the newest."""


def point_history(engine: Engine, point: str, since: float, until: float, points: int) -> PointHistory:
    """The curves of a point between two times (Unix seconds), at most ``points`` points in all.

    Raises:
        FleetError: ``asset.not_found``, ``asset.not_a_point``, ``history.range``.
    """
    if since >= until:
        raise FleetError("history.range", "`from` must be before `to`", 400)
    curves = []
    with reading(engine) as connection:
        row = find_assets(connection, [point]).get(point)
        if row is None:
            raise FleetError("asset.not_found", f"there is no asset {point[:63]!r}", 404)
        if row["kind"] != "point":
            raise FleetError("asset.not_a_point", f"{point} is a {row['kind']}; only a point is measured", 422)
        for mapping in reversed(mappings_of(connection, point, _MOST)):
            begin = max(since, mapping.from_at)
            end = until if mapping.to_at is None else min(until, mapping.to_at)
            if begin >= end:
                continue
            share = max(1, int(points * (end - begin) / (until - since)))
            found = history(connection, mapping.device, mapping.pipeline, begin, end, share)
            curves.append(
                CurveView(
                    device=mapping.device,
                    pipeline=mapping.pipeline,
                    channel=mapping.channel,
                    from_at=begin,
                    to_at=end,
                    points=[PointView(**vars(each)) for each in found],
                )
            )
    return PointHistory(asset=point, curves=curves)

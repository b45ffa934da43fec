"""Rows of assets and mappings, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final

from sqlalchemy import Connection, Row, case, delete, insert, or_, select, text, update

from wheeltapper_fleet.assets.rules import Span
from wheeltapper_fleet.assets.tables import assets, point_mappings
from wheeltapper_fleet.db.engine import insert_one
from wheeltapper_fleet.ground.errors import FleetError

__all__ = [
    "change_below",
    "delete_row",
    "end_mappings",
    "find_assets",
    "has_history",
    "insert_assets",
    "insert_mapping",
    "lock_assets",
    "mappings_of",
    "points_below",
    "spans_of",
    "update_row",
]

_IN_A_QUERY: Final = 500


def lock_assets(connection: Connection) -> None:
    """Let one transaction at a time change assets, so that what was checked still holds when it is written."""
    if connection.dialect.name == "postgresql":  # SQLite has one writer anyhow
        connection.execute(text("LOCK TABLE assets, point_mappings IN SHARE ROW EXCLUSIVE MODE"))


def find_assets(connection: Connection, ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """The rows of ``ids``, by id; what is not there is left out."""
    found: dict[str, dict[str, Any]] = {}
    wanted = sorted(set(ids))
    for start in range(0, len(wanted), _IN_A_QUERY):
        query = select(assets).where(assets.c.id.in_(wanted[start : start + _IN_A_QUERY]))
        found |= {row["id"]: dict(row) for row in connection.execute(query).mappings()}
    return found


def insert_assets(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Add assets."""
    if rows:
        connection.execute(insert(assets), rows)


def update_row(connection: Connection, asset: str, version: int, values: dict[str, Any]) -> None:
    """Change one asset from ``version`` to the next.

    Raises:
        FleetError: ``asset.conflict``.
    """
    same = (assets.c.id == asset, assets.c.version == version)
    if connection.execute(update(assets).where(*same).values(**values, version=version + 1)).rowcount != 1:
        raise FleetError("asset.conflict", f"{asset} has changed since version {version}: read it again", 409)


def change_below(connection: Connection, asset: str, kind: str, values: dict[str, Any]) -> None:
    """Change everything that belongs to an asset, not the asset itself."""
    below = (assets.c[kind] == asset, assets.c.id != asset)
    connection.execute(update(assets).where(*below).values(**values, version=assets.c.version + 1))


def delete_row(connection: Connection, asset: str) -> None:
    """Remove one asset."""
    connection.execute(delete(assets).where(assets.c.id == asset))


def has_history(connection: Connection, asset: str) -> str | None:
    """Why an asset may not be removed: something belongs to it, or something measures or measured it."""
    child = connection.execute(select(assets.c.id).where(assets.c.parent == asset).limit(1)).scalar()
    if child is not None:
        return f"{child} belongs to it"
    query = select(point_mappings.c.device).where(point_mappings.c.point == asset).limit(1)
    device = connection.execute(query).scalar()
    return None if device is None else f"{device} measures it or did, and its history hangs on it"


def spans_of(
    connection: Connection, sources: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], list[tuple[Span, int]]]:
    """The spans of devices' pipelines with the ids of their rows, oldest first, by (device, pipeline)."""
    wanted = set(sources)
    devices = sorted({device for device, _ in wanted})
    found: dict[tuple[str, str], list[tuple[Span, int]]] = {}
    for start in range(0, len(devices), _IN_A_QUERY):
        query = select(point_mappings).where(point_mappings.c.device.in_(devices[start : start + _IN_A_QUERY]))
        for row in connection.execute(query.order_by(point_mappings.c.from_at, point_mappings.c.id)):
            if (row.device, row.pipeline) in wanted:
                span = Span(row.point, row.channel, row.from_at, row.to_at)
                found.setdefault((row.device, row.pipeline), []).append((span, row.id))
    return found


def mappings_of(connection: Connection, point: str, limit: int) -> list[Row[Any]]:
    """The mappings of a point, newest first."""
    query = select(point_mappings).where(point_mappings.c.point == point)
    order = (point_mappings.c.from_at.desc(), point_mappings.c.id.desc())
    return list(connection.execute(query.order_by(*order).limit(limit)))


def insert_mapping(connection: Connection, values: dict[str, Any]) -> int:
    """Add a mapping; returns its id."""
    return insert_one(connection, point_mappings, values)


def end_mappings(connection: Connection, points: Any, at: float) -> int:
    """End the mappings of ``points`` (a list of ids, or a query for them) that hold at ``at`` or later; how many.

    One that begins later than ``at`` never holds: its end is its beginning.
    """
    end = case((point_mappings.c.from_at > at, point_mappings.c.from_at), else_=at)
    open_ones = or_(point_mappings.c.to_at.is_(None), point_mappings.c.to_at > at)
    return connection.execute(
        update(point_mappings).where(point_mappings.c.point.in_(points), open_ones).values(to_at=end)
    ).rowcount


def points_below(asset: str, kind: str) -> Any:
    """A query for the points that belong to an asset of ``kind``, or the point itself."""
    column = assets.c.id if kind == "point" else assets.c[kind]
    return select(assets.c.id).where(column == asset, assets.c.kind == "point")

"""Machines as people look at them: each with its points, what measures them now, and what that says.

Cost: a page of machines is four statements, whatever the size of the fleet; it reads the points of the machines on it,
:data:`POINTS_READ` at most. One machine is five statements over the points on its page.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, or_, select

from wheeltapper_fleet.assets.rules import inherit
from wheeltapper_fleet.assets.schemas import AssetView, Attributes
from wheeltapper_fleet.assets.store import find_assets
from wheeltapper_fleet.assets.tables import assets, point_mappings
from wheeltapper_fleet.assets.views import list_assets, view_of
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.telemetry.views import latest_windows

__all__ = ["MachineRow", "MachineState", "PointState", "SourceState", "get_machine", "list_machines"]

POINTS_READ: Final = 2000
_RANKS: Final = {"normal": 1, "warning": 2, "critical": 3}


@dataclass(frozen=True, kw_only=True)
class SourceState:
    """A device's pipeline that measures a point now, and what its newest window said.

    ``score`` to ``zone`` are None where nothing was said; ``present`` says whether the score is of now.
    """

    device: str
    pipeline: str
    channel: str
    present: bool
    at: float | None
    """When the newest score came, in Unix seconds."""
    score: float | None
    severity: str | None
    zone: str | None
    value: float | None
    label: str | None
    model: str | None
    release: int | None


@dataclass(frozen=True, kw_only=True)
class PointState:
    """A point, its attributes with what is taken from above, and what measures it now."""

    asset: AssetView
    effective: Attributes
    sources: tuple[SourceState, ...]


@dataclass(frozen=True, kw_only=True)
class MachineState:
    """A machine and a page of its points, by id; ``next`` is the cursor of the next page."""

    asset: AssetView
    points: tuple[PointState, ...]
    next: str | None


@dataclass(frozen=True, kw_only=True)
class MachineRow:
    """One line a machine: the worst of what its points say now. ``cut``: it has more points than were read."""

    asset: AssetView
    points: int
    measured: int
    severity: str | None
    score: float | None
    zone: str | None
    cut: bool


def list_machines(
    engine: Engine, now: float, limit: int = DEFAULT_LIMIT, after: str | None = None, within: str | None = None
) -> Page[MachineRow]:
    """A page of machines by id, with the worst of what their points say at ``now`` (Unix seconds).

    Args:
        engine: the fleet's database.
        now: Unix seconds.
        limit, after: the page.
        within: only those of this site, or this machine.

    Raises:
        FleetError: ``cursor.invalid``, ``asset.not_found`` (``within``).
    """
    found = list_assets(engine, limit=limit, after=after, within=within, kind="machine")
    names = [each.id for each in found.items]
    below = select(assets.c.id, assets.c.machine).where(
        assets.c.machine.in_(names), assets.c.kind == "point", assets.c.retired_at.is_(None)
    )
    with reading(engine) as connection:
        rows = connection.execute(below.order_by(assets.c.machine, assets.c.id).limit(POINTS_READ)).all()
        sources = _sources(connection, [row.id for row in rows], now)
    points: dict[str, list[str]] = {}
    for row in rows:
        points.setdefault(row.machine, []).append(row.id)
    last = rows[-1].machine if len(rows) == POINTS_READ else None
    items = [_row(each, points.get(each.id, []), sources, last is not None and each.id >= last) for each in found.items]
    return Page(items, found.next)


def get_machine(engine: Engine, machine: str, now: float, limit: int, after: str | None = None) -> MachineState:
    """One machine with a page of its points.

    Raises:
        FleetError: ``asset.not_found``, ``asset.not_a_machine``, ``cursor.invalid``.
    """
    with reading(engine) as connection:
        row = find_assets(connection, [machine]).get(machine)
        if row is None:
            raise FleetError("asset.not_found", f"there is no asset {machine[:63]!r}", 404)
        if row["kind"] != "machine":
            raise FleetError("asset.not_a_machine", f"{machine} is a {row['kind']}, not a machine", 404)
        query = select(assets).where(
            assets.c.machine == machine, assets.c.kind == "point", assets.c.retired_at.is_(None)
        )
        rows, following = page_of(connection, query, (assets.c.id,), limit=limit, after=after)
        shown = [view_of(dict(each._mapping)) for each in rows]
        names = {name for each in shown for name in (each.component, each.machine, each.site) if name is not None}
        above = {name: view_of(found).attributes for name, found in find_assets(connection, names).items()}
        sources = _sources(connection, [each.id for each in shown], now)
    points = tuple(
        PointState(
            asset=each,
            effective=inherit(
                each.attributes,
                [above[name] for name in (each.component, each.machine, each.site) if name in above],
            ),
            sources=tuple(sources.get(each.id, ())),
        )
        for each in shown
    )
    return MachineState(asset=view_of(row), points=points, next=following)


def _sources(connection: Connection, points: Collection[str], now: float) -> dict[str, list[SourceState]]:
    """What measures each of ``points`` now."""
    table = point_mappings
    current = (table.c.from_at <= now, or_(table.c.to_at.is_(None), table.c.to_at > now))
    wanted = sorted(points)
    rows: list[Any] = []
    for start in range(0, len(wanted), 500):
        query = select(table).where(table.c.point.in_(wanted[start : start + 500]), *current)
        rows += connection.execute(query.order_by(table.c.point, table.c.id)).all()
    said = latest_windows(connection, sorted({(row.device, row.pipeline) for row in rows}))
    found: dict[str, list[SourceState]] = {}
    for row in rows:
        newest = said.get((row.device, row.pipeline), {})
        score = newest.get("present")
        found.setdefault(row.point, []).append(
            SourceState(
                device=row.device,
                pipeline=row.pipeline,
                channel=row.channel,
                present=score is not None and score.present(now),
                **{
                    name: newest.get(name)
                    for name in ("at", "score", "severity", "zone", "value", "label", "model", "release")
                },
            )
        )
    return found


def _row(asset: AssetView, points: list[str], sources: dict[str, list[SourceState]], cut: bool) -> MachineRow:
    present = [each for point in points for each in sources.get(point, ()) if each.present]
    worst = max(present, key=lambda each: _RANKS.get(each.severity or "", 0), default=None)
    return MachineRow(
        asset=asset,
        points=len(points),
        measured=sum(any(each.present for each in sources.get(point, ())) for point in points),
        severity=None if worst is None else worst.severity,
        score=max((each.score for each in present if each.score is not None), default=None),
        zone=max((each.zone for each in present if each.zone is not None), default=None),
        cut=cut,
    )

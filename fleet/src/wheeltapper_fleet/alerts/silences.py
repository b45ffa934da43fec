"""Silences: maintenance of an asset and what belongs to it, or of the devices of a query, from when to when.

Invariant: an alert within a silence is kept and counted; only nobody is told while it lasts. When it ends, also by
hand, triage looks again at what is still raised; when it begins, at what is open.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine, select, update

from wheeltapper_fleet.alerts.case_store import lock_cases
from wheeltapper_fleet.alerts.tables import cases, silences
from wheeltapper_fleet.assets.lookup import Place
from wheeltapper_fleet.assets.store import find_assets, points_below
from wheeltapper_fleet.db.engine import insert_one
from wheeltapper_fleet.devices.selection import where
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.query import parse

__all__ = ["Silence", "create_silence", "end_silence", "silences_within", "silencing"]

_MOST: Final = 500


@dataclass(frozen=True)
class Silence:
    """A silence, and which of the devices in question its query means."""

    id: int
    asset: str | None
    devices: frozenset[str]
    from_at: float
    to_at: float
    reason: str


def create_silence(
    engine: Engine, *, asset: str | None, query: str, from_at: float, to_at: float, reason: str, who: str, now: float
) -> int:
    """Silence an asset and what belongs to it, or the devices of a query; returns the number of the silence.

    Raises:
        FleetError: ``silence.invalid``, ``query.invalid``, ``asset.not_found``, ``silence.too_many``.
    """
    if (asset is None) == (not query.strip()):
        raise FleetError("silence.invalid", "say what is silenced: an asset, or a query of devices", 422)
    if not max(from_at, now) < to_at:
        raise FleetError("silence.invalid", "a silence ends in the future, after it begins", 422)
    if query.strip():
        parse(query)
    with engine.begin() as connection:
        lock_cases(connection)
        if asset is not None and not find_assets(connection, [asset]):
            raise FleetError("asset.not_found", f"there is no asset {asset[:63]!r}", 404)
        valid = select(silences.c.id).where(silences.c.to_at > now).limit(_MOST)
        if len(connection.execute(valid).all()) >= _MOST:
            raise FleetError("silence.too_many", f"there are {_MOST} silences already; end some", 409)
        row = {"asset": asset, "query": query.strip(), "from_at": from_at, "to_at": to_at, "reason": reason}
        number = insert_one(connection, silences, {**row, "who": who, "created_at": now})
        if from_at <= now:
            _judge_again(connection, asset, query, now)
        return number


def end_silence(engine: Engine, number: int, now: float) -> None:
    """End a silence now; one that has not begun never holds.

    Raises:
        FleetError: ``silence.not_found``: there is none, or it has ended.
    """
    with engine.begin() as connection:
        lock_cases(connection)
        same = (silences.c.id == number, silences.c.to_at > now)
        row = connection.execute(select(silences).where(*same)).first()
        if row is None:
            raise FleetError("silence.not_found", f"there is no silence {number} that could be ended", 404)
        connection.execute(update(silences).where(*same).values(to_at=now))
        waiting = (cases.c.look_at == row.to_at, cases.c.attention == "nobody")
        connection.execute(update(cases).where(*waiting).values(look_at=now))


def _judge_again(connection: Connection, asset: str | None, query: str, now: float) -> None:
    """Have triage look at once at the open cases of what was silenced."""
    if asset is not None:
        kind = find_assets(connection, [asset])[asset]["kind"]
        meant = cases.c.point.in_(points_below(asset, kind))
    else:
        meant = cases.c.device.in_(select(devices.c.id).where(where(parse(query), now)))
    connection.execute(update(cases).where(cases.c.state == "open", meant).values(look_at=now))


def silences_within(
    connection: Connection, from_at: float, to_at: float, names: Collection[str], now: float
) -> list[Silence]:
    """The silences that hold at some time between two, each with those of the devices ``names`` that it means.

    Costs one query, and one more for each silence that has a query; there are at most 500.
    """
    wanted = select(silences).where(silences.c.to_at > from_at, silences.c.from_at <= to_at).order_by(silences.c.id)
    found = []
    for row in connection.execute(wanted).all():
        meant: frozenset[str] = frozenset()
        if row.query:
            chosen = select(devices.c.id).where(devices.c.id.in_(sorted(names)), where(parse(row.query), now))
            meant = frozenset(connection.execute(chosen).scalars())
        found.append(Silence(row.id, row.asset, meant, row.from_at, row.to_at, row.reason))
    return found


def silencing(
    silent: Collection[Silence], device: str, point: str | None, places: Mapping[str, Place], at: float
) -> Silence | None:
    """The silence that a point of a device is in at ``at``, the one that ends last; None if there is none."""
    place = places.get(point) if point is not None else None
    assets = set() if place is None else {place.point, place.component, place.machine, place.site}
    valid = [
        each
        for each in silent
        if each.from_at <= at < each.to_at and (each.asset in assets if each.asset else device in each.devices)
    ]
    return max(valid, key=lambda each: each.to_at, default=None)

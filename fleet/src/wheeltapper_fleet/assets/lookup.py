"""Which point something that a device said belongs to, and where that point is. In the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from wheeltapper_fleet.assets.rules import Span
from wheeltapper_fleet.assets.store import find_assets, spans_of

__all__ = ["Place", "places_of", "spans_by_source"]

_RANK: Final = {"low": 0, "normal": 1, "high": 2}


@dataclass(frozen=True)
class Place:
    """Where a point is, and how critical: the highest of the point, its component and its machine."""

    point: str
    component: str | None
    machine: str | None
    site: str
    criticality: str


def spans_by_source(connection: Connection, sources: Iterable[tuple[str, str]]) -> dict[tuple[str, str], list[Span]]:
    """What each (device, pipeline) measures and measured. Costs one query for 500 devices, and reads their mappings."""
    return {source: [span for span, _ in spans] for source, spans in spans_of(connection, sources).items()}


def places_of(connection: Connection, points: Collection[str]) -> dict[str, Place]:
    """The places of ``points``; two queries for 500 of them."""
    rows = find_assets(connection, points)
    above = {row[kind] for row in rows.values() for kind in ("component", "machine") if row[kind] is not None}
    found = find_assets(connection, above - rows.keys()) | rows
    places = {}
    for point, row in rows.items():
        chain = [row] + [found[row[kind]] for kind in ("component", "machine") if row[kind] in found]
        worst = max((each["criticality"] for each in chain), key=lambda word: _RANK.get(word, 1))
        places[point] = Place(point, row["component"], row["machine"], row["site"], worst)
    return places

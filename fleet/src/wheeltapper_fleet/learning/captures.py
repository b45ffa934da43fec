"""Recordings that came from devices, with their machine and what resolved cases say of them: a source of datasets.

Cost: a page is one query for its captures, two or three for their measuring points, and one short query for the
labels of each device's pipeline on it; nothing is proportional to the fleet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, select

from wheeltapper_fleet.alerts.tables import labels
from wheeltapper_fleet.assets.lookup import places_of, spans_by_source
from wheeltapper_fleet.assets.rules import point_of
from wheeltapper_fleet.captures.tables import captures
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.devices.selection import where
from wheeltapper_fleet.devices.tables import devices
from wheeltapper_fleet.ground.paging import Page
from wheeltapper_fleet.ground.query import parse
from wheeltapper_fleet.learning.schemas import CaptureForDataset, CaptureLabel

__all__ = ["captures_of", "list_captures"]

_LABELS: Final = 50


def list_captures(
    engine: Engine,
    now: float,
    limit: int,
    after: str | None,
    *,
    query: str = "",
    pipeline: str | None = None,
    since: float | None = None,
) -> Page[CaptureForDataset]:
    """Recordings that are here, oldest first.

    Args:
        engine: the fleet's database.
        now: Unix seconds, for the ages in ``query``.
        limit: how many.
        after: the cursor of the page before.
        query: which devices; empty: all.
        pipeline: only of this one.
        since: only those that came since (Unix seconds).

    Raises:
        FleetError: ``query.invalid``, ``cursor.invalid``.
    """
    wanted = select(captures)
    if query:
        wanted = wanted.where(captures.c.device.in_(select(devices.c.id).where(where(parse(query), now))))
    if pipeline is not None:
        wanted = wanted.where(captures.c.pipeline == pipeline)
    if since is not None:
        wanted = wanted.where(captures.c.received_at >= since)
    with reading(engine) as connection:
        key = (captures.c.received_at, captures.c.command)
        rows, following = page_of(connection, wanted, key, limit=limit, after=after)
        found = _described(connection, rows)
    return Page(found, following)


def captures_of(connection: Connection, names: Sequence[str]) -> list[CaptureForDataset]:
    """Those recordings of ``names`` (commands, or rules' recordings) that are here, in their order; at most some
    hundreds."""
    wanted = select(captures).where(captures.c.command.in_(names)).order_by(captures.c.received_at, captures.c.command)
    return _described(connection, connection.execute(wanted).all())


def _described(connection: Connection, rows: Any) -> list[CaptureForDataset]:
    """Rows with their machines and labels."""
    places = _places(connection, rows)
    known: dict[tuple[str, str], list[CaptureLabel]] = {}
    for row in rows:
        source = (row.device, row.pipeline)
        if source not in known:
            known[source] = _labels(connection, *source)
    return [_capture(row, places, known) for row in rows]


def _places(connection: Connection, rows: Any) -> dict[str, tuple[str, str]]:
    """The machine and the site of each capture, by its command."""
    spans = spans_by_source(connection, {(row.device, row.pipeline) for row in rows})
    points = {
        row.command: point
        for row in rows
        if (point := point_of(spans.get((row.device, row.pipeline), ()), row.received_at, ())) is not None
    }
    places = places_of(connection, set(points.values()))
    found = {}
    for row in rows:
        place = places.get(points.get(row.command, ""))
        machine = (place.machine if place is not None else None) or row.device
        found[row.command] = (machine, place.site if place is not None else "")
    return found


def _labels(connection: Connection, device: str, pipeline: str) -> list[CaptureLabel]:
    mine = (labels.c.device == device, labels.c.pipeline == pipeline)
    newest = select(labels).where(*mine).order_by(labels.c.from_at.desc(), labels.c.id.desc()).limit(_LABELS)
    return [
        CaptureLabel(
            case=row.case_id,
            verdict=row.verdict,
            part=row.part,
            from_t_s=row.from_t_s,
            to_t_s=row.to_t_s,
            from_at=row.from_at,
        )
        for row in connection.execute(newest)
    ]


def _capture(
    row: Any, places: dict[str, tuple[str, str]], known: dict[tuple[str, str], list[CaptureLabel]]
) -> CaptureForDataset:
    machine, site = places[row.command]
    return CaptureForDataset(
        **row._mapping,
        machine=machine,
        site=site,
        labels=[label for label in known[(row.device, row.pipeline)] if label.from_at <= row.received_at],
    )

"""Reads telemetry for the API and the page: scores of a device, and what became of each device's records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, func, select

from wheeltapper_fleet.telemetry.schemas import SpoolTotals
from wheeltapper_fleet.telemetry.tables import records, refused, spools

__all__ = ["count_windows", "newest_scores", "record_totals"]


def newest_scores(connection: Connection, device: str, limit: int) -> Sequence[Row[Any, Any, Any]]:
    """The last ``limit`` scored records of ``device``, newest first: rows of ``t_s``, ``score`` and ``severity``."""
    query = (
        select(records.c.t_s, records.c.score, records.c.severity)
        .where(records.c.device == device, records.c.score.is_not(None))
        .order_by(records.c.received_at.desc(), records.c.seq.desc())
        .limit(limit)
    )
    return connection.execute(query).all()


def count_windows(connection: Connection) -> int:
    """How many scored windows are stored, of all devices."""
    query = select(func.count()).select_from(records).where(records.c.kind == "telemetry")
    return int(connection.execute(query).scalar_one())


def record_totals(connection: Connection, devices: Iterable[str]) -> dict[str, SpoolTotals]:
    """For each of ``devices``: how many of its records are stored, missing, dropped and refused.

    A record is missing when a later one of the same epoch is known, and it is neither stored nor counted as dropped.
    """
    stored: dict[str, int] = defaultdict(int)
    missing: dict[str, int] = defaultdict(int)
    dropped: dict[str, int] = defaultdict(int)
    stored_and_highest: dict[tuple[str, str], tuple[int, int]] = {}
    grouped = select(records.c.device, records.c.epoch, func.count().label("n"), func.max(records.c.seq).label("top"))
    for row in connection.execute(grouped.group_by(records.c.device, records.c.epoch)):
        stored[row.device] += row.n
        stored_and_highest[(row.device, row.epoch)] = (row.n, row.top)
    for row in connection.execute(select(spools)):
        count, highest = stored_and_highest.get((row.device, row.epoch), (0, 0))
        dropped[row.device] += row.dropped
        missing[row.device] += max(0, max(highest, row.contiguous) - count - row.dropped)
    sums = select(refused.c.device, func.sum(refused.c.count).label("n")).group_by(refused.c.device)
    refusals = {row.device: int(row.n) for row in connection.execute(sums)}
    return {
        device: SpoolTotals(
            stored=stored[device], missing=missing[device], dropped=dropped[device], refused=refusals.get(device, 0)
        )
        for device in devices
    }

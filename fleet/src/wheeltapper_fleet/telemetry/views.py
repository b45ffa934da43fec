"""Reads telemetry for the API and the page: scores, what became of each device's records, and drift of a release."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from sqlalchemy import Connection, Engine, Row, func, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.telemetry.drift import DriftTotals, ReleaseDrift, compare_with_training
from wheeltapper_fleet.telemetry.schemas import SpoolTotals
from wheeltapper_fleet.telemetry.tables import records, refused, spools
from wheeltapper_protocols.manifest.manifest import Manifest
from wheeltapper_protocols.wire.messages import DriftReport, Report

__all__ = ["MAX_REPORTS", "count_windows", "newest_windows", "record_totals", "release_drift"]

MAX_REPORTS: Final = 2000


def newest_windows(
    connection: Connection, device: str, since: float, limit: int, scored_of: str | None = None
) -> Sequence[Row[str | None, float | None, float | None, str | None, float]]:
    """The last ``limit`` windows of ``device``, newest first.

    Args:
        connection: to the fleet's database.
        device: its id.
        since: Unix seconds; windows that came earlier are left out.
        limit: how many.
        scored_of: only those of this pipeline that have a score; None: all.

    Returns:
        Rows of ``pipeline``, ``t_s``, ``score``, ``severity`` and ``received_at``.
    """
    columns = (records.c.pipeline, records.c.t_s, records.c.score, records.c.severity, records.c.received_at)
    query = select(*columns).where(records.c.device == device, records.c.received_at >= since)
    if scored_of is None:
        query = query.where(records.c.kind == "telemetry")
    else:
        query = query.where(records.c.pipeline == scored_of, records.c.score.is_not(None))
    return connection.execute(query.order_by(records.c.received_at.desc(), records.c.seq.desc()).limit(limit)).all()


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


def release_drift(
    engine: Engine, manifest: Manifest, since: float, until: float, device: str | None = None
) -> ReleaseDrift:
    """Add up what devices reported about a release, and compare it with training.

    At most :data:`MAX_REPORTS` reports are added up, the newest first; the answer counts those left out. A report that
    came twice counts once, as every record does.

    Args:
        engine: the fleet's database.
        manifest: of the release.
        since: Unix seconds; reports count that came to the fleet from then on,
        until: and before this.
        device: count only reports of this device.

    Raises:
        FleetError: ``drift.no_reference``.
    """
    release = manifest.release or 0
    if manifest.drift is None:
        message = f"release {release} of {manifest.model} has no reference to compare with; train it again"
        raise FleetError("drift.no_reference", message, 404)
    totals = DriftTotals.empty(manifest.drift)
    where = [
        records.c.kind == "report",
        records.c.model == manifest.model,
        records.c.release == release,
        records.c.received_at >= since,
        records.c.received_at < until,
    ]
    if device is not None:
        where.append(records.c.device == device)
    newest = select(records.c.device, records.c.body).where(*where).order_by(records.c.received_at.desc())
    with reading(engine) as connection:
        for row in connection.execute(newest.limit(MAX_REPORTS + 1)):
            if totals.reports + totals.left_out == MAX_REPORTS:
                totals.left_out += 1
                break
            body = msgspec.convert(row.body, Report).body
            if isinstance(body, DriftReport):
                totals.add(row.device, body)
    names = [feature.name for feature in manifest.features]
    return compare_with_training(
        manifest.drift, names, totals, model=manifest.model, release=release, since=since, until=until
    )

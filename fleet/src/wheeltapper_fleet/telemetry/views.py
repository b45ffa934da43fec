"""Reads telemetry for the API and the page: scores, what became of each device's records, and drift of a release."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, and_, func, select

from wheeltapper_fleet.db.bulk import select_keys
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.telemetry.drift import DriftTotals, ReleaseDrift, compare_with_training
from wheeltapper_fleet.telemetry.history import records_in
from wheeltapper_fleet.telemetry.present import NewestScore, term_seconds
from wheeltapper_fleet.telemetry.schemas import ScorePoint, SpoolTotals
from wheeltapper_fleet.telemetry.tables import drift_reports, latest, messages, refused, spools
from wheeltapper_protocols.manifest.manifest import Manifest
from wheeltapper_protocols.wire.codec import decode
from wheeltapper_protocols.wire.messages import DriftReport, Report
from wheeltapper_protocols.wire.topics import Up

__all__ = [
    "MAX_REPORTS",
    "alarming",
    "count_windows",
    "delivery_of",
    "drift_totals",
    "drift_totals_on",
    "last_scores",
    "latest_windows",
    "newest_drift_reports",
    "newest_scores",
    "record_totals",
    "release_drift",
    "total_records",
]

MAX_REPORTS: Final = 2000


def newest_scores(connection: Connection, devices: Sequence[str]) -> dict[str, dict[str, NewestScore]]:
    """The newest score of each pipeline of ``devices`` that ever had one: device → pipeline → score.

    One statement, whose cost is proportional to ``devices``.
    """
    columns = ("device", "pipeline", "score", "severity", "at", "paced", "arrival_pace_s", "machine_pace_s")
    found: dict[str, dict[str, NewestScore]] = {}
    for device, pipeline, score, severity, at, *pace in select_keys(
        connection, latest, columns, ("device",), [(device,) for device in devices]
    ):
        if at is not None:
            found.setdefault(device, {})[pipeline] = NewestScore(score, severity, at, term_seconds(*pace))
    return found


def latest_windows(connection: Connection, sources: Sequence[tuple[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
    """What the newest window of each source (device, pipeline) said: ``score``, ``severity``, ``label``, ``value``,
    ``zone``, ``model``, ``release``, ``at`` (Unix seconds), and ``present``, the newest score with its term.

    One statement, whose cost is proportional to ``sources``. A source that never had a score is left out.
    """
    said = ("device", "pipeline", "at", "model", "release", "score", "severity", "label", "value", "zone")
    pace = ("paced", "arrival_pace_s", "machine_pace_s")
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in select_keys(connection, latest, (*said, *pace), ("device", "pipeline"), list(sources)):
        values = dict(zip((*said, *pace), row, strict=True))
        if values["at"] is None:
            continue
        term = term_seconds(*(values.pop(name) for name in pace))
        values["present"] = NewestScore(values["score"], values["severity"], values["at"], term)
        found[values.pop("device"), values.pop("pipeline")] = values
    return found


def alarming(connection: Connection, limit: int) -> Iterator[tuple[str, NewestScore]]:
    """Each device and newest score, one a pipeline, whose severity is warning or critical; at most ``limit``."""
    columns = ("device", "score", "severity", "at", "paced", "arrival_pace_s", "machine_pace_s")
    query = select(*(latest.c[name] for name in columns)).where(latest.c.severity.in_(("warning", "critical")))
    for device, score, severity, at, *pace in connection.execute(query.limit(limit)):
        if at is not None:
            yield device, NewestScore(score, severity, at, term_seconds(*pace))


def last_scores(connection: Connection, device: str, since: float, limit: int) -> list[ScorePoint]:
    """The last ``limit`` scored windows of ``device`` that came since ``since`` (Unix seconds), oldest first.

    Reads at most ``limit`` messages.
    """
    where = (messages.c.device == device, messages.c.received_at >= since)
    query = select(messages).where(*where).order_by(messages.c.received_at.desc(), messages.c.id.desc()).limit(limit)
    newest_first: list[ScorePoint] = []
    for row in connection.execute(query):
        if row.kind != "telemetry":
            continue
        newest_first += [
            ScorePoint(t_s=record.t_s or 0.0, score=record.score)
            for record in reversed(records_in(row))
            if record.score is not None
        ]
        if len(newest_first) >= limit:
            break
    return newest_first[:limit][::-1]


def count_windows(connection: Connection) -> int:
    """How many windows have been stored, of all devices; costs one row a pipeline."""
    return int(connection.execute(select(func.coalesce(func.sum(latest.c.windows), 0))).scalar_one())


def record_totals(connection: Connection, devices: Iterable[str]) -> dict[str, SpoolTotals]:
    """For each of ``devices``: how many of its records are stored, missing, dropped and refused.

    A record is missing when a later one of the same epoch is known, and it is neither stored nor counted as dropped.
    Costs one row a spool of ``devices``.
    """
    totals = {device: [0, 0, 0, 0] for device in devices}
    keys = [(device,) for device in totals]
    for device, highest, stored, dropped in select_keys(
        connection, spools, ("device", "highest", "stored", "dropped"), ("device",), keys
    ):
        sums = totals[device]
        sums[0] += stored
        sums[1] += highest - stored - dropped
        sums[2] += dropped
    for device, count in select_keys(connection, refused, ("device", "count"), ("device",), keys):
        totals[device][3] += count
    return {
        device: SpoolTotals(stored=stored, missing=missing, dropped=dropped, refused=refusals)
        for device, (stored, missing, dropped, refusals) in totals.items()
    }


def delivery_of(engine: Engine, device: str) -> SpoolTotals:
    """What became of the records of one device; nothing is known of one that never delivered any."""
    with reading(engine) as connection:
        return record_totals(connection, [device])[device]


def total_records(connection: Connection) -> SpoolTotals:
    """How many records of all devices are stored, missing, dropped and refused. Costs one row a spool."""
    sums = [func.coalesce(func.sum(spools.c[name]), 0) for name in ("highest", "stored", "dropped")]
    highest, stored, dropped = connection.execute(select(*sums)).one()
    refusals = connection.execute(select(func.coalesce(func.sum(refused.c.count), 0))).scalar_one()
    missing = int(highest - stored - dropped)
    return SpoolTotals(stored=int(stored), missing=missing, dropped=int(dropped), refused=int(refusals))


def newest_drift_reports(
    connection: Connection, model: str, release: int, since: float, until: float, device: str | None = None
) -> Iterator[tuple[str, DriftReport]]:
    """The newest reports about a release, each with its device: one more than :data:`MAX_REPORTS` at most.

    Args:
        connection: to the fleet's database.
        model: of the release.
        release: its number.
        since: Unix seconds; reports count that came to the fleet from then on,
        until: and before this.
        device: count only reports of this device.
    """
    where = [
        drift_reports.c.model == model,
        drift_reports.c.release == release,
        drift_reports.c.received_at >= since,
        drift_reports.c.received_at < until,
    ]
    if device is not None:
        where.append(drift_reports.c.device == device)
    its_message = (
        messages.c.device == drift_reports.c.device,
        messages.c.received_at == drift_reports.c.received_at,
        messages.c.epoch == drift_reports.c.epoch,
        messages.c.first_seq == drift_reports.c.seq,
    )
    newest = select(messages.c.device, messages.c.body).join_from(drift_reports, messages, and_(*its_message))
    newest = newest.where(*where).order_by(drift_reports.c.received_at.desc())
    for row in connection.execute(newest.limit(MAX_REPORTS + 1)):
        report = decode(Up.REPORT, row.body)
        if isinstance(report, Report) and isinstance(report.body, DriftReport):
            yield row.device, report.body


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
    totals = drift_totals(engine, manifest, since, until, device)
    assert manifest.drift is not None  # drift_totals has looked
    names = [feature.name for feature in manifest.features]
    return compare_with_training(
        manifest.drift, names, totals, model=manifest.model, release=manifest.release or 0, since=since, until=until
    )


def drift_totals(
    engine: Engine, manifest: Manifest, since: float, until: float, device: str | None = None
) -> DriftTotals:
    """What devices reported about a release, added up; as :func:`release_drift`.

    Raises:
        FleetError: ``drift.no_reference``.
    """
    with reading(engine) as connection:
        return drift_totals_on(connection, manifest, since, until, device)


def drift_totals_on(
    connection: Connection, manifest: Manifest, since: float, until: float, device: str | None = None
) -> DriftTotals:
    """As :func:`drift_totals`, in the caller's transaction."""
    release = manifest.release or 0
    if manifest.drift is None:
        message = f"release {release} of {manifest.model} has no reference to compare with; train it again"
        raise FleetError("drift.no_reference", message, 404)
    totals = DriftTotals.empty(manifest.drift)
    for reporter, report in newest_drift_reports(connection, manifest.model, release, since, until, device):
        if totals.reports + totals.left_out == MAX_REPORTS:
            totals.left_out += 1
            break
        totals.add(reporter, report)
    return totals

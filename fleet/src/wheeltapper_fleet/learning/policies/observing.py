"""Looks at a policy's conditions and at what is under way: from tables that the fleet keeps anyway.

Cost of a look: at most 2,000 reports of drift, 1,000 devices of an index, and the verdicts of a release; never the
fleet. Of an audience of 100,000 devices that report hourly, the look sees the last minutes, which is a sample of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, select

from wheeltapper_fleet.alerts.statistics import share_interval
from wheeltapper_fleet.alerts.value import count_verdicts
from wheeltapper_fleet.captures.tables import captures
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.audience import audience_among
from wheeltapper_fleet.devices.tables import commands, device_pipelines
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.policies.spec import AgeLimit, DriftLimit, PolicySpec, PrecisionLimit, QualityLimit
from wheeltapper_fleet.promotion.quality import estimated_quality
from wheeltapper_fleet.registry.tables import release_aliases, releases
from wheeltapper_fleet.telemetry.drift import DriftTotals, ReleaseDrift, compare_with_training
from wheeltapper_fleet.telemetry.views import MAX_REPORTS, newest_drift_reports
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.manifest.manifest import Manifest, decode_manifest
from wheeltapper_protocols.wire.messages import DriftReport

__all__ = ["Look", "count_captures", "drifting_devices", "look", "watched_release"]

_HOUR: Final = 3600.0
_DAY: Final = 86_400.0
_RUNNING: Final = 1000
"""Devices that run the release, of which the lot is drawn where too few report."""


@dataclass(frozen=True)
class Look:
    """What a look saw. ``findings`` are the limits that were crossed, ``said`` is everything in words; devices of the
    audience that drift, and others that run the release."""

    findings: tuple[str, ...]
    said: str
    drifting: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def watched_release(connection: Connection, spec: PolicySpec) -> int:
    """The release that the policy's alias names.

    Raises:
        FleetError: ``policy.no_release``.
    """
    named = (release_aliases.c.model == spec.model, release_aliases.c.alias == spec.alias)
    found = connection.execute(select(release_aliases.c.release).where(*named)).scalar_one_or_none()
    if found is None:
        how = f"`wheeltapper release alias set {spec.model} {spec.alias} 1`, or another one"
        raise FleetError(
            "policy.no_release", f"{spec.alias} of {spec.model} names no release to watch; set it: {how}", 409
        )
    return int(found)


def look(engine: Engine, spec: PolicySpec, now: float) -> tuple[int, Look]:
    """Look at the conditions for the release that is watched; gives its number too.

    Raises:
        FleetError: ``policy.no_release``, ``policy.release_unreadable``.
    """
    when = spec.when
    with reading(engine) as connection:
        release = watched_release(connection, spec)
        row = connection.execute(
            select(releases).where(releases.c.model == spec.model, releases.c.release == release)
        ).one()
        manifest = _manifest(row.manifest, spec.model, release)
        findings: list[str] = []
        said: list[str] = []
        drifting: tuple[str, ...] = ()
        others: tuple[str, ...] = ()
        if when.drift is not None:
            drifting, others, found = _drift(connection, spec, manifest, when.drift, now)
            (findings if found[0] else said).append(found[1])
        if when.precision is not None:
            crossed, text = _precision(connection, spec, release, when.precision, now)
            (findings if crossed else said).append(text)
        if when.quality is not None:
            crossed, text = _quality(engine, spec, release, when.quality, now)
            (findings if crossed else said).append(text)
        if when.age is not None:
            crossed, text = _age(row.published_at, when.age, now)
            (findings if crossed else said).append(text)
        if findings and len(drifting) + len(others) < spec.captures.devices:
            others = tuple({*others, *_running(connection, spec, release, now)} - {*drifting})
    return release, Look(tuple(findings), "; ".join([*findings, *said]), drifting, others)


def drifting_devices(
    manifest: Manifest, reports: Iterable[tuple[str, DriftReport]], limit: DriftLimit
) -> tuple[dict[str, ReleaseDrift], set[str]]:
    """What the reports of each device add up to, of those that reported enough windows; and which of them drift."""
    assert manifest.drift is not None  # the caller has looked
    totals: dict[str, DriftTotals] = {}
    for device, report in reports:
        if device not in totals:
            totals[device] = DriftTotals.empty(manifest.drift)
        totals[device].add(device, report)
    names = [feature.name for feature in manifest.features]
    span: dict[str, Any] = {"model": manifest.model, "release": manifest.release or 0, "since": 0.0, "until": 0.0}
    found = {
        device: compare_with_training(manifest.drift, names, each, **span)
        for device, each in totals.items()
        if each.windows >= limit.windows
    }
    return found, {device for device, drift in found.items() if _drifts(drift, limit)}


def count_captures(engine: Engine, asked: Iterable[str], now: float) -> tuple[int, int]:
    """Of the commands ``asked``: how many recordings are here, and how many may still come at ``now``."""
    wanted = sorted(asked)
    open_ = select(commands.c.id, commands.c.answer).where(commands.c.id.in_(wanted), commands.c.expires_at > now)
    with reading(engine) as connection:
        here = set(connection.execute(select(captures.c.command).where(captures.c.command.in_(wanted))).scalars())
        rows = connection.execute(open_).all()
    refused = {row.id for row in rows if isinstance(row.answer, dict) and row.answer.get("code")}
    return len(here), len({row.id for row in rows} - here - refused)


def _manifest(stored: object, model: str, release: int) -> Manifest:
    try:
        return decode_manifest(msgspec.json.encode(stored))
    except ProtocolError as error:
        message = f"the manifest of release {release} of {model} cannot be read: {error}"
        raise FleetError("policy.release_unreadable", message, 409) from error


def _drift(
    connection: Connection, spec: PolicySpec, manifest: Manifest, limit: DriftLimit, now: float
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[bool, str]]:
    """The devices that drift, those that do not, and whether they are enough to cross the limit."""
    if manifest.drift is None:
        return (), (), (False, f"release {manifest.release} has no reference of drift")
    since = now - limit.hours * _HOUR
    reports = list(newest_drift_reports(connection, manifest.model, manifest.release or 0, since, now))[:MAX_REPORTS]
    found, drifting = drifting_devices(manifest, reports, limit)
    mine = audience_among(connection, found, spec.audience.tags, spec.audience.query, now)
    drifting &= mine
    share = len(drifting) / len(mine) if mine else 0.0
    said = f"{len(drifting)} of {len(mine)} devices drift (limit {limit.devices:.0%})"
    if drifting:
        worst = max(sorted(drifting), key=lambda device: _moved(found[device], limit))
        said += f"; of {worst} {_told(found[worst], limit)}"
    return tuple(sorted(drifting)), tuple(sorted(mine - drifting)), (bool(mine) and share >= limit.devices, said)


def _moved(drift: ReleaseDrift, limit: DriftLimit) -> float:
    moved = sum(each.psi > limit.psi + each.psi_noise for each in drift.features)
    return moved / len(drift.features) if drift.features else 0.0


def _drifts(drift: ReleaseDrift, limit: DriftLimit) -> bool:
    return _moved(drift, limit) >= limit.features or drift.score.psi > limit.psi + drift.score.psi_noise


def _told(drift: ReleaseDrift, limit: DriftLimit) -> str:
    most = max(drift.features, key=lambda each: each.psi, default=drift.score)
    return f"{_moved(drift, limit):.0%} of the features moved, {most.name} most: PSI {most.psi:.2g}"


def _precision(
    connection: Connection, spec: PolicySpec, release: int, limit: PrecisionLimit, now: float
) -> tuple[bool, str]:
    true, false = count_verdicts(connection, spec.model, release, now - limit.days * _DAY, now + 1)
    of = true + false
    _, high = share_interval(true, of)
    said = f"{true} of {of} alerts were true faults"
    if of < limit.verdicts:
        return False, f"{said} ({limit.verdicts} verdicts are needed)"
    return high < limit.below, f"{said}, {high:.0%} at most (limit {limit.below:.0%})"


def _quality(engine: Engine, spec: PolicySpec, release: int, limit: QualityLimit, now: float) -> tuple[bool, str]:
    """Whether the estimated quality is surely worse than the limit."""
    try:
        found = estimated_quality(engine, spec.model, release, now - limit.hours * _HOUR, now)
    except FleetError as error:
        if error.code != "quality.not_measured":
            raise
        return False, error.message
    figure = next((each for each in found.figures if each.name == limit.figure), None)
    if figure is None:
        return False, f"{limit.figure} is no figure of {found.kind}"
    if figure.value is None or figure.low is None or figure.high is None:
        return False, f"{limit.figure} cannot be estimated: {figure.why}"
    worse = figure.low > limit.limit if limit.figure in ("mae", "rmse") else figure.high < limit.limit
    between = f"between {figure.low:.3g} and {figure.high:.3g} (limit {limit.limit:g})"
    return worse, f"{limit.figure} is estimated as {figure.value:.3g}, {between}"


def _age(published_at: float, limit: AgeLimit, now: float) -> tuple[bool, str]:
    days = (now - published_at) / _DAY
    return days >= limit.days, f"published {days:.1f} days ago (limit {limit.days:g})"


def _running(connection: Connection, spec: PolicySpec, release: int, now: float) -> set[str]:
    """Devices of the audience that run the release, of the first thousand of them."""
    runs = (
        device_pipelines.c.pipeline == spec.pipeline,
        device_pipelines.c.model == spec.model,
        device_pipelines.c.release == release,
    )
    query = select(device_pipelines.c.device).where(*runs).order_by(device_pipelines.c.device).limit(_RUNNING)
    names = list(connection.execute(query).scalars())
    return audience_among(connection, names, spec.audience.tags, spec.audience.query, now)

"""The quality of a release where nobody says what is true: estimated from the sketches of scores that devices report.

The arithmetic, with what it assumes: :mod:`wheeltapper_protocols.drift.estimation`. Nothing is guessed: a figure that
there is not enough for has no value and says what lacks, and pipelines that run the release are counted beside those
that report.

Cost: at most 2,000 reports are added up (:func:`wheeltapper_fleet.telemetry.views.drift_totals_on`), and devices that
run the release are counted up to 10,000 in an index.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, and_, func, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.tables import device_pipelines, device_releases
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.promotion.schemas import EstimatedFigure, QualityView
from wheeltapper_fleet.registry.published import published_release
from wheeltapper_fleet.registry.tables import releases
from wheeltapper_fleet.telemetry.views import drift_totals_on
from wheeltapper_protocols.drift.drift import psi, psi_noise
from wheeltapper_protocols.drift.estimation import estimate
from wheeltapper_protocols.manifest.manifest import Manifest

__all__ = ["estimated_quality", "manifest_of", "quality_on"]

_COUNTED: Final = 10_000


def estimated_quality(
    engine: Engine, model: str, release: int, since: float, until: float, device: str | None = None
) -> QualityView:
    """Estimate the quality of a release from what devices reported.

    Args:
        engine: the fleet's database.
        model, release: of which release.
        since: Unix seconds; reports count that came to the fleet from then on,
        until: and before this.
        device: count only reports of this device.

    Raises:
        FleetError: ``release.not_found``; ``quality.not_measured``: its manifest has no section ``estimation``.
    """
    with reading(engine) as connection:
        return quality_on(connection, model, release, since, until, device)


def quality_on(
    connection: Connection, model: str, release: int, since: float, until: float, device: str | None = None
) -> QualityView:
    """As :func:`estimated_quality`, in the caller's transaction."""
    manifest = manifest_of(connection, model, release)
    running = _running(connection, model, release) if device is None else None
    spec, drift = manifest.estimation, manifest.drift
    if spec is None or drift is None:
        message = f"the manifest of {model} {release} says nothing of held-out windows: train it again"
        raise FleetError("quality.not_measured", message, 404)
    totals = drift_totals_on(connection, manifest, since, until, device)
    counts = totals.score.counts[0, : len(drift.score.counts)]
    figures = estimate(spec, drift.score.edges, counts.tolist(), len(totals.devices))
    section = manifest.remaining_life
    return QualityView(
        model=model,
        release=release,
        since=since,
        until=until,
        kind=spec.kind,
        unit="" if section is None else section.unit,
        devices=len(totals.devices),
        running=running,
        reports=totals.reports,
        left_out=totals.left_out,
        windows=totals.windows,
        unscored=totals.unscored,
        score_psi=psi(drift.score.counts, counts) if counts.sum() else None,
        score_psi_noise=psi_noise(len(counts), sum(drift.score.counts), int(counts.sum())),
        figures=[
            EstimatedFigure(
                name=each.name,
                value=each.value,
                low=each.low,
                high=each.high,
                reference=each.reference,
                why=each.why,
            )
            for each in figures
        ],
    )


def manifest_of(connection: Connection, model: str, release: int) -> Manifest:
    """The manifest of a release, as it is in the database.

    Raises:
        FleetError: ``release.not_found``; ``release.unreadable``: this version cannot read it.
    """
    row = published_release(connection, model, release, releases.c.manifest)
    try:
        manifest: Any = msgspec.convert(row.manifest, Manifest)
    except (msgspec.ValidationError, ValueError) as error:
        message = f"this version cannot read the manifest of {model} {release}: {error}"
        raise FleetError("release.unreadable", message, 409) from error
    assert isinstance(manifest, Manifest)
    return manifest


def _running(connection: Connection, model: str, release: int) -> int:
    """How many pipelines say that they run a release, counted up to :data:`_COUNTED`."""
    same = and_(
        device_pipelines.c.device == device_releases.c.device,
        device_pipelines.c.pipeline == device_releases.c.pipeline,
        device_pipelines.c.model == device_releases.c.model,
        device_pipelines.c.release == device_releases.c.release,
    )
    mine = (device_releases.c.model == model, device_releases.c.release == release)
    found = select(device_releases.c.device).join(device_pipelines, same).where(*mine).limit(_COUNTED)
    return int(connection.execute(select(func.count()).select_from(found.subquery())).scalar_one())

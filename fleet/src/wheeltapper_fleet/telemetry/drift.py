"""Drift of a release over the fleet: the sketches that devices reported, added up and compared with training.

Invariants:
    * Reads only. Reports that came twice count once, as all records do.
    * At most :data:`MAX_REPORTS` reports are added up, the newest first; what was left out is said.
    * A report whose sketches are over other bins than the release's manifest is left out and counted: it cannot be of
      the release that it names.

What this module does not do: judge what drift means; the arithmetic (:mod:`wheeltapper_protocols.drift.drift`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import Engine, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.telemetry.tables import records
from wheeltapper_protocols.drift.drift import Distances, DriftSpec, Reference, distances
from wheeltapper_protocols.drift.sketch import Bins, Sketches, decode_sketches
from wheeltapper_protocols.manifest.manifest import Manifest
from wheeltapper_protocols.wire.messages import DriftReport, Report

__all__ = ["MAX_REPORTS", "FeatureDrift", "ReleaseDrift", "release_drift"]

MAX_REPORTS: Final = 2000
SCORE: Final = "score"


@dataclass(frozen=True)
class FeatureDrift:
    """One feature (or the score) now, against training."""

    name: str
    n: int
    missing: int
    mean: float
    usual: float
    """The mean in training."""
    unseen: int
    """Values below or above all that training saw."""
    psi: float
    psi_noise: float
    moved: bool
    """Whether the PSI is above the release's limit and the noise together."""
    ks: float
    ks_error: float
    wasserstein: float
    wasserstein_error: float


@dataclass(frozen=True)
class ReleaseDrift:
    """A release over some devices and some time."""

    model: str
    release: int
    since: float
    until: float
    devices: tuple[str, ...]
    reports: int
    left_out: int
    """Older reports beyond the cap, and those over other bins."""
    windows: int
    unscored: int
    changes: int
    """Times that a detector on the score fired."""
    score: FeatureDrift
    features: tuple[FeatureDrift, ...]


@dataclass
class _Sum:
    features: Sketches
    score: Sketches
    devices: set[str]
    reports: int = 0
    left_out: int = 0
    windows: int = 0
    unscored: int = 0
    changes: int = 0

    def add(self, device: str, report: DriftReport) -> None:
        try:
            features = self.features.merged(decode_sketches(report.sketches))
            score = self.score.merged(decode_sketches(report.score))
        except ValueError:
            self.left_out += 1
            return
        self.features, self.score = features, score
        self.devices.add(device)
        self.reports += 1
        self.windows += report.windows
        self.unscored += report.unscored
        self.changes += sum(event.kind in ("level", "spread") for event in report.events)


def release_drift(
    engine: Engine, manifest: Manifest, since: float, until: float, device: str | None = None
) -> ReleaseDrift:
    """Add up what devices reported of a release.

    Args:
        engine: the database.
        manifest: of the release.
        since: Unix seconds, when reports came to the fleet: from here,
        until: to before here.
        device: of this one alone.

    Raises:
        FleetError: ``drift.no_reference``.
    """
    spec, release = manifest.drift, manifest.release or 0
    if spec is None:
        message = f"release {release} of {manifest.model} has no reference to compare with; train it again"
        raise FleetError("drift.no_reference", message, 404)
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
    empty = [Bins([one.edges for one in references]).empty() for references in (spec.features, [spec.score])]
    total = _Sum(empty[0], empty[1], set())
    with reading(engine) as connection:
        for row in connection.execute(newest.limit(MAX_REPORTS + 1)):
            if total.reports + total.left_out == MAX_REPORTS:
                total.left_out += 1
                break
            body = msgspec.convert(row.body, Report).body
            if isinstance(body, DriftReport):
                total.add(row.device, body)
    return _view(manifest, spec, total, since, until)


def _view(manifest: Manifest, spec: DriftSpec, total: _Sum, since: float, until: float) -> ReleaseDrift:
    names = [feature.name for feature in manifest.features]
    return ReleaseDrift(
        model=manifest.model,
        release=manifest.release or 0,
        since=since,
        until=until,
        devices=tuple(sorted(total.devices)),
        reports=total.reports,
        left_out=total.left_out,
        windows=total.windows,
        unscored=total.unscored,
        changes=total.changes,
        score=_features([SCORE], [spec.score], total.score, spec.psi_limit)[0],
        features=_features(names, spec.features, total.features, spec.psi_limit),
    )


def _features(
    names: list[str], references: list[Reference], sketches: Sketches, limit: float
) -> tuple[FeatureDrift, ...]:
    found = distances(references, sketches)
    return tuple(
        _feature(name, reference, sketches, row, found[row], limit)
        for row, (name, reference) in enumerate(zip(names, references, strict=True))
    )


def _feature(
    name: str, reference: Reference, sketches: Sketches, row: int, found: Distances, limit: float
) -> FeatureDrift:
    counts = sketches.counts[row]
    return FeatureDrift(
        name=name,
        n=found.n,
        missing=int(sketches.missing[row]),
        mean=float(sketches.mean[row]),
        usual=reference.mean,
        unseen=int(counts[0] + counts[len(reference.counts) - 1]),
        psi=found.psi,
        psi_noise=found.psi_noise,
        moved=found.psi > limit + found.psi_noise,
        ks=found.ks,
        ks_error=found.ks_error,
        wasserstein=found.wasserstein,
        wasserstein_error=found.wasserstein_error,
    )

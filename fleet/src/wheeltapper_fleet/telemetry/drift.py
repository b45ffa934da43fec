"""Drift of a release over the fleet: sketches that devices report are added up and compared with training. Pure.

Invariants:
    * A report whose sketches are over other bins than the release's manifest is left out and counted: it cannot be of
      the release that it names.
    * A feature is said to have moved only where its population stability index (PSI) is above the release's limit and
      the index's own sampling noise together.

What this module does not do: judge what drift means; the arithmetic (:mod:`wheeltapper_protocols.drift.drift`); read
the reports (:func:`wheeltapper_fleet.telemetry.views.release_drift`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from wheeltapper_protocols.drift.drift import Distances, DriftSpec, Reference, distances
from wheeltapper_protocols.drift.sketch import Bins, Sketches, decode_sketches
from wheeltapper_protocols.wire.messages import DriftReport

__all__ = ["DriftTotals", "FeatureDrift", "ReleaseDrift", "compare_with_training"]

_SCORE: Final = "score"


@dataclass(frozen=True)
class FeatureDrift:
    """The distribution of one feature (or of the score) now, against its distribution in training."""

    name: str
    n: int
    """How many values there were."""
    missing: int
    """How many windows had no value."""
    mean: float
    usual: float
    """The mean in training."""
    unseen: int
    """How many values lie below or above every value in training."""
    psi: float
    """Population stability index."""
    psi_noise: float
    """The index that chance alone exceeds once in a thousand."""
    moved: bool
    """Whether the PSI is above the release's limit and the noise together."""
    ks: float
    """Kolmogorov-Smirnov distance; of the raw values it is between ``ks`` and ``ks + ks_error``."""
    ks_error: float
    wasserstein: float
    """Wasserstein distance in the feature's unit; of the raw values it is within ``wasserstein_error`` of this."""
    wasserstein_error: float


@dataclass(frozen=True)
class ReleaseDrift:
    """A release over some devices and some time."""

    model: str
    release: int
    since: float
    """Unix seconds, by when the reports came to the fleet: from here"""
    until: float
    """to before here."""
    devices: tuple[str, ...]
    """The devices whose reports were added up."""
    reports: int
    """How many reports were added up."""
    left_out: int
    """Reports that were not added up: older ones beyond the cap, and those over other bins."""
    windows: int
    """Scored windows."""
    unscored: int
    """Windows that were not scored."""
    changes: int
    """How many times a change detector on the score fired."""
    score: FeatureDrift
    features: tuple[FeatureDrift, ...]


@dataclass
class DriftTotals:
    """What drift reports of one release add up to. Begin with :meth:`empty`, then :meth:`add` each report."""

    features: Sketches
    score: Sketches
    devices: set[str] = field(default_factory=set)
    reports: int = 0
    left_out: int = 0
    windows: int = 0
    unscored: int = 0
    changes: int = 0

    @classmethod
    def empty(cls, spec: DriftSpec) -> DriftTotals:
        """No report yet; sketches over the bins of ``spec``, the release's reference."""
        features, score = (Bins([one.edges for one in each]).empty() for each in (spec.features, [spec.score]))
        return cls(features, score)

    def add(self, device: str, report: DriftReport) -> None:
        """Add a report of ``device``; one whose sketches are over other bins is left out and counted."""
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


def compare_with_training(
    spec: DriftSpec,
    feature_names: list[str],
    totals: DriftTotals,
    *,
    model: str,
    release: int,
    since: float,
    until: float,
) -> ReleaseDrift:
    """Compare what devices reported with the release's training.

    Args:
        spec: the release's reference from training, which ``totals`` was begun with.
        feature_names: the names of its features, in order.
        totals: the reports, added up.
        model: the release's model.
        release: its number.
        since: Unix seconds, of the time that the reports are of,
        until: and its end.
    """
    return ReleaseDrift(
        model=model,
        release=release,
        since=since,
        until=until,
        devices=tuple(sorted(totals.devices)),
        reports=totals.reports,
        left_out=totals.left_out,
        windows=totals.windows,
        unscored=totals.unscored,
        changes=totals.changes,
        score=_compare([_SCORE], [spec.score], totals.score, spec.psi_limit)[0],
        features=_compare(feature_names, spec.features, totals.features, spec.psi_limit),
    )


def _compare(
    names: list[str], references: list[Reference], sketches: Sketches, limit: float
) -> tuple[FeatureDrift, ...]:
    found = distances(references, sketches)
    return tuple(
        _comparison(name, reference, sketches, row, found[row], limit)
        for row, (name, reference) in enumerate(zip(names, references, strict=True))
    )


def _comparison(
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

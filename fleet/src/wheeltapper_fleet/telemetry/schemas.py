"""Telemetry as the API gives it out. Times are Unix seconds, but for ``t_s``: seconds by the machine's clock."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

__all__ = [
    "DriftView",
    "FeatureCurveView",
    "FeatureCurvesView",
    "FeatureDriftView",
    "FeaturePointView",
    "HistoryView",
    "PointView",
    "RecordView",
    "ScorePoint",
    "SpoolTotals",
]


class ScorePoint(BaseModel):
    """One scored window: time by the machine's clock, and score (1.0 is the warning threshold)."""

    t_s: float
    score: float


class SpoolTotals(BaseModel):
    """How many records of a device are stored, missing, were dropped by it, or were refused."""

    stored: int
    missing: int
    dropped: int
    refused: int


class FeatureDriftView(BaseModel):
    """One feature (or the score) now, against training: see :class:`wheeltapper_fleet.telemetry.drift.FeatureDrift`."""

    name: str
    n: int
    missing: int
    mean: float
    usual: float
    unseen: int
    psi: float
    psi_noise: float
    moved: bool
    ks: float
    ks_error: float
    wasserstein: float
    wasserstein_error: float


class DriftView(BaseModel):
    """A release over some devices and some time: see :class:`wheeltapper_fleet.telemetry.drift.ReleaseDrift`."""

    model: str
    release: int
    since: float
    until: float
    devices: list[str]
    reports: int
    left_out: int
    windows: int
    unscored: int
    changes: int
    score: FeatureDriftView
    features: list[FeatureDriftView]


class RecordView(BaseModel):
    """One record of a device: see :class:`wheeltapper_fleet.telemetry.history.StoredRecord`."""

    device: str
    epoch: str
    seq: int
    kind: str
    received_at: float
    pipeline: str | None
    window: int | None
    t_s: float | None
    model: str | None
    release: int | None
    score: float | None
    severity: str | None
    latency_ms: float | None
    label: str | None
    value: float | None
    zone: str | None
    undated: bool
    partial: bool
    body: dict[str, Any] | None


class PointView(BaseModel):
    """One stretch of a curve: see :class:`wheeltapper_fleet.telemetry.history.HistoryPoint`."""

    at: float
    seconds: float
    windows: int
    scored: int
    missing: int
    mean: float | None
    deviation: float | None
    min: float | None
    max: float | None
    latency_mean_ms: float | None
    latency_max_ms: float | None
    warnings: int
    criticals: int
    alerts: int
    releases: list[str]


class HistoryView(BaseModel):
    """The curve of a pipeline's scores; stretches without a window are left out."""

    device: str
    pipeline: str
    points: list[PointView]


class FeaturePointView(BaseModel):
    """The mean of a feature over the ``windows`` of one report, which came at ``at`` (Unix seconds) of a ``release``
    (``model/3``)."""

    at: float
    mean: float
    windows: int
    release: str


class FeatureCurveView(BaseModel):
    """A feature over time. ``usual`` and ``deviation`` are those of training, of the newest point's release; ``shift``
    is how many deviations the newest point is from the usual value (None where it is not known)."""

    name: str
    usual: float | None
    deviation: float | None
    shift: float | None
    points: list[FeaturePointView]


class FeatureCurvesView(BaseModel):
    """The features of a pipeline, those that moved most first.

    ``reports`` were read; ``shown`` of them are of the condition that was asked for, and ``left_out`` fit no manifest
    that is known.
    """

    device: str
    pipeline: str
    reports: int
    shown: int
    left_out: int
    curves: list[FeatureCurveView]

"""Telemetry as the API gives it out. Times are Unix seconds, but for ``t_s``: seconds by the machine's clock."""

from __future__ import annotations

from pydantic import BaseModel

__all__ = ["DriftView", "FeatureDriftView", "ScorePoint", "SpoolTotals"]


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

"""Curves of features over time, from the reports of drift that devices send: one point a report.

A device sketches each feature of its windows and reports the sketches, each hour by default. The mean of a sketch is a
point of the feature's curve. Where a feature says in which condition the machine is (a speed, a load), only the reports
count in which its mean was within a range: a trend at one speed is not that of the speed.

Invariant: a report whose sketches do not fit the features of its release is left out and counted, never shifted.

Cost: three statements and one for the manifests. The device's reports in the time are looked through by their key (one
small row each, :data:`REPORTS_FOUND` of the newest at most); of those, some spread evenly are read and decoded.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, select

from wheeltapper_fleet.registry.views import manifests_of
from wheeltapper_fleet.telemetry.schemas import FeatureCurvesView, FeatureCurveView, FeaturePointView
from wheeltapper_fleet.telemetry.tables import drift_reports, messages
from wheeltapper_protocols.drift.sketch import decode_sketches
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.codec import decode
from wheeltapper_protocols.wire.messages import DriftReport, Report
from wheeltapper_protocols.wire.topics import Up

__all__ = ["MOST_REPORTS", "Condition", "feature_curves"]

MOST_REPORTS: Final = 500
REPORTS_FOUND: Final = 20_000
_RELEASES_READ: Final = 12


@dataclass(frozen=True)
class Condition:
    """Only reports in which the mean of ``feature`` was from ``low`` to ``high``."""

    feature: str
    low: float
    high: float


@dataclass(frozen=True)
class _Said:
    """What a report said: when it came, of which release, and the mean of each feature with how many windows."""

    at: float
    release: str
    means: dict[str, tuple[float, int]]


def feature_curves(
    connection: Connection,
    device: str,
    pipeline: str,
    since: float,
    until: float,
    reports: int = 200,
    condition: Condition | None = None,
) -> FeatureCurvesView:
    """The curves of the features of a pipeline; those that are farthest from training in the newest report first.

    Args:
        connection: to the fleet's database.
        device: its id.
        pipeline: the name of one of its pipelines.
        since: Unix seconds; reports count that came to the fleet from then on,
        until: and before this.
        reports: how many are read, spread evenly; at most :data:`MOST_REPORTS`.
        condition: only reports of this condition.
    """
    found, read, left_out, trained = _said(connection, device, pipeline, since, until, min(reports, MOST_REPORTS))
    kept = [each for each in found if condition is None or _within(each, condition)]
    points: dict[str, list[FeaturePointView]] = defaultdict(list)
    for said in kept:
        for name, (mean, windows) in said.means.items():
            points[name].append(FeaturePointView(at=said.at, mean=mean, windows=windows, release=said.release))
    curves = []
    for name, each in points.items():
        usual, deviation = trained.get((each[-1].release, name), (None, None))
        shift = None
        if usual is not None and deviation is not None and deviation > 0:
            shift = (each[-1].mean - usual) / deviation
        curves.append(FeatureCurveView(name=name, usual=usual, deviation=deviation, shift=shift, points=each))
    curves.sort(key=lambda curve: (-abs(curve.shift or 0.0), curve.name))
    return FeatureCurvesView(
        device=device, pipeline=pipeline, reports=read, shown=len(kept), left_out=left_out, curves=curves
    )


def _said(
    connection: Connection, device: str, pipeline: str, since: float, until: float, reports: int
) -> tuple[list[_Said], int, int, dict[tuple[str, str], tuple[float, float]]]:
    """What the reports said, oldest first; how many are of the pipeline; how many of those fit no manifest; and by
    release and feature, mean and deviation in training."""
    key = drift_reports
    keys = (
        select(key.c.received_at, key.c.epoch, key.c.seq, key.c.model, key.c.release)
        .where(key.c.device == device, key.c.received_at >= since, key.c.received_at < until)
        .order_by(key.c.received_at.desc(), key.c.seq.desc())
        .limit(REPORTS_FOUND)
    )
    rows = connection.execute(keys).all()[::-1]
    step = max(1, math.ceil(len(rows) / max(1, reports)))
    chosen = rows[::-1][::step][::-1]  # the newest is always among them
    releases = list(dict.fromkeys((row.model, row.release) for row in reversed(chosen)))[:_RELEASES_READ]
    manifests = manifests_of(connection, releases)
    said: list[_Said] = []
    trained: dict[tuple[str, str], tuple[float, float]] = {}
    read = left_out = 0
    for row, report in _reports(connection, device, {(row.epoch, row.seq): row for row in chosen}):
        if report.pipeline != pipeline:
            continue
        read += 1
        release = f"{report.model}/{report.release}"
        names, references = _features(manifests.get((report.model, report.release), {}))
        sketches = decode_sketches(report.sketches)
        if not names or len(sketches) != len(names):
            left_out += 1
            continue
        counts, means = sketches.n.tolist(), sketches.mean.tolist()
        said.append(
            _Said(
                row.received_at,
                release,
                {
                    name: (mean, count)
                    for name, mean, count in zip(names, means, counts, strict=True)
                    if count and math.isfinite(mean)
                },
            )
        )
        trained |= {(release, name): known for name, known in zip(names, references, strict=False) if known}
    said.sort(key=lambda each: each.at)
    return said, read, left_out, trained


def _reports(connection: Connection, device: str, wanted: dict[tuple[str, int], Any]) -> list[tuple[Any, DriftReport]]:
    """The reports of ``device`` by epoch and number, each with its row of ``drift_reports``."""
    if not wanted:
        return []
    times = sorted({row.received_at for row in wanted.values()})
    query = select(messages.c.epoch, messages.c.first_seq, messages.c.body).where(
        messages.c.device == device, messages.c.received_at.in_(times), messages.c.kind == "report"
    )
    found = []
    for row in connection.execute(query):
        known = wanted.get((row.epoch, row.first_seq))
        if known is None:
            continue
        try:
            message = decode(Up.REPORT, row.body)
        except WireError:  # another version wrote it
            continue
        if isinstance(message, Report) and isinstance(message.body, DriftReport):
            found.append((known, message.body))
    return found


def _features(manifest: dict[str, Any]) -> tuple[list[str], list[tuple[float, float] | None]]:
    """The names of a manifest's features, and mean and deviation of each in training where it says them."""
    features, drift = manifest.get("features"), manifest.get("drift")
    if not isinstance(features, list) or not all(isinstance(each, dict) and "name" in each for each in features):
        return [], []
    references = drift.get("features") if isinstance(drift, dict) else None
    return [str(each["name"]) for each in features], [_reference(each) for each in references or ()]


def _reference(value: object) -> tuple[float, float] | None:
    if not isinstance(value, dict):
        return None
    numbers: Collection[object] = (value.get("mean"), value.get("deviation"))
    if not all(isinstance(each, int | float) and math.isfinite(each) for each in numbers):
        return None
    return float(value["mean"]), float(value["deviation"])


def _within(said: _Said, condition: Condition) -> bool:
    known = said.means.get(condition.feature)
    return known is not None and condition.low <= known[0] <= condition.high

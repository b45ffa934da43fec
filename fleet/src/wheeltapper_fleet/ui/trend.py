"""The trend of a point: its curve with alarm bands behind it and releases drawn under it. Pure.

A band is what is learned: from the warning threshold (a score of 1) to the release's critical level, and above. The
strip under the curve says which release scored each stretch, so that a step in the curve at a new release is seen as
one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wheeltapper_fleet.telemetry.schemas import FeatureCurveView, PointView
from wheeltapper_fleet.ui.charts import Curve, Sample, curve

__all__ = ["Gauge", "Small", "Strip", "Trend", "gauge", "small", "trend"]

_WIDTH: Final = 720.0
_HEIGHT: Final = 150.0
_MOST_STRIPS: Final = 60


@dataclass(frozen=True)
class Strip:
    """A release (``model/3``; several with a comma) from ``x`` for ``width``, in SVG units; ``odd`` alternates."""

    x: float
    width: float
    said: str
    odd: bool


@dataclass(frozen=True)
class Trend:
    """A curve, the height of the critical level (None where it is above the chart), and the releases under it."""

    curve: Curve
    critical_y: float | None
    strips: tuple[Strip, ...]

    @property
    def releases(self) -> list[str]:
        """The releases in the order of their first stretch."""
        return list(dict.fromkeys(strip.said for strip in self.strips))


@dataclass(frozen=True)
class Gauge:
    """A score on a scale from 0 to a bit above the critical level, in percent of the scale."""

    value: float
    warning: float
    critical: float


@dataclass(frozen=True)
class Small:
    """A small chart of a feature: its line, the band of training from ``band_y`` for ``band_height`` (None where it is
    not known), and the values at the lower and upper edge."""

    line: str
    band_y: float | None
    band_height: float | None
    low: float
    high: float


def small(curve: FeatureCurveView, begin: float, end: float) -> Small | None:
    """The chart of a feature from ``begin`` to ``end`` (Unix seconds), 240 by 60; None for fewer than two points.

    The band is two deviations to each side of the usual value; it is always on the chart.
    """
    points = [each for each in curve.points if math.isfinite(each.mean)]
    if len(points) < 2 or end <= begin:
        return None
    values = [each.mean for each in points]
    edges = None
    if curve.usual is not None and curve.deviation is not None:
        edges = (curve.usual - 2 * curve.deviation, curve.usual + 2 * curve.deviation)
        values += edges
    low, high = min(values), max(values)
    spread = (high - low) or max(abs(high), 1e-12)

    def height(value: float) -> float:
        return round(57 - 54 * (value - low) / spread, 1)

    line = " ".join(f"{240 * (each.at - begin) / (end - begin):.1f},{height(each.mean)}" for each in points)
    if edges is None:
        return Small(line, None, None, low, high)
    return Small(line, height(edges[1]), round(max(0.5, height(edges[0]) - height(edges[1])), 1), low, high)


def trend(points: Sequence[PointView], alerts: Sequence[float] = (), critical: float = 2.0) -> Trend | None:
    """The trend of ``points``, in order of time; None for fewer than two with a score.

    Args:
        points: stretches of the history of a point.
        alerts: when alerts were raised, in Unix seconds.
        critical: the score at which the release says critical.
    """
    scored = [each for each in points if each.mean is not None and math.isfinite(each.mean)]
    drawn = curve([Sample(each.at, each.mean, each.max) for each in scored], alerts)
    if drawn is None:
        return None
    critical_y = round(_HEIGHT - 4 - (_HEIGHT - 8) * critical / drawn.top, 1) if critical < drawn.top else None
    return Trend(drawn, critical_y, _strips(scored, drawn))


def gauge(score: float | None, critical: float) -> Gauge | None:
    """Where ``score`` is between nothing and critical; None where it is no number."""
    if score is None or not math.isfinite(score):
        return None
    top = 1.25 * max(critical, 1.0)
    return Gauge(round(100 * min(1.0, max(0.0, score) / top), 1), round(100 / top, 1), round(100 * critical / top, 1))


def _strips(points: Sequence[PointView], drawn: Curve) -> tuple[Strip, ...]:
    span = drawn.end - drawn.begin
    changes: list[tuple[float, str]] = []
    for each in points:  # a stretch in which one release followed another belongs to the new one
        known = [changes[-1][1]] if changes else []
        new = [name for name in each.releases if name not in known]
        said = ", ".join(new or each.releases)
        if said and (not changes or changes[-1][1] != said):
            changes.append((max(each.at, drawn.begin), said))
    if not changes or len(changes) > _MOST_STRIPS:
        return ()
    edges = [*(at for at, _ in changes), drawn.end]
    return tuple(
        Strip(
            round(_WIDTH * (at - drawn.begin) / span, 1), round(_WIDTH * (end - at) / span, 1), said, bool(number % 2)
        )
        for number, ((at, said), end) in enumerate(zip(changes, edges[1:], strict=True))
    )

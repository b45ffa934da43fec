"""What pages of campaigns draw: waves as blocks, a dry run's waves in time, a gate's evidence and means. Pure.

Every drawing is in the coordinates of an SVG that is :data:`WIDTH` wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wheeltapper_fleet.campaigns.failures import GateCurve
from wheeltapper_fleet.campaigns.schemas import PlannedWave
from wheeltapper_fleet.ui.charts import WaveBar

__all__ = ["GateChart", "PlanBar", "WaveBlock", "gate_chart", "plan_bars", "wave_blocks"]

WIDTH: Final = 720.0
_HEIGHT: Final = 130.0
_LEAST_SHARE: Final = 0.01
_GAP: Final = 2.0
_LOG_10: Final = math.log(10)


@dataclass(frozen=True)
class WaveBlock:
    """A wave as a block: where it begins, how wide it is, and how much of it committed, failed and is under way."""

    bar: WaveBar
    x: float
    width: float
    good: float
    bad: float
    going: float


def wave_blocks(bars: Sequence[WaveBar], pending: str = "PENDING") -> list[WaveBlock]:
    """The waves of a campaign beside each other, each as wide as its share of the devices."""
    total = sum(bar.total for bar in bars)
    if not bars or not total:
        return []
    shares = [max(bar.total / total, _LEAST_SHARE) for bar in bars]
    unit = (WIDTH - _GAP * (len(bars) - 1)) / sum(shares)
    blocks, x = [], 0.0
    for bar, share in zip(bars, shares, strict=True):
        width = share * unit
        waits = sum(count for state, count in bar.states if state == pending)
        parts = [width * each / bar.total if bar.total else 0.0 for each in (bar.good, bar.bad, bar.going - waits)]
        good, bad, going = (round(each, 1) for each in parts)
        blocks.append(WaveBlock(bar, round(x, 1), round(width, 1), good, bad, max(0.0, going)))
        x += width + _GAP
    return blocks


@dataclass(frozen=True)
class PlanBar:
    """A wave of a dry run in time: where it opens and is over at the earliest, and over at the latest."""

    wave: PlannedWave
    x: float
    width: float
    latest: float


def plan_bars(waves: Sequence[PlannedWave]) -> list[PlanBar]:
    """The waves of a dry run, from the earliest opening of the first to the latest end of the last."""
    if not waves:
        return []
    begin = waves[0].opens_earliest
    span = max(max(wave.ends_latest for wave in waves) - begin, 1.0)

    def across(at: float) -> float:
        return round(WIDTH * (at - begin) / span, 1)

    return [
        PlanBar(
            wave,
            across(wave.opens_earliest),
            max(1.5, across(wave.ends_earliest) - across(wave.opens_earliest)),
            max(1.5, across(wave.ends_latest) - across(wave.opens_earliest)),
        )
        for wave in waves
    ]


@dataclass(frozen=True)
class GateChart:
    """A gate's evidence by the number of devices that have spoken, and the means of updated devices and the others.

    Args:
        evidence: the points of the line of the evidence.
        limit_y: height at which the gate breaks.
        updated, others: the points of the lines of the means; ``others`` is empty where there was none to compare with.
        devices: at the right edge.
        limit: the odds at ``limit_y``: 20 for a false-stop rate of 5 %.
        odds: the evidence now, as odds against the release.
        low, high: of the means.
    """

    evidence: str
    limit_y: float
    updated: str
    others: str
    devices: int
    limit: float
    odds: float
    low: float
    high: float


def gate_chart(curve: GateCurve) -> GateChart | None:
    """The chart of a gate; None where fewer than two points are known. The evidence begins at 0, before any device."""
    points = [each for each in curve.points if math.isfinite(each.evidence) and math.isfinite(each.mean)]
    if len(points) < 2:
        return None
    most = points[-1].devices
    limit = -math.log(curve.alpha)
    top = max(limit * 1.25, *(each.evidence for each in points))
    floor = min(-limit / 2, *(each.evidence for each in points))
    means = [each.mean for each in points]
    controls = [each.control_mean for each in points if each.control_mean is not None]
    low, high = min(means + controls), max(means + controls)

    def across(devices: int) -> float:
        return round(WIDTH * devices / most, 1)

    def height(value: float, least: float, greatest: float) -> float:
        return round(_HEIGHT - 5 - (_HEIGHT - 10) * (value - least) / ((greatest - least) or 1.0), 1)

    compared = [(each.devices, each.control_mean) for each in points if each.control_mean is not None]
    return GateChart(
        evidence=" ".join(
            [f"0.0,{height(0.0, floor, top)}"]
            + [f"{across(each.devices)},{height(each.evidence, floor, top)}" for each in points]
        ),
        limit_y=height(limit, floor, top),
        updated=" ".join(f"{across(each.devices)},{height(each.mean, low, high)}" for each in points),
        others=" ".join(f"{across(devices)},{height(mean, low, high)}" for devices, mean in compared),
        devices=most,
        limit=1.0 / curve.alpha,
        odds=math.exp(min(points[-1].evidence, 300 * _LOG_10)),
        low=low,
        high=high,
    )

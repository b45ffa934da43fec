"""What the page draws: sparklines of scores, bars of a campaign's waves, the reasons of alerts.

Invariant: numbers that devices sent cannot break the drawing. What is not finite is left out, and shares are kept
within 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from wheeltapper_fleet.alerts.schemas import AlertView
from wheeltapper_fleet.campaigns.schemas import CampaignView
from wheeltapper_fleet.devices.schemas import DeviceView
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["Curve", "Sample", "Sparkline", "WaveBar", "curve", "sparkline", "wave_bars", "with_reasons"]

_WIDTH: Final = 240.0
_HEIGHT: Final = 48.0
_MAX_SCORE: Final = 1e6
_CURVE_WIDTH: Final = 720.0
_CURVE_HEIGHT: Final = 150.0
_GAP: Final = 6.0
"""Points this many times farther apart than most are not joined: nothing was measured between them."""
_MAX_REASONS: Final = 4
_FAILED: Final = {ExecutionState.FAILED, ExecutionState.REJECTED, ExecutionState.ROLLED_BACK}


@dataclass(frozen=True)
class Sparkline:
    """A sparkline of scores, in SVG coordinates.

    Args:
        line: the points of the line.
        area: the points of the area below it.
        threshold_y: height of the warning threshold (score 1.0).
        last_x, last_y: the newest score's point.
    """

    line: str
    area: str
    threshold_y: float
    last_x: float
    last_y: float


@dataclass(frozen=True)
class Sample:
    """One stretch of a curve: Unix seconds, mean and greatest score."""

    at: float
    mean: float | None
    top: float | None


@dataclass(frozen=True)
class Curve:
    """A curve of scores over time, in SVG coordinates.

    Args:
        lines: the points of each stretch without a gap: of the means.
        tops: the same of the greatest scores.
        threshold_y: height of the warning threshold (score 1.0).
        marks: where alerts were raised.
        begin, end: Unix seconds of the left and the right edge.
        top: score at the upper edge.
    """

    lines: tuple[str, ...]
    tops: tuple[str, ...]
    threshold_y: float
    marks: tuple[float, ...]
    begin: float
    end: float
    top: float


@dataclass(frozen=True)
class WaveBar:
    """One wave of a campaign as a bar, with the number of its executions.

    Args:
        number: 1 for the first wave.
        state: the wave's state.
        good: executions that committed.
        bad: executions that failed, were rejected or rolled back.
        going: executions that have not ended.
        total: all executions.
        states: (state, number of executions) in alphabetical order.
    """

    number: int
    state: str
    good: int
    bad: int
    going: int
    total: int
    states: tuple[tuple[str, int], ...]

    @property
    def good_percent(self) -> float:
        """Share of executions that committed."""
        return 100.0 * self.good / self.total if self.total else 0.0

    @property
    def bad_percent(self) -> float:
        """Share of executions that failed, were rejected or rolled back."""
        return 100.0 * self.bad / self.total if self.total else 0.0


def sparkline(device: DeviceView) -> Sparkline | None:
    """The sparkline of a device's scores; None for fewer than two.

    The vertical axis starts at 0 and always includes the warning threshold.
    """
    scores = [min(point.score, _MAX_SCORE) for point in device.scores if math.isfinite(point.score)]
    if len(scores) < 2:
        return None
    top = max(1.25, *scores)
    step = _WIDTH / (len(scores) - 1)

    def height(score: float) -> float:
        return round(_HEIGHT - 3 - (_HEIGHT - 6) * max(0.0, score) / top, 1)

    points = [f"{index * step:.1f},{height(score)}" for index, score in enumerate(scores)]
    line = " ".join(points)
    area = f"0,{_HEIGHT} {line} {_WIDTH},{_HEIGHT}"
    return Sparkline(line, area, height(1.0), _WIDTH, height(scores[-1]))


def curve(samples: Sequence[Sample], marks: Sequence[float] = ()) -> Curve | None:
    """The curve of ``samples``, which are in order of time, with ``marks`` (Unix seconds); None for fewer than two.

    The vertical axis starts at 0 and always includes the warning threshold. Where nothing was measured there is no
    line.
    """
    found = [
        (each.at, min(each.mean, _MAX_SCORE), min(_finite(each.top, each.mean), _MAX_SCORE))
        for each in samples
        if each.mean is not None and math.isfinite(each.mean) and math.isfinite(each.at)
    ]
    if len(found) < 2 or found[-1][0] <= found[0][0]:
        return None
    begin, end = found[0][0], found[-1][0]
    top = max(1.25, *(high for _, _, high in found))
    steps = sorted(after[0] - before[0] for before, after in pairwise(found))
    gap = _GAP * max(steps[len(steps) // 2], (end - begin) / _CURVE_WIDTH)

    def across(at: float) -> float:
        return round(_CURVE_WIDTH * (at - begin) / (end - begin), 1)

    def height(score: float) -> float:
        return round(_CURVE_HEIGHT - 4 - (_CURVE_HEIGHT - 8) * max(0.0, score) / top, 1)

    stretches: list[list[tuple[float, float, float]]] = [[]]
    for before, sample in zip([found[0], *found], found, strict=False):
        if sample[0] - before[0] > gap:
            stretches.append([])
        stretches[-1].append(sample)
    return Curve(
        tuple(" ".join(f"{across(at)},{height(mean)}" for at, mean, _ in each) for each in stretches),
        tuple(" ".join(f"{across(at)},{height(high)}" for at, _, high in each) for each in stretches),
        height(1.0),
        tuple(across(at) for at in marks if begin <= at <= end),
        begin,
        end,
        top,
    )


def _finite(value: float | None, otherwise: float) -> float:
    return value if value is not None and math.isfinite(value) else otherwise


def wave_bars(campaign: CampaignView, most: int | None = None) -> Sequence[WaveBar]:
    """The waves of a campaign in order, numbered from 1; at most ``most`` of them, those around the one that is next to
    pass."""
    last = max([len(campaign.waves), *(int(key) for key in campaign.executions)])
    bars = [_wave_bar(campaign, number) for number in range(1, last + 1)]
    if most is None or last <= most:
        return bars
    current = next((index for index, bar in enumerate(bars) if bar.state != "PASSED"), last)
    first = min(max(0, current - most // 2), last - most)
    return bars[first : first + most]


def _wave_bar(campaign: CampaignView, number: int) -> WaveBar:
    states = campaign.executions.get(str(number), {})
    described: Any = campaign.waves[number - 1] if number <= len(campaign.waves) else {}
    state = described.get("state", "") if isinstance(described, dict) else described
    good = states.get(ExecutionState.COMMITTED, 0)
    bad = sum(states.get(item, 0) for item in _FAILED)
    total = sum(states.values())
    going = sum(number for name, number in states.items() if not _terminal(name))
    return WaveBar(number, str(state), good, bad, going, total, tuple(sorted(states.items())))


def _terminal(name: str) -> bool:
    return name in ExecutionState.__members__ and ExecutionState(name).terminal


def with_reasons(alerts: Sequence[AlertView]) -> list[tuple[AlertView, list[dict[str, Any]]]]:
    """Every alert with its most important reasons.

    A reason with share 0 explains the others (it names the bearing's fault) and comes first. The others follow by their
    share of the score, largest first.
    """
    shown = []
    for alert in alerts:
        reasons = [reason for reason in alert.reasons if isinstance(reason.get("share"), int | float)]
        reasons.sort(key=lambda reason: (reason["share"] != 0, -float(reason["share"])))
        clipped = [{**item, "share": min(1.0, max(0.0, float(item["share"])))} for item in reasons[:_MAX_REASONS]]
        shown.append((alert, clipped))
    return shown

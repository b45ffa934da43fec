"""What holds of assets, as functions of values: kinds in order, times that do not overlap, bearings' frequencies. Pure.

Invariants:
    * An asset belongs to one of a higher kind; only a site belongs to nothing.
    * At any time a channel of a pipeline measures at most one point; ``*`` is all of its channels.

Source of the defect orders: Randall and Antoni, "Rolling element bearing diagnostics - a tutorial", MSSP 25 (2011)
485-520, equations 1 to 4; the outer ring stands still.

Example::

    bearing_orders(Bearing(rolling_elements=9, ball_diameter_mm=7.94, pitch_diameter_mm=39.04))["outer_race"]  # 3.58
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from wheeltapper_fleet.assets.schemas import Attributes, Bearing
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["ALL_CHANNELS", "KINDS", "Span", "bearing_orders", "check_parent", "conflicting", "inherit", "point_of"]

KINDS: Final = ("site", "machine", "component", "point")
"""The kinds, highest first."""
ALL_CHANNELS: Final = "*"


@dataclass(frozen=True)
class Span:
    """A device's pipeline and channel measure ``point`` from ``from_at`` (included) to ``to_at`` (excluded)."""

    point: str
    channel: str
    from_at: float
    to_at: float | None

    def covers(self, at: float) -> bool:
        """Whether the span holds at ``at`` (Unix seconds)."""
        return self.from_at <= at and (self.to_at is None or at < self.to_at)


def check_parent(asset: str, kind: str, parent: str | None, parent_kind: str | None) -> None:
    """Check that an asset of ``kind`` may belong to one of ``parent_kind``.

    Raises:
        FleetError: ``asset.parent``.
    """
    if kind == "site":
        if parent is not None:
            raise FleetError("asset.parent", f"{asset} is a site: it belongs to nothing, leave out its parent", 422)
        return
    if parent is None:
        above = KINDS[KINDS.index(kind) - 1]
        raise FleetError("asset.parent", f"{asset} is a {kind}: say which {above} it belongs to", 422)
    fitting = ("site",) if kind == "machine" else ("machine",) if kind == "component" else ("machine", "component")
    if parent_kind not in fitting:
        raise FleetError(
            "asset.parent", f"{asset} is a {kind} and cannot belong to {parent}, which is a {parent_kind}", 422
        )


def conflicting(wanted: Span, existing: Iterable[Span]) -> Span | None:
    """The first of ``existing`` (spans of the same device and pipeline) that speaks of the same channel and time."""
    for span in existing:
        same = ALL_CHANNELS in (span.channel, wanted.channel) or span.channel == wanted.channel
        before = span.to_at is not None and span.to_at <= wanted.from_at
        after = wanted.to_at is not None and wanted.to_at <= span.from_at
        if same and not before and not after:
            return span
    return None


def point_of(spans: Iterable[Span], at: float, features: Collection[str], channel: str | None = None) -> str | None:
    """The point that something measured at ``at`` belongs to; None where there is none or it cannot be told.

    Args:
        spans: those of its device and pipeline.
        at: Unix seconds.
        features: the features that moved, strongest first. A feature is named ``CHANNEL.KIND`` or ``CHANNEL BAND``.
        channel: the one that it is about, where that is known; the features decide otherwise.
    """
    valid = [span for span in spans if span.covers(at)]
    if len({span.point for span in valid}) == 1:
        return valid[0].point
    if channel is not None and (of_channel := [span.point for span in valid if span.channel == channel]):
        return of_channel[0]
    for feature in features if channel is None else ():
        for span in valid:
            if feature.startswith((f"{span.channel}.", f"{span.channel} ")):
                return span.point
    return None


def inherit(own: Attributes, above: Iterable[Attributes]) -> Attributes:
    """``own`` with what it lacks taken from ``above`` (nearest first); the note is its own."""
    found: dict[str, object] = {}
    for each in (own, *above):
        for name in ("bearing", "speed", "iso20816"):
            if name not in found and getattr(each, name) is not None:
                found[name] = getattr(each, name)
    return Attributes(note=own.note).model_copy(update=found)


def bearing_orders(bearing: Bearing) -> dict[str, float]:
    """The defect frequencies of a bearing in turns of the shaft: outer and inner race, rolling element, cage."""
    ratio = bearing.ball_diameter_mm / bearing.pitch_diameter_mm * math.cos(math.radians(bearing.contact_angle_deg))
    return {
        "outer_race": bearing.rolling_elements / 2 * (1 - ratio),
        "inner_race": bearing.rolling_elements / 2 * (1 + ratio),
        "rolling_element": bearing.pitch_diameter_mm / (2 * bearing.ball_diameter_mm) * (1 - ratio**2),
        "cage": (1 - ratio) / 2,
    }


def frequencies_hz(orders: Mapping[str, float], attributes: Attributes) -> dict[str, float]:
    """The defect frequencies in Hz at a fixed speed; empty where the speed is not fixed."""
    speed = attributes.speed
    if speed is None or speed.rpm is None:
        return {}
    return {name: order * speed.rpm / 60 for name, order in orders.items()}

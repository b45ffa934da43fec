"""Whom telemetry gates listen to: the panel of a wave, each member with a device to compare it with. Pure.

Before any of them is heard, a wave's panel is drawn: all of its devices, or evenly spaced ones of a large wave, and for
each, while there are any, a device of a later wave that is not told anything meanwhile.

Invariants:
    * A panel has at most :data:`PANEL` devices, so that what gates cost does not grow with the fleet.
    * No device is compared with twice in one panel, and at most half of the later devices are: the others have nothing
      that ties them to what was concluded before, when their own wave comes.
    * Devices that have not served a panel before come first.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from wheeltapper_fleet.campaigns.rules.gates import BUCKET_SECONDS

__all__ = ["PANEL", "Span", "draw", "spans"]

PANEL: Final = 500


@dataclass(frozen=True)
class Span:
    """Buckets from ``begin`` to before ``end`` (Unix seconds, multiples of :data:`BUCKET_SECONDS`)."""

    begin: int
    end: int


def draw(
    wave: Sequence[str], later: Sequence[str], served: Collection[str], most: int = PANEL
) -> list[tuple[str, str | None]]:
    """The panel of a wave.

    Args:
        wave: its devices, in a stable order.
        later: devices of later waves that have not been told anything.
        served: devices that were compared with in panels before.
        most: how many are drawn at most.

    Returns:
        Devices of the wave, each with the one that it is compared with, if any.
    """
    members = _spread([each for each in wave if each not in served], most)
    members += _spread([each for each in wave if each in served], most - len(members))
    pairs = min(len(members), len(later) // 2)
    controls = _spread([each for each in later if each not in served], pairs)
    controls += _spread([each for each in later if each in served], pairs - len(controls))
    ordered = sorted(members)
    return [(each, controls[index] if index < len(controls) else None) for index, each in enumerate(ordered)]


def spans(assigned_at: float, ended_at: float, observe_seconds: int) -> tuple[Span, Span]:
    """The times before and after an update that was assigned at one time and committed at another (Unix seconds).

    Neither holds the bucket in which one of the two happened.
    """
    before = math.floor(assigned_at / BUCKET_SECONDS) * BUCKET_SECONDS
    after = math.ceil(ended_at / BUCKET_SECONDS) * BUCKET_SECONDS
    return Span(before - observe_seconds, before), Span(after, after + observe_seconds)


def _spread(devices: Sequence[str], most: int) -> list[str]:
    """At most ``most`` of ``devices``, evenly spaced."""
    count = min(len(devices), max(most, 0))
    return [devices[index * len(devices) // count] for index in range(count)]

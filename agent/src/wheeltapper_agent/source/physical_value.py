"""The physical value of a number that a device gave, or why there is none. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

__all__ = ["LARGEST_VALUE", "Reading", "physical_reading"]

LARGEST_VALUE: Final = 3.3e38
"""No sensor measures more. Devices write the largest float32, 3.4e38, with either sign where they have no value; what
is larger does not fit into a window."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The physical value of a channel; NaN if there is none, and then why."""

    value: float
    reason: str = ""
    """Such as ``BadSensorFailure``; empty: there is a value, or nothing was reported yet."""


def physical_reading(value: float, offset: float, scale: float) -> Reading:
    """Return (value + offset) * scale; nothing if value or result is no number that a sensor can give."""
    if not abs(value) <= LARGEST_VALUE:
        return Reading(math.nan, f"the value {value:.6g}, which no sensor gives")
    result = (float(value) + offset) * scale
    if not abs(result) <= LARGEST_VALUE:
        return Reading(math.nan, f"the value {value:.6g}, which is too large for scale and offset")
    return Reading(result)

"""The physical value of a number that a device gave. Pure."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["LARGEST_VALUE", "physical_value"]

LARGEST_VALUE: Final = 3.3e38
"""No sensor measures more. Devices write the largest float32, 3.4e38, with either sign where they have no value; what
is larger does not fit into a window."""


def physical_value(value: float, offset: float, scale: float) -> float:
    """Return (value + offset) * scale; NaN if the value, or the result, is no number that a sensor can give."""
    if not abs(value) <= LARGEST_VALUE:
        return math.nan
    result = (float(value) + offset) * scale
    return result if abs(result) <= LARGEST_VALUE else math.nan

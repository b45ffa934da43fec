"""From scores to a severity: smoothing, hysteresis, reasons (to be filled in)."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["DecisionSpec"]


class DecisionSpec(Struct, frozen=True, kw_only=True):
    """Parameters of the decision."""

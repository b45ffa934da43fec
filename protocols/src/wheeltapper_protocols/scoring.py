"""From features and the model's output to a score (to be filled in)."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["ScoringSpec"]


class ScoringSpec(Struct, frozen=True, kw_only=True):
    """How features become the model's input and its output a score."""

"""Features of a window of vibration samples (to be filled in)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["FeatureSpec"]


class FeatureSpec(Struct, frozen=True, kw_only=True):
    """One feature: what is computed, of which channel, with which parameters."""

    name: Annotated[str, Meta(max_length=120)]
    kind: Annotated[str, Meta(max_length=40)]
    channel: Annotated[int, Meta(ge=0, le=63)]
    params: dict[str, float] = {}

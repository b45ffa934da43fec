"""Which features there are and how one is named: the part of the contract that a manifest carries.

What this module does not do: compute them (:mod:`features`).
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

__all__ = ["KINDS", "PARAMETERS", "FeatureSpec", "check_spec"]

_CARRIER: Final = frozenset({"carrier_low_hz", "carrier_high_hz"})
PARAMETERS: Final[dict[str, frozenset[str]]] = {
    "rms": frozenset(),
    "peak": frozenset(),
    "crest": frozenset(),
    "kurtosis": frozenset(),
    "skewness": frozenset(),
    "band_rms": frozenset({"low_hz", "high_hz"}),
    "centroid": frozenset(),
    "envelope_rms": frozenset({"low_hz", "high_hz"}) | _CARRIER,
    "velocity_rms": frozenset({"low_hz", "high_hz", "m_s2_per_unit"}),
    "bearing_line": frozenset({"line_hz", "harmonics", "tolerance"}) | _CARRIER,
}
"""The parameters that each kind needs, all of them."""
KINDS: Final = tuple(PARAMETERS)


class FeatureSpec(Struct, frozen=True, kw_only=True):
    """One feature: what is computed, of which channel, with which parameters."""

    name: Annotated[str, Meta(max_length=120)]
    kind: Annotated[str, Meta(max_length=40)]
    channel: Annotated[int, Meta(ge=0, le=63)]
    params: dict[str, float] = {}


def check_spec(spec: FeatureSpec, channels: int) -> None:
    """Refuse a feature that cannot be computed of a window with so many channels.

    Raises:
        ValueError: an unknown kind, missing or unknown parameters, a channel that is not there.
    """
    if spec.channel >= channels:
        raise ValueError(f"the feature {spec.name} is of channel {spec.channel}; there are {channels}")
    if spec.kind not in PARAMETERS or set(spec.params) != PARAMETERS[spec.kind]:
        raise ValueError(f"the feature {spec.name} has an unknown kind or not the parameters of {spec.kind!r}")

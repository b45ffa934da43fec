"""The kinds of features, their parameters, and how a manifest names a feature.

What this module does not do: compute them. See :mod:`features` for what each kind means.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

__all__ = ["KINDS", "PARAMETERS", "SPECTRAL_KINDS", "FeatureSpec", "check_spec"]

_CARRIER: Final = frozenset({"carrier_low_hz", "carrier_high_hz"})
PARAMETERS: Final[dict[str, frozenset[str]]] = {
    "value": frozenset(),
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
"""The parameters of each kind; a feature must have exactly these."""
KINDS: Final = tuple(PARAMETERS)
"""The names of all kinds."""
SPECTRAL_KINDS: Final = ("band_rms", "centroid", "envelope_rms", "velocity_rms", "bearing_line")
"""The kinds that need a sample rate."""


class FeatureSpec(Struct, frozen=True, kw_only=True):
    """One feature: its name, what is computed (``kind``), of which channel (index), with which parameters."""

    name: Annotated[str, Meta(max_length=120)]
    kind: Annotated[str, Meta(max_length=40)]
    channel: Annotated[int, Meta(ge=0, le=63)]
    params: dict[str, float] = {}


def check_spec(spec: FeatureSpec, channels: int) -> None:
    """Check that ``spec`` can be computed from a window with ``channels`` channels.

    Raises:
        ValueError: the kind is unknown, parameters are missing or unknown, or there is no such channel.
    """
    if spec.channel >= channels:
        raise ValueError(f"the feature {spec.name} is of channel {spec.channel}; there are {channels}")
    if spec.kind not in PARAMETERS or set(spec.params) != PARAMETERS[spec.kind]:
        raise ValueError(f"the feature {spec.name} has an unknown kind or not the parameters of {spec.kind!r}")

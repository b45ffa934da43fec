"""Vibration severity zones of ISO 20816-3, from acceleration.

The standard judges the root mean square velocity of non-rotating parts in mm/s, from 10 to 1,000 Hz (from 2 Hz for
shafts below 600 turns a minute). Its limits depend on the machine's group and foundation. Zone A is usual for new
machines; in B a machine may run without limit, in C only for a limited time; D causes damage. Group 1 are machines
above 300 kW or with a shaft height of at least 315 mm; group 2 are those of 15 to 300 kW or 160 to 315 mm.

The limits here are those commonly quoted for ISO 20816-3 and its predecessor ISO 10816-3. They have not been compared
with the text of the standard; do that before you rely on a zone.

Velocity is computed from acceleration by dividing each bin by its angular frequency and summing the powers (Parseval).
That is exact for tones that repeat in the window, and there is no integration drift to remove. There is no taper: a
tone between two bins leaks into lower bins, which are divided by a lower frequency. This matters in short windows: use
windows of at least 4 / ``low_hz`` seconds.

What this module does not do: check where the sensor is mounted. The standard asks for bearing housings.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta, Struct

from wheeltapper_protocols.signal.feature_kinds import FeatureSpec

__all__ = ["LIMITS_MM_S", "Iso20816", "Zone", "m_s2_per_unit", "velocity_feature_specs", "zone"]

Zone: TypeAlias = Literal["A", "B", "C", "D"]
STANDARD_GRAVITY_M_S2: Final = 9.80665
LIMITS_MM_S: Final[dict[tuple[int, str], tuple[float, float, float]]] = {
    (1, "rigid"): (2.3, 4.5, 7.1),
    (1, "flexible"): (3.5, 7.1, 11.0),
    (2, "rigid"): (1.4, 2.8, 4.5),
    (2, "flexible"): (2.3, 4.5, 7.1),
}
"""Velocities in mm/s at which zones B, C and D begin, by (group, foundation)."""
_UNITS: Final = {
    "g": STANDARD_GRAVITY_M_S2,
    "mg": STANDARD_GRAVITY_M_S2 / 1000,
    "milli-g": STANDARD_GRAVITY_M_S2 / 1000,
    "m/s2": 1.0,
    "m/s^2": 1.0,
    "m/s²": 1.0,
}


class Iso20816(Struct, frozen=True, kw_only=True):
    """The manifest's section ``iso20816``: each window is given a zone."""

    group: Literal[1, 2]
    foundation: Literal["rigid", "flexible"]
    channels: Annotated[list[Annotated[int, Meta(ge=0, le=63)]], Meta(min_length=1, max_length=8)]
    """Indices of acceleration channels. The worst of them gives the zone, as the standard asks."""
    low_hz: Annotated[float, Meta(gt=0, le=1000)] = 10.0
    high_hz: Annotated[float, Meta(gt=0, le=1e6)] = 1000.0
    raises: bool = False
    """Whether zones raise alerts: zone C counts as a score at ``raise_level``, zone D as one at ``critical_level``."""

    def __post_init__(self) -> None:
        if self.low_hz >= self.high_hz:
            raise ValueError("low_hz of iso20816 must be below high_hz")
        if len(set(self.channels)) != len(self.channels):
            raise ValueError("iso20816 names a channel twice")


def zone(section: Iso20816, velocity_mm_s: float) -> Zone | None:
    """The zone of a root mean square velocity in mm/s; None for NaN. A velocity at a limit is in the worse zone."""
    if velocity_mm_s != velocity_mm_s:
        return None
    to_b, to_c, to_d = LIMITS_MM_S[section.group, section.foundation]
    if velocity_mm_s < to_b:
        return "A"
    if velocity_mm_s < to_c:
        return "B"
    return "C" if velocity_mm_s < to_d else "D"


def m_s2_per_unit(unit: str) -> float:
    """The factor from ``unit`` (``g``, ``mg``, ``m/s2``, …) to m/s².

    Raises:
        ValueError: the unit is not a known unit of acceleration.
    """
    if unit not in _UNITS:
        raise ValueError(f"{unit!r} is not a known unit of acceleration: use one of {', '.join(_UNITS)}")
    return _UNITS[unit]


def velocity_feature_specs(section: Iso20816, channels: list[str], units: list[str]) -> list[FeatureSpec]:
    """The ``velocity_rms`` feature of each channel in the section.

    Args:
        section: the manifest's section.
        channels: names of the window's channels.
        units: units of the window's channels.

    Raises:
        ValueError: a channel does not exist or does not measure acceleration.
    """
    if max(section.channels) >= len(units):
        raise ValueError(f"iso20816 names channel {max(section.channels)}; there are {len(units)}")
    return [
        FeatureSpec(
            name=f"{channels[channel]}.velocity_mm_s",
            kind="velocity_rms",
            channel=channel,
            params={
                "low_hz": section.low_hz,
                "high_hz": section.high_hz,
                "m_s2_per_unit": m_s2_per_unit(units[channel]),
            },
        )
        for channel in section.channels
    ]

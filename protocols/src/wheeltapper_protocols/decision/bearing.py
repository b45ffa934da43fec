"""Fault frequencies of a rolling bearing from its geometry, and the features that measure their lines.

The formulas are for a fixed outer race and a turning inner race, without slip (Randall and Antoni, "Rolling element
bearing diagnostics - a tutorial", MSSP 25 (2011) 485-520, eqs. 1-4). A defect of a rolling element strikes a race twice
a turn, so its line is at twice the spin frequency.

What this module does not do: look for the lines in a window (:mod:`bearing_detector`), measure the speed of the shaft.
``shaft_hz`` is nominal; the lines are not found where the speed differs from it by more than ``tolerance``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct

from wheeltapper_protocols.signal.feature_kinds import FeatureSpec

__all__ = ["FAULTS", "Bearing", "BearingSpec", "bearing_feature_specs", "describe_fault"]

FAULTS: Final = ("BPFO", "BPFI", "BSF", "FTF")
"""Ball pass frequency of the outer and inner race, ball spin frequency, fundamental train (cage) frequency."""
_PLACES: Final = {"BPFO": "outer race", "BPFI": "inner race", "BSF": "rolling element", "FTF": "cage"}


class Bearing(Struct, frozen=True, kw_only=True):
    """Geometry of a rolling bearing. The defaults are those of an SKF 6205."""

    elements: Annotated[int, Meta(ge=3, le=200)] = 9
    """Number of rolling elements."""
    ball_mm: Annotated[float, Meta(gt=0, le=1e4)] = 7.94
    """Diameter of a rolling element, in mm."""
    pitch_mm: Annotated[float, Meta(gt=0, le=1e5)] = 39.04
    """Diameter of the pitch circle, on which their centres are, in mm."""
    contact_deg: Annotated[float, Meta(ge=0, lt=90)] = 0.0
    """Contact angle, in degrees."""

    def __post_init__(self) -> None:
        if self.ball_mm >= self.pitch_mm:
            raise ValueError("ball_mm must be below pitch_mm: an element is smaller than the pitch circle")

    @property
    def _ratio(self) -> float:
        return self.ball_mm / self.pitch_mm * math.cos(math.radians(self.contact_deg))

    def bpfo_hz(self, shaft_hz: float) -> float:
        """Frequency at which elements pass a defect of the outer race, at a shaft speed of ``shaft_hz``."""
        return self.elements / 2 * shaft_hz * (1 - self._ratio)

    def bpfi_hz(self, shaft_hz: float) -> float:
        """Frequency at which elements pass a defect of the inner race, at a shaft speed of ``shaft_hz``."""
        return self.elements / 2 * shaft_hz * (1 + self._ratio)

    def bsf_hz(self, shaft_hz: float) -> float:
        """Spin frequency of a rolling element; a defect of it strikes a race at twice this frequency."""
        return self.pitch_mm / (2 * self.ball_mm) * shaft_hz * (1 - self._ratio**2)

    def ftf_hz(self, shaft_hz: float) -> float:
        """Frequency at which the cage turns."""
        return shaft_hz / 2 * (1 - self._ratio)

    def line_hz(self, fault: str, shaft_hz: float) -> float:
        """Frequency of the line of ``fault``, one of :data:`FAULTS`."""
        if fault == "BSF":
            return 2 * self.bsf_hz(shaft_hz)
        return {"BPFO": self.bpfo_hz, "BPFI": self.bpfi_hz, "FTF": self.ftf_hz}[fault](shaft_hz)


class BearingSpec(Struct, frozen=True, kw_only=True):
    """The manifest's section ``bearing``: a bearing whose faults alerts name."""

    geometry: Bearing
    shaft_hz: Annotated[float, Meta(gt=0, le=1e4)]
    """Nominal speed of the shaft, in turns a second."""
    carrier_low_hz: Annotated[float, Meta(ge=0, le=1e9)]
    carrier_high_hz: Annotated[float, Meta(gt=0, le=1e9)]
    """The band of the resonances that impacts excite; above the harmonics of the shaft."""
    channel: Annotated[int, Meta(ge=0, le=63)] = 0
    """Index of the channel of acceleration."""
    harmonics: Annotated[int, Meta(ge=1, le=16)] = 3
    """Number of harmonics of each line."""
    tolerance: Annotated[float, Meta(ge=0, le=0.1)] = 0.02
    """A harmonic is searched for within this share of its frequency."""
    least: Annotated[float, Meta(ge=1, le=100)] = 2.5
    """Least strength of a line that is named (``signal.bearing_lines``), for a tolerance of one bin. Where
    the tolerance covers more bins, the limit rises with the strength of noise."""


def bearing_feature_specs(section: BearingSpec, label: str, faults: Sequence[str] = FAULTS) -> list[FeatureSpec]:
    """A ``bearing_line`` feature for each of ``faults``, named ``<label>.bpfo`` and so on."""
    shared = {"carrier_low_hz": section.carrier_low_hz, "carrier_high_hz": section.carrier_high_hz}
    return [
        FeatureSpec(
            name=f"{label}.{fault.lower()}",
            kind="bearing_line",
            channel=section.channel,
            params={
                "line_hz": section.geometry.line_hz(fault, section.shaft_hz),
                "harmonics": float(section.harmonics),
                "tolerance": section.tolerance,
                **shared,
            },
        )
        for fault in faults
    ]


def describe_fault(section: BearingSpec, fault: str) -> str:
    """The text that names a fault in an alert, e.g. ``outer race (BPFO 104.6 Hz, 3 harmonics)``."""
    line_hz = section.geometry.line_hz(fault, section.shaft_hz)
    many = "harmonics" if section.harmonics > 1 else "harmonic"
    return f"{_PLACES[fault]} ({fault} {line_hz:.1f} Hz, {section.harmonics} {many})"

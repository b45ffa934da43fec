"""Fault frequencies of a rolling bearing from its geometry, and which of them stands out of a window.

Formulas for a stationary outer and a turning inner race, without slip (Randall and Antoni, "Rolling element bearing
diagnostics - a tutorial", MSSP 25 (2011) 485-520, eqs. 1-4). An element's defect strikes a race twice a turn, so the
line that is looked for is twice the spin frequency.

What this module does not do: find out how fast the shaft turns. ``shaft_hz`` is nominal; a speed that differs by more
than ``tolerance`` hides the lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Final

import numpy.typing as npt
from msgspec import Meta, Struct

from wheeltapper_protocols.signal.bearing_lines import LinePlan
from wheeltapper_protocols.signal.features import FeatureSet, FeatureSpec
from wheeltapper_protocols.wire.messages import Reason

__all__ = ["FAULTS", "Bearing", "BearingFaultDetector", "BearingSpec", "bearing_feature_specs", "describe_fault"]

_BIN_NOISE: Final = math.sqrt(1 + 1 / 2 + 1 / 3 + 1 / 4)
"""What noise has where the tolerance is a bin to each side: the greatest of four lines (:mod:`bearing_lines`)."""
FAULTS: Final = ("BPFO", "BPFI", "BSF", "FTF")
_PLACES: Final = {"BPFO": "outer race", "BPFI": "inner race", "BSF": "rolling element", "FTF": "cage"}


class Bearing(Struct, frozen=True, kw_only=True):
    """Geometry; the defaults are an SKF 6205's."""

    elements: Annotated[int, Meta(ge=3, le=200)] = 9
    ball_mm: Annotated[float, Meta(gt=0, le=1e4)] = 7.94
    """Diameter of an element."""
    pitch_mm: Annotated[float, Meta(gt=0, le=1e5)] = 39.04
    """Diameter of the circle of their centres."""
    contact_deg: Annotated[float, Meta(ge=0, lt=90)] = 0.0

    def __post_init__(self) -> None:
        if self.ball_mm >= self.pitch_mm:
            raise ValueError("the elements of a bearing are smaller than its pitch circle")

    @property
    def _ratio(self) -> float:
        return self.ball_mm / self.pitch_mm * math.cos(math.radians(self.contact_deg))

    def bpfo_hz(self, shaft_hz: float) -> float:
        """Passing frequency over a defect of the outer race."""
        return self.elements / 2 * shaft_hz * (1 - self._ratio)

    def bpfi_hz(self, shaft_hz: float) -> float:
        """Passing frequency over a defect of the inner race."""
        return self.elements / 2 * shaft_hz * (1 + self._ratio)

    def bsf_hz(self, shaft_hz: float) -> float:
        """Spin frequency of an element; its defect strikes a race twice a turn."""
        return self.pitch_mm / (2 * self.ball_mm) * shaft_hz * (1 - self._ratio**2)

    def ftf_hz(self, shaft_hz: float) -> float:
        """Frequency of the cage."""
        return shaft_hz / 2 * (1 - self._ratio)

    def line_hz(self, fault: str, shaft_hz: float) -> float:
        """Where the line of one of :data:`FAULTS` is."""
        if fault == "BSF":
            return 2 * self.bsf_hz(shaft_hz)
        return {"BPFO": self.bpfo_hz, "BPFI": self.bpfi_hz, "FTF": self.ftf_hz}[fault](shaft_hz)


class BearingSpec(Struct, frozen=True, kw_only=True):
    """A bearing whose fault an alert shall name: the manifest's section ``bearing``."""

    geometry: Bearing
    shaft_hz: Annotated[float, Meta(gt=0, le=1e4)]
    carrier_low_hz: Annotated[float, Meta(ge=0, le=1e9)]
    carrier_high_hz: Annotated[float, Meta(gt=0, le=1e9)]
    """The band that the impacts ring: high enough to be above the shaft's harmonics."""
    channel: Annotated[int, Meta(ge=0, le=63)] = 0
    harmonics: Annotated[int, Meta(ge=1, le=16)] = 3
    tolerance: Annotated[float, Meta(ge=0, le=0.1)] = 0.02
    least: Annotated[float, Meta(ge=1, le=100)] = 2.5
    """A line below this strength is not named (:mod:`bearing_lines`). It is meant for a tolerance of a bin, and rises
    with what noise has where the tolerance is wider."""


def bearing_feature_specs(watch: BearingSpec, label: str, faults: Sequence[str] = FAULTS) -> list[FeatureSpec]:
    """A feature for each fault's line, named ``<label>.bpfo`` and so on."""
    shared = {"carrier_low_hz": watch.carrier_low_hz, "carrier_high_hz": watch.carrier_high_hz}
    return [
        FeatureSpec(
            name=f"{label}.{fault.lower()}",
            kind="bearing_line",
            channel=watch.channel,
            params={
                "line_hz": watch.geometry.line_hz(fault, watch.shaft_hz),
                "harmonics": float(watch.harmonics),
                "tolerance": watch.tolerance,
                **shared,
            },
        )
        for fault in faults
    ]


def describe_fault(watch: BearingSpec, fault: str) -> str:
    """``outer race (BPFO 104.6 Hz, 3 harmonics)``."""
    line_hz = watch.geometry.line_hz(fault, watch.shaft_hz)
    many = "harmonics" if watch.harmonics > 1 else "harmonic"
    return f"{_PLACES[fault]} ({fault} {line_hz:.1f} Hz, {watch.harmonics} {many})"


class BearingFaultDetector:
    """Names the fault whose line stands out of a window.

    Args:
        watch: the manifest's section.
        sample_rate_hz: of the samples.
        window_samples: samples in a window; a line that it cannot resolve is left out.
        channels: of a window.

    Raises:
        ValueError: the window can resolve no line at all, or the section does not fit it.
    """

    def __init__(self, watch: BearingSpec, sample_rate_hz: float, window_samples: int, channels: int) -> None:
        self._watch = watch
        self._sets: list[tuple[str, FeatureSet, float]] = []
        refused: ValueError | None = None
        for fault in FAULTS:
            try:
                specs = bearing_feature_specs(watch, "bearing", [fault])
                features = FeatureSet(specs, sample_rate_hz, window_samples, channels)
                line = LinePlan(specs[0], sample_rate_hz / window_samples, window_samples // 2 + 1)
                self._sets.append((fault, features, line.noise))
            except ValueError as error:
                refused = error
        if not self._sets:
            raise ValueError(f"no line of the bearing can be told in such a window: {refused}") from refused

    def find(self, window: npt.NDArray[Any]) -> Reason | None:
        """The strongest line of a window [sample, channel], where it is strong enough to be named.

        Returns:
            Its ``value`` is the strength, ``usual`` is what noise has on the average, ``share`` 0: it explains, it is
            no part of the score.
        """
        found = [
            (strength / max(noise, _BIN_NOISE), strength, noise, fault)
            for fault, features, noise in self._sets
            if math.isfinite(strength := float(features.compute(window[None])[0, 0]))
        ]
        if not found:
            return None
        above, strength, noise, fault = max(found)
        if above * _BIN_NOISE < self._watch.least:
            return None
        return Reason(feature=describe_fault(self._watch, fault), value=strength, usual=noise, share=0.0)

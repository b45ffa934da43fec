"""Names the fault of a rolling bearing that a window shows, for the reasons of an alert.

What this module does not do: raise alerts. A fault that it names is no part of the score.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy.typing as npt

from wheeltapper_protocols.decision.bearing import FAULTS, BearingSpec, bearing_feature_specs, describe_fault
from wheeltapper_protocols.signal.bearing_lines import LinePlan
from wheeltapper_protocols.signal.features import FeatureSet
from wheeltapper_protocols.wire.messages import Reason

__all__ = ["BearingFaultDetector"]

_BIN_NOISE: Final = math.sqrt(1 + 1 / 2 + 1 / 3 + 1 / 4)
"""Mean strength of noise where the tolerance is one bin: of the greatest of four lines (``signal.bearing_lines``)."""


class BearingFaultDetector:
    """Names the fault whose line is strongest in a window.

    Args:
        section: the manifest's section ``bearing``.
        sample_rate_hz: sample rate, in Hz.
        window_samples: number of samples in a window; a line that it cannot resolve is left out.
        channels: number of channels in a window.

    Raises:
        ValueError: the window is too short for every line, or the section does not fit the window.
    """

    def __init__(self, section: BearingSpec, sample_rate_hz: float, window_samples: int, channels: int) -> None:
        self._section = section
        self._sets: list[tuple[str, FeatureSet, float]] = []
        refused: ValueError | None = None
        for fault in FAULTS:
            try:
                specs = bearing_feature_specs(section, "bearing", [fault])
                features = FeatureSet(specs, sample_rate_hz, window_samples, channels)
                line = LinePlan(specs[0], sample_rate_hz / window_samples, window_samples // 2 + 1)
                self._sets.append((fault, features, line.noise))
            except ValueError as error:
                refused = error
        if not self._sets:
            raise ValueError(f"the window can show no line of the bearing: {refused}") from refused

    def find(self, window: npt.NDArray[Any]) -> Reason | None:
        """The strongest line of a window, or None where no line reaches the least strength.

        Args:
            window: [sample, channel] in physical units.

        Returns:
            A reason with the strength as ``value`` and the mean strength of noise as ``usual``. Its ``share`` is 0: it
            explains the alert but is no part of the score.
        """
        found = [
            (strength / max(noise, _BIN_NOISE), strength, noise, fault)
            for fault, features, noise in self._sets
            if math.isfinite(strength := float(features.compute(window[None])[0, 0]))
        ]
        if not found:
            return None
        above, strength, noise, fault = max(found)
        if above * _BIN_NOISE < self._section.least:
            return None
        return Reason(feature=describe_fault(self._section, fault), value=strength, usual=noise, share=0.0)

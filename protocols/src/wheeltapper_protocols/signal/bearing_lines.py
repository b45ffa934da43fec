"""The strength of a spectral line and its harmonics in a squared-envelope spectrum.

A fault of a rolling bearing strikes once every 1 / ``line_hz`` seconds. The impacts modulate the resonances that they
excite, so the envelope has lines at multiples of ``line_hz``. The rolling elements slip by a percent or two, so each
harmonic is searched for within ``tolerance`` (a share of its frequency) of its nominal frequency (Randall and Antoni,
"Rolling element bearing diagnostics - a tutorial", MSSP 25 (2011) 485-520, section 2).

``strength`` is a mean over the harmonics. For each, the highest line within the tolerance is divided by the root mean
square of the lines around it: those within half of ``line_hz``, without those within the tolerance. A line that stands
alone has a strength of 3 and more. Noise has :attr:`LinePlan.noise`: 1.4 where the tolerance is one bin, and more in
longer windows, where the tolerance covers more bins. A harmonic counts at most :data:`LIMIT`, so that one pure tone
does not look like a fault.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from wheeltapper_protocols.signal.feature_kinds import FeatureSpec

__all__ = ["LIMIT", "LinePlan"]

LIMIT: Final = 100.0
"""Greatest strength of one harmonic."""
_MAX_HARMONICS: Final = 16


class LinePlan:
    """The bins of one line's harmonics, and of the lines around each; worked out once a feature.

    Args:
        spec: a feature of kind ``bearing_line``.
        hz: distance between two bins, in Hz.
        bins: number of bins of the signal's spectrum.

    Raises:
        ValueError: a parameter is out of range, the window is too short to resolve the line, or a harmonic is beyond
            its spectrum.
    """

    def __init__(self, spec: FeatureSpec, hz: float, bins: int) -> None:
        line_hz, tolerance = spec.params["line_hz"], spec.params["tolerance"]
        harmonics = int(spec.params["harmonics"])
        if not (1 <= harmonics <= _MAX_HARMONICS and harmonics == spec.params["harmonics"]):
            raise ValueError(f"harmonics of {spec.name} must be a whole number, 1 to {_MAX_HARMONICS}")
        if not 0 <= tolerance <= 0.1:
            raise ValueError(f"tolerance of {spec.name} must be from 0 to 0.1")
        if not math.isfinite(line_hz) or line_hz < 4 * hz:
            raise ValueError(f"the line of {spec.name} at {line_hz} Hz needs a longer window: bins are {hz:g} Hz apart")
        self._places: list[tuple[slice, slice, slice]] = []
        for harmonic in range(1, harmonics + 1):
            middle = harmonic * line_hz / hz
            near = max(1.0, middle * tolerance)
            low, high = math.floor(middle - near), math.ceil(middle + near) + 1
            before, after = math.floor(middle - 0.5 * line_hz / hz), math.ceil(middle + 0.5 * line_hz / hz) + 1
            before, after = min(before, low - 2), max(after, high + 2)
            if after > bins:
                raise ValueError(f"harmonic {harmonic} of {spec.name} is beyond the window's spectrum")
            self._places.append((slice(max(1, before), low), slice(low, high), slice(high, after)))
        self.stop = max(after.stop for _, _, after in self._places)
        self.noise: float = (
            sum(math.sqrt(_harmonic_number(at.stop - at.start)) for _, at, _ in self._places) / harmonics
        )
        """Mean strength of noise. The powers of its lines are distributed exponentially; the greatest of n such
        powers is on average 1 + 1/2 + … + 1/n times their mean."""

    def strength(self, depths: npt.NDArray[np.float32]) -> float:
        """The strength of the line in one window; see the module for its definition.

        Args:
            depths: [2 * bin] float32 from :meth:`wheeltapper_protocols.signal.envelope.EnvelopeSpectrum.power`.
        """
        power = depths[::2] + depths[1::2]
        total = 0.0
        for before, at, after in self._places:
            around = (float(power[before].sum()) + float(power[after].sum())) / (
                before.stop - before.start + after.stop - after.start
            )
            top = float(power[at].max())
            total += min(LIMIT, math.sqrt(top / around)) if around > 0 else (LIMIT if top > 0 else 0.0)
        return total / len(self._places)


def _harmonic_number(count: int) -> float:
    return sum(1.0 / each for each in range(1, count + 1))

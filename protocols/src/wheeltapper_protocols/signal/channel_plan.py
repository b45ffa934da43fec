"""The features of one channel's window: planned once, computed for each window.

Windows are computed one at a time, so that each stays in the processor's cache. Sums are dot products (BLAS) and
segment sums over the interleaved spectrum (real part, imaginary part, real part, …), so that no separate power spectrum
is made.

Invariants:
    * All features of a window share one FFT and are float32. Nothing is kept from one window to the next, so threads
      may share a plan.
    * Every feature of a constant window but ``value`` is 0. Every feature of a window with a sample that is not finite
      is NaN. Every ratio of a window whose peak is below :data:`SILENCE` is 0.
    * Finite samples give finite features: a window so large or small that its fourth powers leave the range of float32
      is scaled first.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from wheeltapper_protocols.signal.bearing_lines import LinePlan
from wheeltapper_protocols.signal.envelope import EnvelopeSpectrum
from wheeltapper_protocols.signal.feature_kinds import FeatureSpec

__all__ = ["SILENCE", "ChannelPlan"]

SILENCE: Final = 1e-15
"""A window whose greatest deviation from its mean is below this has no shape: its ratios are 0."""
_LARGE: Final = 1e4
_SMALL: Final = 1e-4
_GREATEST: Final = float(np.finfo(np.float32).max)

Array = npt.NDArray[np.float32]


class ChannelPlan:
    """The features of one channel, each with its column in the result.

    Args:
        specs: the features of this channel as (column, feature).
        rate_hz: sample rate, in Hz.
        samples: number of samples in a window.

    Raises:
        ValueError: a band has no bin, or a parameter is out of range.
    """

    def __init__(self, specs: list[tuple[int, FeatureSpec]], rate_hz: float, samples: int) -> None:
        self._samples = samples
        self._count = samples // 2 + 1
        self._hz = rate_hz / samples
        self._columns = [column for column, _ in specs]
        self._ones = np.ones(samples)
        own: dict[str, list[tuple[int, FeatureSpec]]] = {}
        for column, spec in specs:
            own.setdefault(spec.kind, []).append((column, spec))
        self._moments = {kind: [column for column, _ in found] for kind, found in own.items()}
        self._values = self._moments.get("value", [])
        self._spectral = any(kind not in ("value", "rms", "peak", "crest", "kurtosis", "skewness") for kind in own)
        bands = own.get("band_rms", [])
        self._bands = _Segments([self._band(spec) for _, spec in bands])
        self._band_columns = _columns([column for column, _ in bands])
        # Parseval for a real signal: every bin but the first and (for an even length) the last counts twice; real and
        # imaginary part are two entries.
        self._bin_power = 2.0 / samples**2
        self._bin_power32 = np.float32(self._bin_power)
        self._halved = samples % 2 == 0
        self._hertz = np.repeat(np.arange(self._count, dtype=np.float32) * np.float32(self._hz * self._bin_power), 2)
        self._velocities = [(column, *self._velocity(spec)) for column, spec in own.get("velocity_rms", [])]
        self._envelopes = self._envelope_plans(own)

    def fill(self, samples: npt.NDArray[np.float32], row: Array) -> None:
        """Write the features of one window into their columns of ``row``.

        Args:
            samples: [sample] float32, contiguous; not changed.
            row: [feature] float32 of the whole window, zeros before the first channel.
        """
        if not self._moments:
            return
        high, low = float(samples.max()), float(samples.min())
        if not math.isfinite(high - low):
            row[self._columns] = np.nan
            return
        if high == low:  # the row is zero already
            row[self._values] = high
            return
        exact = samples.astype(np.float64)
        mean = float(np.float32(np.dot(self._ones, exact) / self._samples))
        if self._values:
            row[self._values] = mean
        x = samples - np.float32(mean)
        peak = max(high - mean, mean - low)
        if _SMALL < peak < _LARGE or peak <= SILENCE:
            self._fill(x, peak, 1.0, row)
            return
        exact -= exact.mean()
        unit = float(np.abs(exact).max())
        self._fill((exact / unit).astype(np.float32), 1.0, unit, row)

    def _fill(self, x: Array, peak: float, unit: float, row: Array) -> None:
        """Fill the columns from ``x``, the window without its mean over ``unit``; ``peak`` is its greatest value."""
        m2 = self._fill_moments(x, peak, unit, row)
        if not self._spectral:
            return
        spectrum = np.fft.rfft(x).astype(np.complex64, copy=False)
        parts = spectrum.view(np.float32)
        power = np.zeros(parts.size + 1, dtype=np.float32)  # one more: where the last segment ends
        np.multiply(parts, parts, out=power[:-1])
        if self._halved:
            power[-3] *= np.float32(0.5)
        if self._bands:
            row[self._band_columns] = np.sqrt(self._bands.sums(power) * self._bin_power32) * np.float32(unit)
        for column in self._moments.get("centroid", ()):
            row[column] = float(np.dot(power[:-1], self._hertz)) / m2 if m2 > SILENCE**2 else 0.0
        for column, band, weights in self._velocities:
            row[column] = min(unit * math.sqrt(float(np.dot(power[band], weights))), _GREATEST)
        for envelope, columns, segments, lines in self._envelopes:
            depths = envelope.power(spectrum) if m2 > SILENCE**2 else None
            if depths is not None:
                if segments:
                    row[columns] = np.sqrt(2.0 * segments.sums(depths))
                for column, line in lines:
                    row[column] = line.strength(depths)

    def _fill_moments(self, x: Array, peak: float, unit: float, row: Array) -> float:
        """Fill the columns of the features that need no spectrum; return the mean square of ``x``."""
        count, wanted = self._samples, self._moments
        m2 = float(np.dot(x, x)) / count
        rms = math.sqrt(m2) if m2 >= 0 else math.nan
        for column in wanted.get("rms", ()):
            row[column] = rms * unit
        for column in wanted.get("peak", ()):
            row[column] = peak * unit
        if not m2 > SILENCE**2 and m2 == m2:
            return m2
        for column in wanted.get("crest", ()):
            row[column] = peak / rms
        if "skewness" in wanted or "kurtosis" in wanted:
            squares = x * x
            for column in wanted.get("skewness", ()):
                row[column] = float(np.dot(squares, x)) / count / m2 / rms
            for column in wanted.get("kurtosis", ()):
                row[column] = float(np.dot(squares, squares)) / count / m2 / m2
        return m2

    def _velocity(self, spec: FeatureSpec) -> tuple[slice, Array]:
        """The band in the interleaved power, and the weights that make its sum a mean square velocity in (mm/s)².

        Velocity is acceleration over angular frequency, bin by bin.
        """
        band = self._band(spec)
        scale = spec.params["m_s2_per_unit"]
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"m_s2_per_unit of {spec.name} must be above 0")
        omega = 2 * np.pi * self._hz * np.arange(band.start, band.stop)
        weights = self._bin_power * (scale * 1000.0 / omega) ** 2
        return slice(2 * band.start, 2 * band.stop), np.repeat(weights, 2).astype(np.float32)

    def _envelope_plans(
        self, own: dict[str, list[tuple[int, FeatureSpec]]]
    ) -> list[tuple[EnvelopeSpectrum, slice | list[int], _Segments, list[tuple[int, LinePlan]]]]:
        by_carrier: dict[tuple[float, float], list[tuple[int, FeatureSpec]]] = {}
        for kind in ("envelope_rms", "bearing_line"):
            for column, spec in own.get(kind, []):
                key = (spec.params["carrier_low_hz"], spec.params["carrier_high_hz"])
                by_carrier.setdefault(key, []).append((column, spec))
        plans = []
        for (low, high), found in by_carrier.items():
            carrier = self._slice(low, high, "carrier")
            bands = [(column, self._band(spec)) for column, spec in found if spec.kind == "envelope_rms"]
            lines = [
                (column, spec, LinePlan(spec, self._hz, self._count))
                for column, spec in found
                if spec.kind == "bearing_line"
            ]
            for name, line in ((spec.name, line) for _, spec, line in lines):
                if line.stop > carrier.stop - carrier.start:
                    raise ValueError(f"the carrier {low} to {high} Hz of {name} is too narrow for its harmonics")
            # One line more than is needed: where the last segment ends.
            needed = max([band.stop for _, band in bands] + [line.stop for _, _, line in lines]) + 1
            columns = _columns([column for column, _ in bands])
            segments = _Segments([band for _, band in bands])
            plans.append(
                (EnvelopeSpectrum(carrier, needed), columns, segments, [(column, line) for column, _, line in lines])
            )
        return plans

    def _band(self, spec: FeatureSpec) -> slice:
        return self._slice(spec.params["low_hz"], spec.params["high_hz"], spec.name)

    def _slice(self, low_hz: float, high_hz: float, what: str) -> slice:
        if not (math.isfinite(low_hz) and math.isfinite(high_hz)):
            raise ValueError(f"the band of {what} is not finite")
        start = max(1, math.ceil(low_hz / self._hz - 1e-9))
        stop = min(self._count, math.ceil(high_hz / self._hz - 1e-9))
        if stop <= start:
            raise ValueError(f"the band {low_hz} to {high_hz} Hz of {what} has no bin: bins are {self._hz:g} Hz apart")
        return slice(start, stop)


class _Segments:
    """Sums over bands of an interleaved power, which must have an entry after the end of the last band."""

    def __init__(self, bands: list[slice]) -> None:
        self._edges = np.array([2 * edge for band in bands for edge in (band.start, band.stop)], dtype=np.intp)

    def __bool__(self) -> bool:
        return bool(self._edges.size)

    def sums(self, power: Array) -> Array:
        """[band]: the sum over each band of ``power`` [2 * bin]."""
        return np.asarray(np.add.reduceat(power, self._edges)[::2], dtype=np.float32)


def _columns(columns: list[int]) -> slice | list[int]:
    """The columns as a slice where they are adjacent, which numpy assigns faster than a list of indices."""
    if columns and columns == list(range(columns[0], columns[0] + len(columns))):
        return slice(columns[0], columns[-1] + 1)
    return columns

"""Features of a window of vibration samples: the one implementation, used by devices and by training.

Kinds (each of one channel; ``x`` is the window without its mean):

* ``rms``: root mean square of x. ``peak``: largest absolute x. ``crest``: peak / rms.
* ``kurtosis``: m4 / m2**2 (3 for Gaussian noise). ``skewness``: m3 / m2**1.5.
* ``band_rms`` (low_hz, high_hz): root mean square of what lies in low_hz <= f < high_hz (by Parseval, no taper).
* ``centroid``: power-weighted mean frequency in Hz.
* ``envelope_rms`` (low_hz, high_hz, carrier_low_hz, carrier_high_hz): modulation depth. Of the squared envelope of
  what lies in the carrier band, the root mean square in low_hz <= f < high_hz over its mean (Randall and Antoni, MSSP
  25 (2011) 485-520).

Invariants: float32 and numpy only; all spectral features of a window share one FFT; finite samples give finite
features (a constant window has 0 for every feature); the result of a window does not depend on the windows beside it.

What this module does not do: cut recordings into windows, standardise (:mod:`scoring`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

__all__ = ["KINDS", "FeatureSet", "FeatureSpec", "default_specs"]

_PARAMS: Final[dict[str, frozenset[str]]] = {
    "rms": frozenset(),
    "peak": frozenset(),
    "crest": frozenset(),
    "kurtosis": frozenset(),
    "skewness": frozenset(),
    "band_rms": frozenset({"low_hz", "high_hz"}),
    "centroid": frozenset(),
    "envelope_rms": frozenset({"low_hz", "high_hz", "carrier_low_hz", "carrier_high_hz"}),
}
KINDS: Final = tuple(_PARAMS)
_BLOCK_SAMPLES: Final = 2**19
"""Samples that are worked on at once, to cap the memory (about 40 bytes each)."""

Array = npt.NDArray[np.float32]


class FeatureSpec(Struct, frozen=True, kw_only=True):
    """One feature: what is computed, of which channel, with which parameters."""

    name: Annotated[str, Meta(max_length=120)]
    kind: Annotated[str, Meta(max_length=40)]
    channel: Annotated[int, Meta(ge=0, le=63)]
    params: dict[str, float] = {}


class _Envelope:
    """The squared-envelope spectrum of one carrier band, on a reduced grid.

    The band's bins are moved to zero frequency (which leaves the envelope's magnitude as it is) and transformed back
    with just enough points that the squared envelope does not alias; its low bins are exactly those of the full-length
    one.
    """

    def __init__(self, carrier: slice, bands: list[slice], bins: int) -> None:
        width = carrier.stop - carrier.start
        self.carrier = carrier
        self.points = 1 << max(2, (2 * width).bit_length())
        self.weights = np.zeros((self.points // 2 + 1, len(bands)), dtype=np.float32)
        for column, band in enumerate(bands):
            self.weights[band, column] = 2.0
        self.weights[width:] = 0.0
        self.bins = bins

    def depth(self, spectrum: npt.NDArray[np.complex64]) -> Array:
        """Modulation depths [window, band] from a spectrum [window, bin]."""
        analytic = np.fft.ifft(spectrum[:, self.carrier], n=self.points, axis=-1)
        squared = (analytic.real**2 + analytic.imag**2).astype(np.float32)
        envelope = np.fft.rfft(squared, axis=-1)
        power = (envelope.real**2 + envelope.imag**2).astype(np.float32)
        mean = power[:, :1]
        depth: Array = np.sqrt(
            np.divide(power @ self.weights, mean, out=np.zeros_like(power[:, :1]) * self.weights[:1], where=mean > 0)
        )
        return depth


class FeatureSet:
    """Some features, precomputed for one form of window.

    Args:
        specs: the features, in the order of the result.
        sample_rate_hz: of the samples.
        window_samples: samples in a window.
        channels: number of channels in a window.

    Raises:
        ValueError: an unknown kind, missing or unknown parameters, a band without a bin, a channel that is not there.
    """

    def __init__(self, specs: Sequence[FeatureSpec], sample_rate_hz: float, window_samples: int, channels: int) -> None:
        self.specs = tuple(specs)
        self.names: tuple[str, ...] = tuple(spec.name for spec in self.specs)
        if len(set(self.names)) != len(self.names):
            raise ValueError("two features have the same name")
        self._rate_hz = sample_rate_hz
        self._samples = window_samples
        self._channels = channels
        self._plan = [self._channel_plan(channel) for channel in range(channels)]
        for spec in self.specs:
            if spec.channel >= channels:
                raise ValueError(f"the feature {spec.name} is of channel {spec.channel}; there are {channels}")
            if spec.kind not in _PARAMS or set(spec.params) != _PARAMS[spec.kind]:
                raise ValueError(f"the feature {spec.name} has an unknown kind or not the parameters of {spec.kind!r}")

    def compute(self, samples: npt.NDArray[Any]) -> Array:
        """Features of some windows.

        Args:
            samples: [window, sample, channel], physical.

        Returns:
            float32 [window, feature].

        Raises:
            ValueError: the windows have another form.
        """
        if samples.ndim != 3 or samples.shape[1:] != (self._samples, self._channels):
            raise ValueError(f"windows must be [window, {self._samples}, {self._channels}], not {list(samples.shape)}")
        result = np.zeros((len(samples), len(self.specs)), dtype=np.float32)
        block = max(1, _BLOCK_SAMPLES // self._samples)
        for start in range(0, len(samples), block):
            for channel, plan in enumerate(self._plan):
                part = np.ascontiguousarray(samples[start : start + block, :, channel], dtype=np.float32)
                plan.fill(part, result[start : start + block])
        return result

    def _channel_plan(self, channel: int) -> _ChannelPlan:
        own = [(column, spec) for column, spec in enumerate(self.specs) if spec.channel == channel]
        return _ChannelPlan(own, self._rate_hz, self._samples)


class _ChannelPlan:
    """What has to be computed of one channel, and in which column it goes."""

    def __init__(self, specs: list[tuple[int, FeatureSpec]], rate_hz: float, samples: int) -> None:
        self._samples = samples
        self._columns: dict[str, list[int]] = {}
        bins = samples // 2 + 1
        self._hz = rate_hz / samples
        bands: list[slice] = []
        carriers: dict[tuple[float, float], list[tuple[int, slice]]] = {}
        for column, spec in specs:
            self._columns.setdefault(spec.kind, []).append(column)
            if spec.kind == "band_rms":
                bands.append(self._bins(spec, "low_hz", "high_hz", bins))
            elif spec.kind == "envelope_rms":
                key = (spec.params.get("carrier_low_hz", 0.0), spec.params.get("carrier_high_hz", 0.0))
                carriers.setdefault(key, []).append((column, self._bins(spec, "low_hz", "high_hz", bins)))
        # Parseval for a real signal: every bin but the first and (for an even length) the last counts twice.
        self._bin_power = np.full(bins, 2.0 / samples**2, dtype=np.float32)
        self._bin_power[0] = 0.0
        if samples % 2 == 0:
            self._bin_power[-1] /= 2
        self._weights = np.zeros((bins, len(bands) + 2), dtype=np.float32)
        for number, band in enumerate(bands):
            self._weights[band, number] = self._bin_power[band]
        self._weights[:, -2] = self._bin_power * np.arange(bins, dtype=np.float32) * np.float32(self._hz)
        self._weights[:, -1] = self._bin_power
        self._envelopes: list[tuple[list[int], _Envelope]] = []
        for (low, high), found in carriers.items():
            carrier = self._slice(low, high, bins, "carrier")
            envelope = _Envelope(carrier, [band for _, band in found], bins)
            self._envelopes.append(([column for column, _ in found], envelope))

    def fill(self, x: Array, result: Array) -> None:
        """Write the features of ``x`` [window, sample] into their columns of ``result`` [window, feature]."""
        x = x - x.mean(axis=1, dtype=np.float64, keepdims=True).astype(np.float32)
        self._fill_moments(x, result)
        if not (self._envelopes or {"band_rms", "centroid"} & self._columns.keys()):
            return
        spectrum = np.fft.rfft(x, axis=-1).astype(np.complex64, copy=False)
        power = np.asarray(spectrum.real**2 + spectrum.imag**2, dtype=np.float32)
        sums: Array = power @ self._weights
        if columns := self._columns.get("band_rms"):
            result[:, columns] = np.sqrt(sums[:, :-2])
        for column in self._columns.get("centroid", ()):
            result[:, column] = _ratio(sums[:, -2], sums[:, -1])
        for columns, envelope in self._envelopes:
            result[:, columns] = envelope.depth(spectrum)

    def _fill_moments(self, x: Array, result: Array) -> None:
        squares = x * x
        m2 = squares.mean(axis=1)
        rms = np.sqrt(m2)
        values: dict[str, Array] = {"rms": rms}
        if {"peak", "crest"} & self._columns.keys():
            values["peak"] = np.maximum(x.max(axis=1), -x.min(axis=1))
            values["crest"] = _ratio(values["peak"], rms)
        if "skewness" in self._columns:
            m3 = np.einsum("ij,ij->i", squares, x) / np.float32(self._samples)
            values["skewness"] = _ratio(_ratio(m3, m2), rms)
        if "kurtosis" in self._columns:
            m4 = np.einsum("ij,ij->i", squares, squares) / np.float32(self._samples)
            values["kurtosis"] = _ratio(_ratio(m4, m2), m2)
        for kind, value in values.items():
            for column in self._columns.get(kind, ()):
                result[:, column] = value

    def _bins(self, spec: FeatureSpec, low: str, high: str, bins: int) -> slice:
        return self._slice(spec.params.get(low, 0.0), spec.params.get(high, 0.0), bins, spec.name)

    def _slice(self, low_hz: float, high_hz: float, bins: int, what: str) -> slice:
        start = max(1, int(np.ceil(low_hz / self._hz - 1e-9)))
        stop = min(bins, int(np.ceil(high_hz / self._hz - 1e-9)))
        if stop <= start:
            raise ValueError(f"the band {low_hz} to {high_hz} Hz of {what} has no bin: bins are {self._hz:g} Hz apart")
        return slice(start, stop)


def _ratio(above: Array, below: Array) -> Array:
    """``above / below``, and 0 where ``below`` is 0."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 1e-30)


def default_specs(
    sample_rate_hz: float, channels: Sequence[str], window_samples: int | None = None
) -> list[FeatureSpec]:
    """The features of the default recipe: shape and energy of each channel, octave bands, envelope bands.

    Args:
        sample_rate_hz: of the samples.
        channels: their names.
        window_samples: samples in a window; bands that it cannot resolve are left out.
    """
    nyquist = sample_rate_hz / 2
    resolution = sample_rate_hz / window_samples if window_samples else nyquist / 512
    edges = [0.0, *(nyquist / 2**k for k in range(6, -1, -1) if nyquist / 2**k > 4 * resolution)]
    carrier = {"carrier_low_hz": nyquist / 8, "carrier_high_hz": nyquist}
    envelope_edges = [e for e in (nyquist / 256, nyquist / 64, nyquist / 32, nyquist / 16) if e >= 2 * resolution]
    specs: list[FeatureSpec] = []
    for channel, label in enumerate(channels):
        for kind in ("rms", "peak", "crest", "kurtosis", "skewness", "centroid"):
            specs.append(FeatureSpec(name=f"{label}.{kind}", kind=kind, channel=channel))
        for low, high in pairwise(edges):
            name = f"{label}.band_{low:.0f}_{high:.0f}_hz"
            params = {"low_hz": low, "high_hz": high * 1.0001 if high == nyquist else high}
            specs.append(FeatureSpec(name=name, kind="band_rms", channel=channel, params=params))
        for low, high in pairwise(envelope_edges):
            name = f"{label}.envelope_{low:.0f}_{high:.0f}_hz"
            params = {"low_hz": low, "high_hz": high, **carrier}
            specs.append(FeatureSpec(name=name, kind="envelope_rms", channel=channel, params=params))
    return specs

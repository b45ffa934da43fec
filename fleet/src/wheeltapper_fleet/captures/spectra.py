"""What a recording shows of a bearing: waveform, spectrum, envelope spectrum, and the lines of its fault frequencies.

Pure: arrays in, arrays out. What is drawn is bounded: a curve has at most :data:`MOST_POINTS` points, each the greatest
of the bins that it stands for, so that no line is lost however far one looks from.

* ``spectrum``: one-sided amplitudes with a Hann window (a sine of amplitude 1 is a line of height 1), root mean square
  over the snapshots.
* ``envelope spectrum``: amplitudes of the squared envelope of a carrier band, over its mean: how deep the band is
  modulated at each frequency (Randall and Antoni, "Rolling element bearing diagnostics - a tutorial", MSSP
  25 (2011) 485-520, section 5). Unless one is asked for, the band is that of the halves, thirds and quarters of the
  spectrum whose envelope is the most impulsive (after Antoni, "Fast computation of the kurtogram", MSSP 21 (2007)
  108-124): the kurtosis above that of noise times the root of the band's energy, so that the skirt of a resonance does
  not win over the resonance.
* ``strength`` of a line: :mod:`wheeltapper_protocols.signal.bearing_lines`, over that of noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_protocols.signal.bearing_lines import LinePlan
from wheeltapper_protocols.signal.feature_kinds import FeatureSpec
from wheeltapper_protocols.signal.features import FeatureSet
from wheeltapper_protocols.signal.iso20816 import m_s2_per_unit

__all__ = [
    "MOST_POINTS",
    "MOST_SNAPSHOTS",
    "Band",
    "Line",
    "Spectrum",
    "Waveform",
    "carrier_band",
    "envelope_spectrum",
    "fault_lines",
    "shape",
    "spectrum",
    "velocity_mm_s",
    "waterfall_row",
    "waveform",
]

MOST_POINTS: Final = 1200
MOST_SNAPSHOTS: Final = 16
"""A spectrum is the mean over so many snapshots at most, spread evenly over the recording."""
_HARMONICS: Final = 3
_TOLERANCE: Final = 0.02
_LEAST_BINS: Final = 32
_OF_NOISE: Final = 2.0
"""Mean square over squared mean of the squared envelope of Gaussian noise."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """From ``low_hz`` to ``high_hz``."""

    low_hz: float
    high_hz: float


@dataclass(frozen=True)
class Waveform:
    """Samples of a snapshot as they are drawn: at each time (seconds), the least and the greatest of its stretch."""

    at_s: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Spectrum:
    """Amplitudes by frequency in Hz; ``resolution_hz`` is the distance of two bins, before any were put together."""

    hz: Array
    amplitude: Array
    resolution_hz: float


@dataclass(frozen=True)
class Line:
    """How far a fault's line stands out: ``strength`` over that of noise (1: no more than noise); None: the snapshots
    are too short to resolve it. ``found_hz`` is where its first harmonic is highest."""

    fault: str
    expected_hz: float
    found_hz: float | None
    strength: float | None


def waveform(samples: npt.NDArray[Any], rate_hz: float, most: int = MOST_POINTS) -> Waveform:
    """One snapshot of one channel, [sample], as it is drawn."""
    values = np.asarray(samples, dtype=np.float64)
    size = max(1, math.ceil(len(values) / most))
    starts = np.arange(0, len(values), size)
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    return Waveform(starts / rate_hz, low, high)


def shape(samples: npt.NDArray[Any]) -> dict[str, float]:
    """What one snapshot of one channel, [sample], is like: ``rms``, ``peak``, ``crest``, ``kurtosis``; 0 of silence."""
    features = FeatureSet(
        [FeatureSpec(name=kind, kind=kind, channel=0) for kind in ("rms", "peak", "crest", "kurtosis")],
        1.0,
        len(samples),
        1,
    )
    row = features.compute(np.asarray(samples)[None, :, None])[0]
    return {name: float(value) for name, value in zip(features.names, row, strict=True)}


def velocity_mm_s(samples: npt.NDArray[Any], rate_hz: float, unit: str) -> float | None:
    """The vibration velocity of snapshots of one channel, [snapshot, sample], by ISO 20816 (10 to 1,000 Hz), in mm/s.

    The root mean square over the snapshots; None where the channel measures no acceleration, or cannot say it.
    """
    try:
        params = {"low_hz": 10.0, "high_hz": min(1000.0, rate_hz / 2), "m_s2_per_unit": m_s2_per_unit(unit)}
        spec = FeatureSpec(name="velocity", kind="velocity_rms", channel=0, params=params)
        found = FeatureSet([spec], rate_hz, samples.shape[1], 1).compute(np.asarray(samples)[:, :, None])
    except ValueError:
        return None
    value = float(np.sqrt(np.mean(np.square(found.astype(np.float64)))))
    return value if math.isfinite(value) else None


def spectrum(samples: npt.NDArray[Any], rate_hz: float, view: Band | None = None) -> Spectrum:
    """The spectrum of snapshots of one channel, [snapshot, sample], of the frequencies in ``view`` (None: all)."""
    values = _centred(samples)
    taper = np.hanning(values.shape[1] + 1)[:-1] if values.shape[1] > 2 else np.ones(values.shape[1])
    bins = np.abs(np.fft.rfft(values * taper, axis=1)) * (2.0 / max(taper.sum(), 1e-30))
    return _viewed(np.sqrt(np.mean(np.square(bins), axis=0)), rate_hz / values.shape[1], view)


def carrier_band(samples: npt.NDArray[Any], rate_hz: float) -> Band:
    """The carrier band of snapshots, [snapshot, sample], whose squared envelope is the most impulsive."""
    values = _centred(samples)
    bins = np.fft.rfft(values, axis=1)
    count = bins.shape[1]
    best, found = -math.inf, (count // 8, count)
    for parts in (2, 3, 4):
        edges = np.linspace(max(2, count // 32), count, parts + 1).astype(int)
        for low, high in pairwise(edges):
            if high - low < _LEAST_BINS:
                continue
            envelope = _squared_envelope(bins, int(low), int(high))
            means = envelope.mean(axis=1)
            if not np.all(means > 0):
                continue
            kurtosis = float(np.mean(np.mean(np.square(envelope), axis=1) / np.square(means)))
            weight = (kurtosis - _OF_NOISE) * math.sqrt(float(means.mean()))
            if weight > best:
                best, found = weight, (int(low), int(high))
    hz = rate_hz / values.shape[1]
    return Band(found[0] * hz, min(rate_hz / 2, found[1] * hz))


def envelope_spectrum(samples: npt.NDArray[Any], rate_hz: float, carrier: Band, view: Band | None = None) -> Spectrum:
    """The spectrum of the squared envelope of ``carrier`` in snapshots, [snapshot, sample]: depth by frequency."""
    values = _centred(samples)
    bins = np.fft.rfft(values, axis=1)
    hz = rate_hz / values.shape[1]
    low = min(max(1, round(carrier.low_hz / hz)), bins.shape[1] - 1)
    high = min(max(low + 1, round(carrier.high_hz / hz)), bins.shape[1])
    envelope = _squared_envelope(bins, low, high)
    means = np.maximum(envelope.mean(axis=1, keepdims=True), 1e-300)
    depths = np.abs(np.fft.rfft(envelope / means, axis=1)) * (2.0 / envelope.shape[1])
    depths[:, 0] = 0.0
    depths = depths[:, : max(2, high - low)]
    return _viewed(np.sqrt(np.mean(np.square(depths), axis=0)), hz, view)


def fault_lines(samples: npt.NDArray[Any], rate_hz: float, carrier: Band, lines_hz: Mapping[str, float]) -> list[Line]:
    """How far the line of each fault (its frequency in Hz by name) stands out of the envelope of ``carrier``.

    Args:
        samples: [snapshot, sample] of one channel.
        rate_hz: sample rate.
        carrier: the band of the resonances that impacts excite.
        lines_hz: by name, the frequency at which a fault strikes.
    """
    count = samples.shape[1]
    whole = envelope_spectrum(samples, rate_hz, carrier)
    found = []
    for name, line_hz in lines_hz.items():
        params = {"line_hz": line_hz, "harmonics": float(_HARMONICS), "tolerance": _TOLERANCE}
        params |= {"carrier_low_hz": carrier.low_hz, "carrier_high_hz": carrier.high_hz}
        spec = FeatureSpec(name=name, kind="bearing_line", channel=0, params=params)
        try:
            plan = LinePlan(spec, rate_hz / count, count // 2 + 1)
            strengths = FeatureSet([spec], rate_hz, count, 1).compute(np.asarray(samples)[:, :, None])
        except ValueError:
            found.append(Line(name, line_hz, None, None))
            continue
        mean = float(np.mean(strengths.astype(np.float64)))
        near = np.abs(whole.hz - line_hz) <= max(line_hz * _TOLERANCE, whole.resolution_hz)
        at = float(whole.hz[near][np.argmax(whole.amplitude[near])]) if near.any() else None
        found.append(Line(name, line_hz, at, mean / plan.noise if math.isfinite(mean) else None))
    return found


def waterfall_row(samples: npt.NDArray[Any], rate_hz: float, high_hz: float, points: int) -> Array:
    """The spectrum of snapshots, [snapshot, sample], from 0 to ``high_hz`` in ``points`` equal stretches; each the
    greatest amplitude in it, 0 where the recording does not reach."""
    whole = spectrum(samples, rate_hz, Band(0.0, min(high_hz, rate_hz / 2)))
    row = np.zeros(points)
    places = np.minimum((whole.hz / high_hz * points).astype(int), points - 1)
    np.maximum.at(row, places, whole.amplitude)
    return row


def _centred(samples: npt.NDArray[Any]) -> Array:
    """[snapshot, sample]: at most :data:`MOST_SNAPSHOTS` of the snapshots that are finite, each without its mean."""
    values = np.asarray(samples, dtype=np.float64)
    values = values[np.isfinite(values).all(axis=1)]
    if len(values) == 0:
        values = np.zeros((1, samples.shape[1]))
    if len(values) > MOST_SNAPSHOTS:
        values = values[np.linspace(0, len(values) - 1, MOST_SNAPSHOTS).astype(int)]
    return np.asarray(values - values.mean(axis=1, keepdims=True), dtype=np.float64)


def _squared_envelope(bins: npt.NDArray[Any], low: int, high: int) -> Array:
    """[snapshot, sample]: the squared magnitude of the analytic signal of the bins from ``low`` to below ``high``."""
    count = 2 * (bins.shape[1] - 1) if bins.shape[1] > 1 else 1
    analytic = np.zeros((len(bins), count), dtype=np.complex128)
    analytic[:, low : min(high, count)] = bins[:, low : min(high, count)]
    return np.asarray(np.square(np.abs(np.fft.ifft(analytic, axis=1))), dtype=np.float64)


def _viewed(amplitude: Array, hz: float, view: Band | None) -> Spectrum:
    """The bins in ``view``, put together to at most :data:`MOST_POINTS`."""
    frequencies: Array = np.arange(len(amplitude)) * np.float64(hz)
    if view is not None:
        first = max(0, math.floor(view.low_hz / hz))
        last = min(len(amplitude), math.ceil(view.high_hz / hz) + 1)
        first = min(first, max(0, last - 2))
        frequencies, amplitude = frequencies[first:last], amplitude[first:last]
    size = max(1, math.ceil(len(amplitude) / MOST_POINTS))
    if size > 1:
        starts = np.arange(0, len(amplitude), size)
        tops = [int(start + np.argmax(amplitude[start : start + size])) for start in starts]
        frequencies, amplitude = frequencies[tops], amplitude[tops]
    return Spectrum(frequencies, amplitude, hz)

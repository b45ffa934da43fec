"""Features of a window of vibration samples. Devices and training use this one implementation.

The kinds are below. Each is of one channel; ``x`` is the window without its mean.

* ``value``: the mean of the window; of a window of one sample the sample itself.
* ``rms``: root mean square of x. ``peak``: largest absolute x. ``crest``: peak / rms.
* ``kurtosis``: m4 / m2**2 (3 for Gaussian noise). ``skewness``: m3 / m2**1.5.
* ``band_rms`` (low_hz, high_hz): root mean square of the part of x in low_hz <= f < high_hz (by Parseval, no taper).
* ``centroid``: power-weighted mean frequency in Hz.
* ``envelope_rms`` (low_hz, high_hz, carrier_low_hz, carrier_high_hz): modulation depth. It is the root mean square of
  the squared envelope of the carrier band in low_hz <= f < high_hz, over the mean of that squared envelope (Randall and
  Antoni, MSSP 25 (2011) 485-520).
* ``velocity_rms`` (low_hz, high_hz, m_s2_per_unit): root mean square velocity in mm/s (:mod:`iso20816`).
* ``bearing_line`` (line_hz, harmonics, tolerance, carrier_low_hz, carrier_high_hz): strength of a bearing's fault
  frequency in the spectrum of the envelope (:mod:`bearing_lines`).

Invariants:
    * All features are float32, and all spectral features of a window share one FFT.
    * Finite samples give finite features; every feature of a constant window but ``value`` is 0.
    * A sample that is not finite makes every feature of its channel NaN.
    * The features of a window do not depend on the windows beside it.

Example:
    >>> specs = default_specs(12_800.0, ["x"], window_samples=4096)
    >>> features = FeatureSet(specs, sample_rate_hz=12_800.0, window_samples=4096, channels=1)
    >>> features.compute(np.zeros((2, 4096, 1))).shape == (2, len(specs))
    True

What this module does not do: cut recordings into windows, standardise features (``decision.scoring``).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_protocols.signal.channel_plan import ChannelPlan
from wheeltapper_protocols.signal.feature_kinds import KINDS, FeatureSpec, check_spec

__all__ = ["KINDS", "PROCESS_RATE_HZ", "FeatureSet", "FeatureSpec", "default_specs"]

PROCESS_RATE_HZ: Final = 20.0
"""Vibration of a machine is above this rate: a shaft alone turns at 10 Hz and more."""
_VIBRATION_SAMPLES: Final = 16
_RESTLESS_SAMPLES: Final = 4
"""Fewer samples do not say how restless a channel is."""

Array = npt.NDArray[np.float32]


class FeatureSet:
    """A list of features, planned for windows of one shape.

    Args:
        specs: the features, in the order of the result.
        sample_rate_hz: sample rate, in Hz.
        window_samples: number of samples in a window.
        channels: number of channels in a window.

    Raises:
        ValueError: a kind is unknown, parameters are missing or unknown, a band has no bin, or a channel is
            missing.
    """

    def __init__(self, specs: Sequence[FeatureSpec], sample_rate_hz: float, window_samples: int, channels: int) -> None:
        self.specs = tuple(specs)
        self.names: tuple[str, ...] = tuple(spec.name for spec in self.specs)
        if len(set(self.names)) != len(self.names):
            raise ValueError("two features have the same name")
        self._shape = (window_samples, channels)
        for spec in self.specs:
            check_spec(spec, channels)
        self._plans = [
            ChannelPlan(
                [(column, spec) for column, spec in enumerate(self.specs) if spec.channel == channel],
                sample_rate_hz,
                window_samples,
            )
            for channel in range(channels)
        ]

    def compute(self, samples: npt.NDArray[Any]) -> Array:
        """The features of one or more windows.

        Args:
            samples: [window, sample, channel] in physical units.

        Returns:
            [window, feature] float32.

        Raises:
            ValueError: the windows have another shape.
        """
        if samples.ndim != 3 or samples.shape[1:] != self._shape:
            raise ValueError(f"windows must be [window, {', '.join(map(str, self._shape))}], not {list(samples.shape)}")
        result = np.zeros((len(samples), len(self.specs)), dtype=np.float32)
        for window, row in zip(samples, result, strict=True):
            for channel, plan in enumerate(self._plans):
                plan.fill(np.ascontiguousarray(window[:, channel], dtype=np.float32), row)
        return result


def default_specs(
    sample_rate_hz: float, channels: Sequence[str], window_samples: int | None = None
) -> list[FeatureSpec]:
    """The features of the default recipe: shape and energy of each channel, octave bands, envelope bands.

    A stream with at most :data:`PROCESS_RATE_HZ`, or with windows of fewer than 16 samples, is taken for process data
    (temperatures, flows, currents): what counts is the value of each channel, and how restless it is in a window.

    Args:
        sample_rate_hz: sample rate, in Hz.
        channels: names of the channels.
        window_samples: number of samples in a window; bands that it cannot resolve are left out.
    """
    if sample_rate_hz <= PROCESS_RATE_HZ or (window_samples is not None and window_samples < _VIBRATION_SAMPLES):
        kinds = ("value",) if window_samples is not None and window_samples < _RESTLESS_SAMPLES else ("value", "rms")
        return [
            FeatureSpec(name=f"{label}.{kind}", kind=kind, channel=channel)
            for channel, label in enumerate(channels)
            for kind in kinds
        ]
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
            name = f"{label}.band_{_edge(low)}_{_edge(high)}_hz"
            params = {"low_hz": low, "high_hz": high * 1.0001 if high == nyquist else high}
            specs.append(FeatureSpec(name=name, kind="band_rms", channel=channel, params=params))
        for low, high in pairwise(envelope_edges):
            name = f"{label}.envelope_{_edge(low)}_{_edge(high)}_hz"
            params = {"low_hz": low, "high_hz": high, **carrier}
            specs.append(FeatureSpec(name=name, kind="envelope_rms", channel=channel, params=params))
    return specs


def _edge(hz: float) -> str:
    """The edge of a band for a feature's name: whole Hz from 4 Hz on, three digits below, where bands are narrower."""
    return f"{hz:.0f}" if hz >= 4 or hz == 0 else f"{hz:.3g}"

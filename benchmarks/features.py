"""CPU time of the features of a window, compared with straightforward numpy that gives the same values.

There are two baselines, both written as an engineer would write them first, both in float32:

* ``per feature``: one function for each kind of feature, each from the window; nothing is shared.
* ``shared``: the same code in one function for each channel, with the spectrum, the analytic signal and the envelope's
  spectrum computed once. This baseline is faster and has its own target.

The values of all three must agree to 1e-5 relative, or the row fails. Times are the least of several runs, taken in
turn, so that other load on the machine disturbs all alike.

    python benchmarks/features.py [--json]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from rig import Row, main

from wheeltapper_protocols.signal.features import FeatureSet, FeatureSpec, default_specs

RATE_HZ = 25_600.0
TARGET = 0.4
TARGET_SHARED = 0.5
TOLERANCE = 1e-5
Array = npt.NDArray[Any]


def feature(spec: FeatureSpec, window: Array, rate_hz: float) -> float:
    """One feature of a window [sample, channel], from its definition."""
    x = window[:, spec.channel]
    x = x - x.mean()
    if spec.kind == "rms":
        return float(np.sqrt(np.mean(x**2)))
    if spec.kind == "peak":
        return float(np.max(np.abs(x)))
    if spec.kind == "crest":
        return float(np.max(np.abs(x)) / np.sqrt(np.mean(x**2)))
    if spec.kind == "kurtosis":
        return float(np.mean(x**4) / np.mean(x**2) ** 2)
    if spec.kind == "skewness":
        return float(np.mean(x**3) / np.mean(x**2) ** 1.5)
    spectrum = np.fft.rfft(x)
    hz = np.fft.rfftfreq(len(x), 1 / rate_hz)
    if spec.kind == "centroid":
        power = one_sided(spectrum, len(x))
        return float(np.sum(hz * power) / np.sum(power))
    band = (hz >= spec.params["low_hz"]) & (hz < spec.params["high_hz"])
    if spec.kind == "band_rms":
        return float(np.sqrt(np.sum(one_sided(spectrum, len(x))[band])))
    carrier = (hz > 0) & (hz >= spec.params["carrier_low_hz"]) & (hz < spec.params["carrier_high_hz"])
    envelope = envelope_spectrum(spectrum, carrier, len(x))
    return float(np.sqrt(2 * np.sum(np.abs(envelope[band]) ** 2)) / np.abs(envelope[0]))


def one_sided(spectrum: Array, samples: int) -> Array:
    """Mean square of each bin."""
    power = 2 * np.abs(spectrum) ** 2 / samples**2
    power[0] = 0
    if samples % 2 == 0:
        power[-1] /= 2
    return power


def envelope_spectrum(spectrum: Array, carrier: Array, samples: int) -> Array:
    """Spectrum of the squared envelope of the analytic signal (zeros for negative frequencies)."""
    analytic = np.fft.ifft(np.where(carrier, spectrum, 0), n=samples)
    return np.fft.rfft(np.abs(analytic) ** 2)[: len(spectrum)]


def per_feature(specs: list[FeatureSpec], window: Array, rate_hz: float) -> Array:
    """The baseline ``per feature``: the features of one window."""
    return np.array([feature(spec, window, rate_hz) for spec in specs])


def shared(specs: list[FeatureSpec], window: Array, rate_hz: float) -> Array:
    """The baseline ``shared``: the features of one window."""
    values = []
    for channel in range(window.shape[1]):
        x = window[:, channel]
        x = x - x.mean()
        mean_square = np.mean(x**2)
        peak = np.max(np.abs(x))
        spectrum = np.fft.rfft(x)
        hz = np.fft.rfftfreq(len(x), 1 / rate_hz)
        power = one_sided(spectrum, len(x))
        envelope = None
        for spec in (spec for spec in specs if spec.channel == channel):
            if spec.kind == "rms":
                values.append(np.sqrt(mean_square))
            elif spec.kind == "peak":
                values.append(peak)
            elif spec.kind == "crest":
                values.append(peak / np.sqrt(mean_square))
            elif spec.kind == "kurtosis":
                values.append(np.mean(x**4) / mean_square**2)
            elif spec.kind == "skewness":
                values.append(np.mean(x**3) / mean_square**1.5)
            elif spec.kind == "centroid":
                values.append(np.sum(hz * power) / np.sum(power))
            elif spec.kind == "band_rms":
                band = (hz >= spec.params["low_hz"]) & (hz < spec.params["high_hz"])
                values.append(np.sqrt(np.sum(power[band])))
            else:
                if envelope is None:  # all have the same carrier
                    low, high = spec.params["carrier_low_hz"], spec.params["carrier_high_hz"]
                    lines = envelope_spectrum(spectrum, (hz > 0) & (hz >= low) & (hz < high), len(x))
                    envelope = np.abs(lines) ** 2
                band = (hz >= spec.params["low_hz"]) & (hz < spec.params["high_hz"])
                values.append(np.sqrt(2 * np.sum(envelope[band]) / envelope[0]))
    return np.array(values)


def least_us(calls: list[Callable[[], object]], rounds: int = 40, times: int = 12) -> list[float]:
    """The least CPU time of each call in µs; calls are measured in turn."""
    found = [float("inf")] * len(calls)
    for _ in range(rounds):
        for number, call in enumerate(calls):
            begin = time.process_time_ns()
            for _ in range(times):
                call()
            found[number] = min(found[number], (time.process_time_ns() - begin) / times / 1e3)
    return found


def windows(samples: int, channels: int, count: int = 20) -> npt.NDArray[np.float32]:
    """Windows of noise with an offset and a decaying impact every 300 samples."""
    random = np.random.default_rng(5)
    since = np.arange(samples) % 300
    ring = np.exp(-since / 40) * np.sin(2 * np.pi * 0.13 * since)
    table: npt.NDArray[np.float32] = random.normal(size=(count, samples, channels)).astype(np.float32)
    table += (4 * ring[None, :, None] + 0.3).astype(np.float32)
    return table


def measure(samples: int, channels: int) -> list[Row]:
    """The rows of windows of one shape."""
    specs = default_specs(RATE_HZ, [f"ch{number}" for number in range(channels)], samples)
    features = FeatureSet(specs, RATE_HZ, samples, channels)
    table = windows(samples, channels)
    # Skewness is a difference of nearly equal sums: its own size is not the measure of its error.
    floor = np.array([1.0 if spec.kind == "skewness" else 0.0 for spec in specs])
    ours = features.compute(table).astype(np.float64)
    worst = 0.0
    for row, window in zip(ours, table, strict=True):
        exact = per_feature(specs, window.astype(np.float64), RATE_HZ)
        other = shared(specs, window.astype(np.float64), RATE_HZ)
        assert np.allclose(exact, other, rtol=1e-9)
        worst = max(worst, float(np.max(np.abs(row - exact) / np.maximum(np.abs(exact), floor))))
    one = table[:1]
    own_us, first_us, second_us = least_us(
        [
            lambda: features.compute(one),
            lambda: per_feature(specs, one[0], RATE_HZ),
            lambda: shared(specs, one[0], RATE_HZ),
        ]
    )
    form = f"{samples} samples, {channels} channel{'s' if channels > 1 else ''}"
    print(f"{form}: {own_us:.0f} us; per feature {first_us:.0f} us, shared {second_us:.0f} us; values to {worst:.1e}")
    same = worst <= TOLERANCE
    return [
        {
            "name": f"features, {form}, against numpy per feature",
            "value": round(own_us / first_us, 3),
            "target": TARGET,
            "holds": same and own_us / first_us <= TARGET,
        },
        {
            "name": f"features, {form}, against numpy with shared spectra",
            "value": round(own_us / second_us, 3),
            "target": TARGET_SHARED,
            "holds": same and own_us / second_us <= TARGET_SHARED,
        },
        {"name": f"features, {form}, relative error", "value": worst, "target": TOLERANCE, "holds": same},
    ]


def rows() -> list[Row]:
    """The rows of all shapes of windows."""
    return [row for form in ((4096, 1), (4096, 2), (2048, 1), (2048, 2)) for row in measure(*form)]


if __name__ == "__main__":
    main(rows, "The default features")

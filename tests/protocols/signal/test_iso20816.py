"""Velocity compared with analytic signals and with scipy's integration over time; limits of the zones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.signal

from wheeltapper_protocols.signal.features import FeatureSet
from wheeltapper_protocols.signal.iso20816 import LIMITS_MM_S, Iso20816, m_s2_per_unit, velocity_feature_specs, zone

RATE_HZ = 12_800.0
SAMPLES = 8192


def velocity(x: np.ndarray, unit: str = "m/s2", rate_hz: float = RATE_HZ, **changes: float) -> np.ndarray:
    section = Iso20816(group=1, foundation="rigid", channels=[0], **changes)  # type: ignore[arg-type]  # floats only
    specs = velocity_feature_specs(section, ["x"], [unit])
    return FeatureSet(specs, rate_hz, x.shape[1], 1).compute(x[:, :, None])[:, 0]


@pytest.mark.parametrize("turns", [8, 32, 200, 639])
@pytest.mark.parametrize("offset", [0.0, 9.81])
def test_a_tone_has_its_amplitude_over_its_angular_frequency(turns: int, offset: float) -> None:
    hz = turns * RATE_HZ / SAMPLES
    at_s = np.arange(SAMPLES) / RATE_HZ
    x = (3.0 * np.cos(2 * np.pi * hz * at_s + 0.4) + offset)[None].astype(np.float32)
    expected = 3.0 / (2 * np.pi * hz) / math.sqrt(2) * 1000
    np.testing.assert_allclose(velocity(x), expected, rtol=1e-4)
    np.testing.assert_allclose(velocity(x / 9.80665, "g"), expected, rtol=1e-4)
    np.testing.assert_allclose(velocity(x / 9.80665 * 1000, "mg"), expected, rtol=1e-4)


def test_a_tone_between_two_bins_is_near_its_value_and_worse_the_lower_it_is() -> None:
    at_s = np.arange(SAMPLES) / RATE_HZ
    errors = []
    for hz in (17.3, 50.9, 160.1):
        x = np.cos(2 * np.pi * hz * at_s)[None].astype(np.float32)
        errors.append(abs(float(velocity(x)[0]) / (1000 / (2 * np.pi * hz) / math.sqrt(2)) - 1))
    assert errors[0] < 0.2
    assert errors[1] < 0.05
    assert errors[2] < 0.03


def test_what_lies_outside_of_the_band_does_not_count() -> None:
    at_s = np.arange(SAMPLES) / RATE_HZ
    hum = np.cos(2 * np.pi * 4 * RATE_HZ / SAMPLES * at_s)  # 6.25 Hz
    whine = np.cos(2 * np.pi * 1000 * RATE_HZ / SAMPLES * at_s)  # 1562.5 Hz
    assert velocity((hum + whine)[None].astype(np.float32)) < 1e-3
    assert velocity((hum + whine)[None].astype(np.float32), low_hz=2.0)[0] > 10


def test_noise_agrees_with_an_integration_in_time() -> None:
    random = np.random.default_rng(4)
    samples = 2**16
    sos = scipy.signal.butter(6, [30, 500], "bandpass", fs=RATE_HZ, output="sos")
    x = scipy.signal.sosfilt(sos, random.normal(size=samples + 20_000))[20_000:]
    speed = scipy.integrate.cumulative_trapezoid(x, dx=1 / RATE_HZ, initial=0.0)
    speed = scipy.signal.sosfiltfilt(scipy.signal.butter(2, 10, "highpass", fs=RATE_HZ, output="sos"), speed)
    inner = speed[4000:-4000]
    found = float(velocity(x[None].astype(np.float32))[0])
    assert found == pytest.approx(1000 * float(np.sqrt(np.mean(inner**2))), rel=0.03)


def test_zones_begin_at_their_limits() -> None:
    assert len(LIMITS_MM_S) == 4
    for (group, foundation), limits in LIMITS_MM_S.items():
        assert list(limits) == sorted(limits)
        section = Iso20816(group=group, foundation=foundation, channels=[0])  # type: ignore[arg-type]  # as in the table
        below = [zone(section, limit - 0.01) for limit in limits]
        at = [zone(section, limit) for limit in limits]
        assert below == ["A", "B", "C"]
        assert at == ["B", "C", "D"]
        assert zone(section, math.inf) == "D"
        assert zone(section, math.nan) is None
    assert zone(Iso20816(group=2, foundation="rigid", channels=[0]), 3.0) == "C"
    assert zone(Iso20816(group=1, foundation="flexible", channels=[0]), 3.0) == "A"


def test_units_and_channels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="not a known unit of acceleration"):
        m_s2_per_unit("mm/s")
    with pytest.raises(ValueError, match="names channel 3"):
        velocity_feature_specs(Iso20816(group=1, foundation="rigid", channels=[3]), ["x"], ["g"])
    with pytest.raises(ValueError, match="below high_hz"):
        Iso20816(group=1, foundation="rigid", channels=[0], low_hz=500.0, high_hz=100.0)

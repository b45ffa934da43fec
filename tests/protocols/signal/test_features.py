"""Features compared with scipy, and extreme inputs."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.signal
import scipy.stats

from wheeltapper_protocols.signal.envelope import EnvelopeSpectrum
from wheeltapper_protocols.signal.features import FeatureSet, FeatureSpec, default_specs

RATE = 25_600.0
SAMPLES = 2560


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    random = np.random.default_rng(1)
    t = np.arange(SAMPLES) / RATE
    tone = (1 + 0.5 * np.sin(2 * np.pi * 100 * t)) * np.sin(2 * np.pi * 5000 * t)
    return (random.normal(size=(5, SAMPLES, 2)) + tone[None, :, None] + 3).astype(np.float32)


def column(features: FeatureSet, values: np.ndarray, name: str) -> np.ndarray:
    return values[:, features.names.index(name)]


def test_moments_agree_with_scipy(windows: np.ndarray) -> None:
    features = FeatureSet(default_specs(RATE, ["a", "b"]), RATE, SAMPLES, 2)
    values = features.compute(windows)
    x = windows[:, :, 1].astype(np.float64)
    x -= x.mean(axis=1, keepdims=True)
    expected = {
        "rms": x.std(axis=1),
        "peak": np.abs(x).max(axis=1),
        "crest": np.abs(x).max(axis=1) / x.std(axis=1),
        "kurtosis": scipy.stats.kurtosis(x, axis=1, fisher=False),
        "skewness": scipy.stats.skew(x, axis=1),
    }
    for kind, value in expected.items():
        np.testing.assert_allclose(column(features, values, f"b.{kind}"), value, rtol=2e-4, atol=2e-5)


def test_spectral_features_agree_with_scipy(windows: np.ndarray) -> None:
    carrier = {"carrier_low_hz": 3000.0, "carrier_high_hz": 7000.0}
    specs = [
        FeatureSpec(name="band", kind="band_rms", channel=0, params={"low_hz": 1000.0, "high_hz": 3000.0}),
        FeatureSpec(name="centroid", kind="centroid", channel=0),
        FeatureSpec(name="env", kind="envelope_rms", channel=0, params={"low_hz": 50.0, "high_hz": 300.0, **carrier}),
    ]
    values = FeatureSet(specs, RATE, SAMPLES, 2).compute(windows)
    x = windows[:, :, 0].astype(np.float64)
    x -= x.mean(axis=1, keepdims=True)
    spectrum = np.fft.rfft(x)
    hz = np.fft.rfftfreq(SAMPLES, 1 / RATE)

    def only(low: float, high: float) -> np.ndarray:
        return np.fft.irfft(np.where((hz >= low) & (hz < high), spectrum, 0), n=SAMPLES)

    np.testing.assert_allclose(values[:, 0], only(1000, 3000).std(axis=1), rtol=1e-4)
    power = np.abs(spectrum) ** 2
    np.testing.assert_allclose(values[:, 1], (power * hz).sum(axis=1) / power.sum(axis=1), rtol=1e-3)
    squared = np.abs(scipy.signal.hilbert(only(3000, 7000), axis=1)) ** 2
    lines = np.fft.rfft(squared)
    wanted = np.sqrt(2 * (np.abs(lines[:, (hz >= 50) & (hz < 300)]) ** 2).sum(axis=1)) / lines[:, 0].real
    np.testing.assert_allclose(values[:, 2], wanted, rtol=1e-3)


def test_windows_are_independent_and_constant_ones_are_zero(windows: np.ndarray) -> None:
    features = FeatureSet(default_specs(RATE, ["a", "b"], SAMPLES), RATE, SAMPLES, 2)
    together = features.compute(windows)
    alone = np.concatenate([features.compute(windows[i : i + 1]) for i in range(len(windows))])
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert not features.compute(np.full((2, SAMPLES, 2), 5, dtype=np.float32)).any()


@pytest.mark.parametrize(
    ("rate", "samples"), [(50.0, 100), (12_000.0, 1024), (48_000.0, 2048), (1000.0, 16), (7.0, 33)]
)
def test_default_features_work_for_any_window(rate: float, samples: int) -> None:
    features = FeatureSet(default_specs(rate, ["x"], samples), rate, samples, 1)
    values = features.compute(np.random.default_rng(0).normal(size=(3, samples, 1)))
    assert np.isfinite(values).all()


@pytest.mark.parametrize(
    "spec",
    [
        FeatureSpec(name="x", kind="nonsense", channel=0),
        FeatureSpec(name="x", kind="rms", channel=7),
        FeatureSpec(name="x", kind="rms", channel=0, params={"low_hz": 1.0}),
        FeatureSpec(name="x", kind="band_rms", channel=0),
        FeatureSpec(name="x", kind="band_rms", channel=0, params={"low_hz": 5e6, "high_hz": 6e6}),
    ],
)
def test_bad_specs_are_refused(spec: FeatureSpec) -> None:
    with pytest.raises(ValueError):
        FeatureSet([spec], RATE, SAMPLES, 1)


def test_windows_of_another_form_are_refused(windows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="windows must be"):
        FeatureSet(default_specs(RATE, ["a"]), RATE, SAMPLES, 1).compute(windows)


@pytest.mark.parametrize("samples", [1024, 2560, 4096, 8192, 2047])
def test_both_ways_to_the_envelope_agree(samples: int, windows: np.ndarray) -> None:
    x = np.random.default_rng(3).normal(size=samples).astype(np.float32)
    spectrum = np.fft.rfft(x).astype(np.complex64)
    exact = np.fft.rfft(np.abs(np.fft.ifft(spectrum[samples // 16 :].astype(complex), n=2 * samples)) ** 2)
    wanted = np.abs(exact / exact[0]) ** 2
    for lines in (1, 3, samples // 32, samples):
        envelope = EnvelopeSpectrum(slice(samples // 16, samples // 2 + 1), lines)
        for by_product in (False, True):
            envelope._by_product = by_product
            power = envelope.power(spectrum)
            assert power is not None
            assert power.shape == (2 * lines,)
            found = power[::2] + power[1::2]
            np.testing.assert_allclose(found, np.r_[wanted, np.zeros(samples)][:lines], rtol=1e-3, atol=1e-8)
            assert found[0] == pytest.approx(1.0)


@pytest.mark.parametrize("scale", [1e-14, 1e-7, 1.0, 1e7, 1e30])
@pytest.mark.filterwarnings("error")
def test_any_finite_amplitude_has_finite_features(windows: np.ndarray, scale: float) -> None:
    features = FeatureSet(default_specs(RATE, ["a", "b"], SAMPLES), RATE, SAMPLES, 2)
    plain = features.compute(windows)
    scaled = features.compute((windows.astype(np.float64) * scale).astype(np.float32))
    linear = np.array([spec.kind in ("rms", "peak", "band_rms") for spec in features.specs])
    np.testing.assert_allclose(scaled / np.where(linear, scale, 1.0), plain, rtol=2e-4, atol=2e-5)


@pytest.mark.filterwarnings("error")
def test_a_sample_that_is_not_finite_spoils_its_channel_only(windows: np.ndarray) -> None:
    features = FeatureSet(default_specs(RATE, ["a", "b"], SAMPLES), RATE, SAMPLES, 2)
    for value in (np.nan, np.inf, -np.inf):
        bad = windows.copy()
        bad[1, 77, 0] = value
        values = features.compute(bad)
        first = np.array([spec.channel == 0 for spec in features.specs])
        assert np.isnan(values[1, first]).all()
        np.testing.assert_array_equal(values[1, ~first], features.compute(windows)[1, ~first])
        assert np.isfinite(values[[0, 2, 3, 4]]).all()
        bad[1, :, 0] = value  # all of them, so that none differs from the others
        assert np.isnan(features.compute(bad)[1, first]).all()


def test_threads_may_share_a_feature_set(windows: np.ndarray) -> None:
    features = FeatureSet(default_specs(RATE, ["a", "b"], SAMPLES), RATE, SAMPLES, 2)
    wanted = [features.compute(windows[i : i + 1]) for i in range(5)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: features.compute(windows[i % 5 : i % 5 + 1]), range(200)))
    assert all(np.array_equal(values, wanted[i % 5]) for i, values in enumerate(found))


CARRIER = {"carrier_low_hz": 3000.0, "carrier_high_hz": 9000.0}


def envelope(name: str, low_hz: float, high_hz: float) -> FeatureSpec:
    return FeatureSpec(
        name=name, kind="envelope_rms", channel=0, params={"low_hz": low_hz, "high_hz": high_hz, **CARRIER}
    )


def test_a_feature_is_the_same_whatever_stands_beside_it(windows: np.ndarray) -> None:
    line = FeatureSpec(
        name="line",
        kind="bearing_line",
        channel=0,
        params={"line_hz": 200.0, "harmonics": 3.0, "tolerance": 0.02, **CARRIER},
    )
    specs = [envelope("low", 30.0, 100.0), envelope("high", 100.0, 400.0), envelope("both", 50.0, 400.0), line]
    alone = {spec.name: FeatureSet([spec], RATE, SAMPLES, 2).compute(windows)[:, 0] for spec in specs}
    for order in itertools.permutations(specs):
        together = FeatureSet(list(order), RATE, SAMPLES, 2).compute(windows)
        for place, spec in enumerate(order):
            np.testing.assert_allclose(together[:, place], alone[spec.name], rtol=1e-4, err_msg=spec.name)


def test_a_carrier_that_is_narrower_than_the_harmonics_reach_is_refused() -> None:
    narrow = {"carrier_low_hz": 2950.0, "carrier_high_hz": 3050.0}
    spec = FeatureSpec(
        name="x",
        kind="bearing_line",
        channel=0,
        params={"line_hz": 200.0, "harmonics": 3.0, "tolerance": 0.02, **narrow},
    )
    with pytest.raises(ValueError, match="too narrow for its harmonics"):
        FeatureSet([spec], RATE, SAMPLES, 1)


@pytest.mark.parametrize("peak", [1e-15, 1e-18, 1e-22, 3e-24, 1e-30, 1e37])
def test_silence_and_noise_beyond_measure_stay_finite(peak: float) -> None:
    velocity = FeatureSpec(
        name="v", kind="velocity_rms", channel=0, params={"low_hz": 10.0, "high_hz": 1000.0, "m_s2_per_unit": 9.8}
    )
    specs = [*default_specs(RATE, ["x"], SAMPLES), velocity]
    wave = np.sin(2 * np.pi * 20 * np.arange(SAMPLES) / RATE) * peak
    values = FeatureSet(specs, RATE, SAMPLES, 1).compute(wave.astype(np.float32)[None, :, None])
    assert np.isfinite(values).all()
    if peak <= 1e-16:
        ratios = [place for place, spec in enumerate(specs) if spec.kind in ("crest", "kurtosis", "envelope_rms")]
        assert not values[0, ratios].any()


@pytest.mark.parametrize("rate", [2.0, 5.0, 10.0, 16.0, 25.0, 32.0, 40.0, 100.0])
@pytest.mark.parametrize("samples", [64, 256, 1024, 4096])
def test_slow_signals_have_names_for_their_bands(rate: float, samples: int) -> None:
    specs = default_specs(rate, ["x"], samples)
    assert len({spec.name for spec in specs}) == len(specs)
    FeatureSet(specs, rate, samples, 1)

"""Distances of sketches compared with scipy's of the raw samples, within the errors that the bins allow."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from wheeltapper_fleet.training.evaluate import compute_features
from wheeltapper_fleet.training.importers import import_cwru, import_femto, import_uci_fan
from wheeltapper_protocols.drift.drift import (
    Distances,
    Reference,
    distances,
    fit_drift_spec,
    fit_reference,
    psi,
    psi_noise,
)
from wheeltapper_protocols.drift.sketch import Bins
from wheeltapper_protocols.signal.features import FeatureSet, default_specs
from wheeltapper_protocols.signal.recording import Recording

Values = NDArray[np.float32]


def features_of(recording: Recording) -> Values:
    specs = default_specs(recording.sample_rate_hz, recording.channels, recording.window_samples)
    chosen = FeatureSet(specs, recording.sample_rate_hz, recording.window_samples, len(recording.channels))
    return compute_features(chosen, recording)


def real_pairs(data_dir: Path) -> dict[str, tuple[Values, Values]]:
    """(reference, now) [window, feature] of real machines: wear, a fault, another speed, and no change."""
    femto = features_of(import_femto(data_dir / "femto" / "Learning_set__Bearing1_1.npz"))
    normal = features_of(import_cwru(data_dir / "cwru", "normal_0_97", 2048))
    fault = features_of(import_cwru(data_dir / "cwru", "48k_Drive_End_B007_0_122", 2048))
    fan_file = data_dir / "uci_fan" / "uci_fan_mems_50hz.npz"
    fan = {speed: features_of(import_uci_fan(fan_file, 3, speed, 50)) for speed in (40, 45, 90)}
    return {
        "femto, the last tenth": (femto[:280], femto[-280:]),
        "femto, the next tenth": (femto[:280], femto[280:560]),
        "cwru, no change": (normal[0::2], normal[1::2]),
        "cwru, a fault": (normal, fault),
        "fan, a little faster": (fan[40], fan[45]),
        "fan, much faster": (fan[40], fan[90]),
    }


def assert_within(reference: Values, now: Values, single: Reference, found: Distances) -> None:
    """The stated tolerances: KS between ks and ks + ks_error, Wasserstein within its error of the estimate."""
    ks = float(stats.ks_2samp(reference, now, method="asymp").statistic)
    assert found.ks - 1e-12 <= ks <= found.ks + found.ks_error + 1e-12
    wasserstein = float(stats.wasserstein_distance(reference.astype(float), now.astype(float)))
    span = max(float(reference.max()), float(now.max())) - min(float(reference.min()), float(now.min()))
    # Edges and means of the reference are rounded to 6 and 8 digits.
    rounding = 1e-5 * max(abs(edge) for edge in single.edges)
    assert abs(found.wasserstein - wasserstein) <= found.wasserstein_error + rounding + 1e-9 * span


@pytest.mark.data
def test_distances_agree_with_scipy_on_real_machines(data_dir: Path) -> None:
    moved: dict[str, int] = {}
    for name, (reference, now) in real_pairs(data_dir).items():
        spec = fit_drift_spec(reference, reference[:, 0])
        sketches = Bins([one.edges for one in spec.features]).sketch(now)
        found = distances(spec.features, sketches)
        for column, (single, one) in enumerate(zip(spec.features, found, strict=True)):
            assert_within(reference[:, column], now[:, column], single, one)
        moved[name] = sum(one.psi > 0.25 + one.psi_noise for one in found)
    assert moved["cwru, no change"] == 0
    assert moved["cwru, a fault"] >= 12
    assert moved["femto, the last tenth"] >= 25
    assert moved["fan, much faster"] >= 15
    assert moved["fan, a little faster"] < moved["fan, much faster"]


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.5, 2.0, 50.0])
@pytest.mark.parametrize("spread", [1.0, 0.3, 3.0])
def test_distances_agree_with_scipy_on_shifts(shift: float, spread: float) -> None:
    random = np.random.default_rng(7)
    for draw in (random.standard_normal, random.standard_exponential, lambda n: random.integers(0, 6, n) / 4):
        reference = np.asarray(draw(700), dtype=np.float32)
        now = np.asarray(shift + spread * np.asarray(draw(900)), dtype=np.float32)
        single = fit_reference(reference)
        found = distances([single], Bins([single.edges]).sketch(now[:, None]))[0]
        assert_within(reference, now, single, found)
        if len(np.unique(reference)) > 100:
            # Bins of 5 %: what they cannot see of KS is at most the share of the fullest one.
            assert found.ks_error <= 0.05 + 1e-9


samples = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60)


@given(samples, samples)
def test_the_tolerances_hold_for_any_samples(reference: list[float], now: list[float]) -> None:
    theirs, ours = np.array(reference, dtype=np.float32), np.array(now, dtype=np.float32)
    single = fit_reference(theirs)
    found = distances([single], Bins([single.edges]).sketch(ours[:, None]))[0]
    assert_within(theirs, ours, single, found)
    assert found.psi >= 0
    assert found.ks <= 1 + 1e-12


def test_psi_of_a_known_table() -> None:
    # Shares 0.5/0.5 against 0.9/0.1: (0.4) ln(1.8) + (-0.4) ln(0.2).
    wanted = 0.4 * np.log(1.8) - 0.4 * np.log(0.2)
    assert psi([50, 50], [90, 10], prior=0.0) == pytest.approx(wanted, rel=1e-12)
    assert psi([5, 5, 0], [5, 5, 0]) == 0
    assert np.isfinite(psi([100, 0], [0, 100]))


def test_chance_alone_seldom_exceeds_the_noise_level() -> None:
    random = np.random.default_rng(3)
    above = 0
    for _ in range(400):
        reference, now = random.standard_normal(2000), random.standard_normal(1000)
        edges = [np.quantile(reference, np.arange(1, 20) / 20).tolist()]
        ours, theirs = (Bins(edges).sketch(one[:, None]).counts[0] for one in (reference, now))
        above += psi(ours, theirs) > psi_noise(20, 2000, 1000)
    assert above <= 3
    assert psi_noise(20, 2000, 1000) == pytest.approx(stats.chi2.ppf(0.999, 19) * (1 / 2000 + 1 / 1000), rel=5e-3)


@pytest.mark.parametrize(
    "values",
    [[0.0] * 9, [5.0], [1e-30] * 3, [3.3e38, 1.0], [-3.3e38, 2.0], [1.0, 1.0, 2.0, 2.0], [float("nan"), 1.0], [1e-45]],
)
def test_any_finite_values_give_a_reference(values: list[float]) -> None:
    single = fit_reference(np.array(values))
    finite = [value for value in values if np.isfinite(value)]
    assert sum(single.counts) == len(finite)
    assert msgspec.json.decode(msgspec.json.encode(single), type=Reference) == single
    found = distances([single], Bins([single.edges]).sketch(np.array(values)[:, None]))[0]
    assert (found.n, found.psi, found.ks) == (len(finite), 0.0, 0.0)


def test_a_reference_is_the_quantiles_and_small() -> None:
    data = np.random.default_rng(0).lognormal(size=(1000, 1))
    single = fit_drift_spec(data, data[:, 0]).features[0]
    assert single.counts == [0, *[50] * 20, 0]
    assert len(msgspec.json.encode(single)) < 350
    assert len(fit_reference(data[:23, 0]).counts) == 7  # fewer windows, fewer bins
    with pytest.raises(ValueError, match="no finite value"):
        fit_reference(np.full(4, np.nan))


def test_nothing_seen_is_no_distance_and_other_bins_are_refused() -> None:
    single = fit_reference(np.arange(100.0))
    bins = Bins([single.edges])
    assert distances([single], bins.empty()) == [Distances(n=0)]
    with pytest.raises(ValueError, match="other bins"):
        distances([single], Bins([[0.0]]).empty())

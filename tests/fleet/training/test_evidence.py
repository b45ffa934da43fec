"""Which detectors a release has, their limits, and the budget of false alarms that they follow from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import poisson

from wheeltapper_fleet.training import budget, gates
from wheeltapper_fleet.training.anomaly import train_anomaly
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.evaluate import evaluate, read_bundle
from wheeltapper_fleet.training.recipe import DECISION
from wheeltapper_protocols.decision.decision import DecisionSpec, DecisionState, step
from wheeltapper_protocols.signal.recording import Recording


def machine(snapshots: int = 80, seed: int = 0, level: float = 1.0) -> Recording:
    """Two channels of noise and a tone; the level of everything wanders a little."""
    random = np.random.default_rng(seed)
    t = np.arange(1024) / 12_000.0
    samples = random.normal(scale=0.3, size=(snapshots, 1024, 2)) + np.sin(2 * np.pi * 30 * t)[None, :, None]
    samples *= level * np.exp(random.normal(scale=0.03, size=(snapshots, 1, 1)))
    t_s = np.arange(snapshots) * np.float64(10)
    return Recording(samples.astype(np.float32), np.ones(2), 12_000.0, t_s, ("a", "b"), ("g", "g"), {"machine": "m"})


def named(recording: Recording, name: str) -> Recording:
    return dataclasses.replace(recording, meta={"machine": name})


def with_tone(recording: Recording, hz: float, size: float, first: int) -> Recording:
    """A tone in one channel from snapshot ``first`` on."""
    samples = recording.samples.copy()
    t = np.arange(samples.shape[1]) / recording.sample_rate_hz
    samples[first:, :, 1] += (size * np.sin(2 * np.pi * hz * t)).astype(np.float32)
    return Recording(
        samples, recording.scale, recording.sample_rate_hz, recording.t_s, recording.channels, recording.units, {}
    )


def test_a_rise_in_one_band_of_one_channel_alerts(tmp_path: Path) -> None:
    train_anomaly([machine()], healthy_fraction=1.0, out=tmp_path / "b")
    bundle = read_bundle(tmp_path / "b")
    assert not evaluate(machine(300, seed=1), bundle).alert.any()
    # The tone raises the root mean square of the channel by a tenth.
    found = evaluate(with_tone(machine(100, seed=2), 2200.0, 0.5, 50), bundle)
    assert found.first_alert is not None
    assert 50 <= found.first_alert < 65
    assert found.verdicts[found.first_alert].reasons[0].feature == "b.band_1500_3000_hz"


def test_detectors_are_of_every_kind_and_none_has_a_weight(tmp_path: Path) -> None:
    made = train_anomaly([machine()], healthy_fraction=1.0, out=tmp_path / "b")
    assert made.evidence is not None
    assert {each.kind for each in made.evidence.detectors} == {
        "level",
        "impulsiveness",
        "modulation",
        "shape",
        "density",
    }
    assert made.scoring is not None
    assert set(made.scoring.weight) == {1.0}


def test_several_machines_without_a_baseline_are_watched_by_their_shape(tmp_path: Path) -> None:
    levels = [named(machine(seed=seed, level=level), f"m{seed}") for seed, level in enumerate((0.5, 1.0, 2.0))]
    made = train_anomaly(levels, healthy_fraction=1.0, out=tmp_path / "b", baseline_windows=0)
    assert made.baseline is None
    assert made.evidence is not None
    assert [each.kind for each in made.evidence.detectors] == ["shape"]
    bundle = read_bundle(tmp_path / "b")
    for seed, level in enumerate((0.5, 1.0, 2.0)):
        assert not evaluate(machine(200, seed=10 + seed, level=level), bundle).alert.any()
    worn = machine(60, seed=20, level=0.5)
    worn.samples[30:, ::97] += 6.0
    worn.samples[30:] *= 2.5
    first = evaluate(worn, bundle).first_alert
    assert first is not None
    assert 30 <= first < 45


def test_a_smaller_budget_has_higher_limits_and_is_stated(tmp_path: Path) -> None:
    few = train_anomaly([machine()], healthy_fraction=1.0, out=tmp_path / "1", false_alarms=0.1)
    many = train_anomaly([machine()], healthy_fraction=1.0, out=tmp_path / "2", false_alarms=100.0)
    assert few.evidence is not None
    assert many.evidence is not None
    assert all(a.limit > b.limit for a, b in zip(few.evidence.detectors, many.evidence.detectors, strict=True))
    assert few.lineage["false_alarm_budget"] == "0.1 in 1000 machine-hours"
    gate = next(gate for gate in few.gates if gate.name == "false_alarms_per_1000h")
    assert (gate.limit, gate.passed) == (0.1, True)
    assert "0 false alarms in 0.222 held-out machine-hours" in gate.detail
    assert "2.996e+04 h without one would show the budget" in gate.detail


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), 1e7])
def test_a_budget_that_is_none_is_refused(rate: float, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        train_anomaly([machine()], healthy_fraction=1.0, out=tmp_path / "b", false_alarms=rate)
    assert caught.value.code == "training.budget"


def test_limits_keep_the_budget_where_scores_are_normal() -> None:
    """Of scores that are as the budget assumes, drift included: the share above the limit is at most what it allows."""
    random = np.random.default_rng(0)
    held = [random.normal(size=(200, 3))]
    drift = 1.2
    limit = budget.limits(held, 360.0, 1000.0, 1, drift)
    # 1,000 alarms in 1,000 h are 1 in 360 windows, of three detectors together.
    drifted = random.normal(size=(200_000, 3)) + random.normal(scale=drift, size=(200_000, 1))
    assert np.mean((drifted > limit).any(axis=1)) < 1 / 360
    loose = budget.limits(held, 360.0, 1000.0 * 100, 1, drift)
    assert np.mean((drifted > loose).any(axis=1)) > 1 / 360


def test_a_sustained_healthy_value_is_never_above_the_limit() -> None:
    values = np.zeros((40, 1))
    values[5:20] = 50.0  # running-in
    limit = budget.limits([values], 360.0, 1.0, DECISION.raise_windows, 1.2)
    assert limit[0] >= 50.0


@pytest.mark.parametrize(("alarms", "hours"), [(0, 5.0), (3, 100.0), (12, 4000.0)])
def test_the_bounds_of_a_rate_are_those_of_garwood(alarms: int, hours: float) -> None:
    low, high = budget.bounds_per_1000_hours(alarms, hours)
    assert poisson.cdf(alarms, high * hours / 1000) == pytest.approx(0.05)
    if alarms:
        assert poisson.sf(alarms - 1, low * hours / 1000) == pytest.approx(0.05)
    else:
        assert low == 0.0


def test_the_hours_to_show_a_budget_are_those_that_bound_the_rate() -> None:
    hours = budget.hours_to_show(2.0)
    assert budget.bounds_per_1000_hours(0, hours)[1] == pytest.approx(2.0)


def test_false_alarms_that_contradict_the_budget_fail_the_gate() -> None:
    quiet, loud = np.zeros(1000), np.zeros(1000)
    for start in (100, 300, 500, 700):
        loud[start : start + 30] = 1.2
    assert gates.false_alarm_budget((quiet,), 1000.0, 1.0).passed
    gate = gates.false_alarm_budget((loud,), 1000.0, 1.0)
    assert not gate.passed
    assert gate.detail.startswith("4 false alarms")
    assert gates.false_alarm_budget((loud,), 1000.0, 4.0).passed


def plant(windows: int, samples: int, seed: int, shift_from: int | None = None) -> Recording:
    """Three process values at 1 Hz that follow one demand; from ``shift_from`` on the first stands off by itself."""
    random = np.random.default_rng(seed)
    demand = np.sin(np.arange(windows * samples) / 60)
    values = random.normal(scale=0.3, size=(windows * samples, 3)) + demand[:, None] * np.array([1.0, 2.0, -1.0])
    if shift_from is not None:
        values[shift_from * samples :, 0] += 4.0
    values = values * np.array([1.0, 5.0, 0.1]) + np.array([20.0, 300.0, 4.0])
    return Recording(
        values.reshape(windows, samples, 3).astype(np.float32), np.ones(3), 1.0,
        np.arange(windows) * np.float64(samples), ("temperature", "flow", "current"), ("C", "l/h", "A"), {},
    )  # fmt: skip


@pytest.mark.parametrize("samples", [1, 8])
def test_process_data_is_learnt_from_windows_of_any_size(samples: int, tmp_path: Path) -> None:
    made = train_anomaly([plant(800 // samples, samples, 0)], healthy_fraction=1.0, out=tmp_path / "b")
    assert {spec.kind for spec in made.features} == ({"value"} if samples == 1 else {"value", "rms"})
    assert all(gate.passed for gate in made.gates)
    bundle = read_bundle(tmp_path / "b")
    assert not evaluate(plant(1600 // samples, samples, 1), bundle).alert.any()
    found = evaluate(plant(800 // samples, samples, 2, shift_from=400 // samples), bundle)
    assert found.first_alert is not None
    assert 0 <= found.first_alert - 400 // samples < 15


def warming(windows: int, seed: int, fault_from: int | None = None) -> Recording:
    """Three process values at 1 Hz, one sample a window; the first is still warming up, by six deviations in all."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(windows, 3))
    values[:, 0] += 6 * (1 - np.exp(-np.arange(windows) / 300))
    if fault_from is not None:
        values[fault_from:, 2] += 3.0
    t_s = np.arange(float(windows))
    return Recording(
        values.reshape(windows, 1, 3).astype(np.float32), np.ones(3), 1.0, t_s, ("a", "b", "c"), ("", "", ""), {}
    )


def test_what_warms_up_hides_no_fault_elsewhere_and_is_none(tmp_path: Path) -> None:
    made = train_anomaly([warming(400, 0)], healthy_fraction=1.0, out=tmp_path / "b")
    assert made.decision.smooth_windows > 1  # a single sample says little
    bundle = read_bundle(tmp_path / "b")
    assert evaluate(warming(1100, 1), bundle).alert.mean() < 0.01
    found = evaluate(warming(1100, 2, fault_from=700), bundle)
    assert not found.alert[400:700].any()
    assert found.alert[720:].mean() > 0.9


def test_the_median_of_windows_is_that_of_the_decision() -> None:
    values = np.random.default_rng(0).normal(size=(30, 2)) ** 2
    spec, state = DecisionSpec(smooth_windows=7), DecisionState()
    said = []
    for value in values[:, 1]:
        state, verdict = step(spec, state, float(value))
        said.append(verdict.score)
    np.testing.assert_allclose(budget.smoothed(values, 7)[:, 1], said[6:])


def test_a_process_value_that_never_moves_is_refused_and_one_that_rests_is_not(tmp_path: Path) -> None:
    resting = plant(100, 8, 0)
    resting.samples[20:60, :, 1] = resting.samples[:, :, 1].max()
    train_anomaly([resting], healthy_fraction=1.0, out=tmp_path / "b")
    resting.samples[:, :, 1] = 300.0
    with pytest.raises(TrainingError) as caught:
        train_anomaly([resting], healthy_fraction=1.0, out=tmp_path / "c")
    assert caught.value.code == "training.channel"

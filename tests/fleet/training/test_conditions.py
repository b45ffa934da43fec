"""One release for all speeds: what is usual is learnt for each, and an unknown speed is said, not alarmed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wheeltapper_fleet.training.anomaly import train_anomaly
from wheeltapper_fleet.training.conditions import find_centres, find_setting
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.evaluate import evaluate, read_bundle
from wheeltapper_fleet.training.recipe_files import AnomalyParameters, find_recipe
from wheeltapper_fleet.training.recipes import Job
from wheeltapper_protocols.signal.recording import Recording


def fan(speed: float, seed: int, imbalance: float = 0.0, snapshots: int = 40) -> Recording:
    """A fan whose vibration rises with its speed; imbalance adds a part of it to the turning frequency."""
    random = np.random.default_rng([seed, int(speed)])
    t = np.arange(512) / 1000.0
    level = 0.01 * speed
    turn = np.sin(2 * np.pi * 3 * speed * t)[None] * np.exp(random.normal(scale=0.05, size=(snapshots, 1)))
    vibration = level * ((1 + imbalance) * turn + random.normal(scale=0.5, size=(snapshots, 512)))
    samples = np.stack([vibration, np.full_like(vibration, speed)], axis=2).astype(np.float32)
    t_s = np.arange(snapshots) * np.float64(10)
    return Recording(samples, np.ones(2), 1000.0, t_s, ("x", "speed"), ("g", "1/s"), {})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "fan"
    train_anomaly([fan(speed, 0) for speed in (20, 40, 80)], healthy_fraction=1.0, out=out, condition="speed")
    return out


def test_one_release_knows_every_speed_that_it_was_trained_at(bundle: Path) -> None:
    found = read_bundle(bundle)
    assert found.manifest.condition is not None
    assert found.manifest.condition.centres == [[20.0], [40.0], [80.0]]
    for speed in (20, 40, 80):
        assert not evaluate(fan(speed, 1, snapshots=100), found).alert.any()
        assert evaluate(fan(speed, 2, imbalance=1.5), found).alert.any()
    # Without conditions the imbalance at low speed is quieter than a healthy fan at high speed.


def test_without_conditions_the_imbalance_at_low_speed_is_not_seen(tmp_path: Path) -> None:
    runs = [fan(speed, 0) for speed in (20, 40, 80)]
    plain = [
        replace(run, samples=run.samples[:, :, :1], scale=run.scale[:1], channels=("x",), units=("g",)) for run in runs
    ]
    train_anomaly(plain, healthy_fraction=1.0, out=tmp_path / "b")
    worn = fan(20, 2, imbalance=1.5)
    worn = replace(worn, samples=worn.samples[:, :, :1], scale=worn.scale[:1], channels=("x",), units=("g",))
    assert not evaluate(worn, read_bundle(tmp_path / "b")).alert.any()


def test_an_unknown_speed_gets_no_score_and_no_alert(bundle: Path) -> None:
    found = evaluate(fan(140, 1, imbalance=3.0), read_bundle(bundle))
    assert np.isnan(found.raw_score).all()
    assert not found.alert.any()


@pytest.mark.parametrize(("channels", "condition"), [(("x", "speed"), "load"), (("x", "speed"), "x y")])
def test_a_condition_that_is_no_channel_is_refused(channels: tuple[str, ...], condition: str, tmp_path: Path) -> None:
    run = replace(fan(20, 0), channels=channels)
    with pytest.raises(TrainingError) as caught:
        train_anomaly([run], healthy_fraction=1.0, out=tmp_path / "b", condition=condition)
    assert caught.value.code == "training.condition"
    assert list(tmp_path.iterdir()) == []


def test_conditions_are_the_values_of_the_channel_or_parts_of_its_range() -> None:
    centres, reach = find_centres(np.repeat([20.0, 25.0, 30.0, 99.0], [10, 10, 10, 3]))
    assert centres.tolist() == [20.0, 25.0, 30.0]  # three windows are too few to know a condition
    assert reach == pytest.approx(2.5, rel=1e-3)
    centres, reach = find_centres(np.linspace(0.0, 100.0, 1000))
    assert len(centres) == 12
    assert reach == pytest.approx(100 / 24, rel=0.02)
    centres, reach = find_centres(np.full(50, 30.0))
    assert centres.tolist() == [30.0]
    assert reach == pytest.approx(3.0)


def test_the_channel_that_says_the_condition_is_found(bundle: Path, tmp_path: Path) -> None:
    said: list[str] = []
    runs = [fan(speed, 0) for speed in (20, 40, 80)]
    made = train_anomaly(runs, healthy_fraction=1.0, out=tmp_path / "b", condition="auto", progress=said.append)
    assert made.condition == read_bundle(bundle).manifest.condition
    assert made.lineage["condition"] == "speed"
    assert "the channel 'speed' says the condition" in said
    measured = [np.random.default_rng(1).normal(scale=[[0.0, 0.1]], size=(len(run.samples), 512, 2)) for run in runs]
    still = [
        replace(run, samples=run.samples + each.astype(np.float32)) for run, each in zip(runs, measured, strict=True)
    ]
    plain = train_anomaly(still, healthy_fraction=1.0, out=tmp_path / "c", condition="auto", progress=said.append)
    assert plain.condition is None
    assert "no channel says a condition" in said


def test_only_a_setting_says_the_condition() -> None:
    random = np.random.default_rng(0)
    step = np.repeat([1.0, 2.0, 3.0], 20)
    coarse = np.repeat([1.0, 2.0], 30)
    flow = step + random.normal(scale=0.02, size=60)  # measured: a fault moves it
    rare = np.where(np.arange(60) < 57, 1.0, 2.0)
    none = np.zeros((60, 4))
    assert find_setting(np.stack([flow, coarse, step, rare], axis=1), none) == 2
    assert find_setting(np.stack([flow, rare, np.ones(60), np.arange(60.0)], axis=1), none) is None
    moving = none + np.array([0, 0.5, 0.5, 0])  # within a window
    assert find_setting(np.stack([flow, coarse, step, rare], axis=1), moving) is None


def test_a_recipe_file_names_the_condition_and_the_budget(tmp_path: Path) -> None:
    parameters = AnomalyParameters(healthy_fraction=1.0, false_alarms=10.0, condition="speed")
    runs = [fan(speed, 0, snapshots=20) for speed in (20, 40)]
    made = find_recipe("anomaly").train(runs, parameters, Job(out=tmp_path / "b", model="fan"))
    assert made.condition is not None
    assert len(made.condition.centres) == 2
    assert made.lineage["false_alarm_budget"] == "10 in 1000 machine-hours"

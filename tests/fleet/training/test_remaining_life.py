"""The recipe ``remaining-life`` end to end: train, load on a device, predict for machines that it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from wheeltapper_agent.model.bundle import Bundle, load_bundle
from wheeltapper_agent.model.score_recording import score_recording
from wheeltapper_agent.model.self_test import self_test
from wheeltapper_fleet.training.conformal import covered, fit_interval
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.life_windows import Windows, nearing_end
from wheeltapper_fleet.training.recipe_files import train_recipe
from wheeltapper_fleet.training.recipes import Job
from wheeltapper_fleet.training.regimes import find_regimes
from wheeltapper_fleet.training.runs.folder import RunFolder
from wheeltapper_fleet.training.runs.measured import Measured
from wheeltapper_protocols.drift.estimation import estimate
from wheeltapper_protocols.drift.sketch import Bins
from wheeltapper_protocols.manifest.inference_task import LEAST_LIFE
from wheeltapper_protocols.manifest.manifest import GOLDEN_FILE, MODEL_FILE
from wheeltapper_protocols.signal.recording import Recording, write_recording

QUICK: dict[str, Any] = {
    "cap": 60.0, "warn_at": 10.0, "window_samples": 16, "least_samples": 8, "epochs": 12,
}  # fmt: skip
SETTINGS = np.array([[-2.0, 0.1], [0.0, 0.5], [3.0, 0.9], [3.0, 0.1], [-2.0, 0.9], [8.0, 0.5]])


def machine(seed: int, regimes: int, stop: int = 0) -> Recording:
    """A machine whose sensors drift in its last sixty samples; cut off ``stop`` samples before its end."""
    random = np.random.default_rng(seed)
    life = int(random.integers(80, 130))
    wear = np.maximum(0.0, 1 - np.arange(life)[::-1] / 60)
    regime = random.integers(regimes, size=life)
    level = np.array([[0.0, 100.0, 5.0, 20.0], [50.0, 400.0, -5.0, 10.0], [-50.0, 900.0, 2.0, 0.0]])
    level = np.concatenate([level, level[::-1] * 2 + 7])
    sensors = level[regime] + np.outer(wear, [4.0, -5.0, 3.0, 0.0]) + random.normal(scale=0.5, size=(life, 4))
    stated = SETTINGS[regime] + random.normal(scale=1e-3, size=(life, 2))
    constant = np.full((life, 1), 7.0)
    series = np.concatenate([stated, sensors, constant], axis=1)[: life - stop, None, :].astype(np.float32)
    names = ("load", "speed", "a", "b", "c", "noise", "constant")
    meta = {"machine": f"m{seed}", "labels": [{"name": "remaining_cycles", "value": stop}]}
    return Recording(series, np.ones(7), 1.0, np.arange(float(len(series))), names, ("",) * 7, meta)


def windows_of(recording: Recording) -> NDArray[np.float32]:
    series = recording.physical(slice(None))[:, 0]
    return np.lib.stride_tricks.sliding_window_view(series, 16, axis=0).transpose(0, 2, 1).copy()


def job(out: Path, **fields: Any) -> Job:
    return Job(out=out, model="pump-life", **fields)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("life") / "bundle"
    folder = RunFolder(out.parent / "run")
    shown = Measured(folder)
    train_recipe("remaining-life", QUICK, [machine(seed, 6, seed % 3) for seed in range(25)], job(out, shown=shown))
    assert set(folder.plot_files()) == {"loss", "remaining-life"}
    assert 0 < shown.metrics["mean_absolute_error"] < 60
    return out


def error(loaded: Bundle, regimes: int) -> float:
    """The root mean square error on machines that nobody has seen."""
    missed = []
    for seed in range(100, 115):
        values = loaded.evaluate(windows_of(machine(seed, regimes))).scores.values
        assert values is not None
        missed.append(values - np.minimum(60.0, np.arange(len(values))[::-1]))
    return float(np.sqrt(np.mean(np.concatenate(missed) ** 2)))


def test_a_device_takes_the_bundle_and_predicts_for_machines_that_nobody_has_seen(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    self_test(loaded)
    manifest = loaded.manifest
    assert {gate.name for gate in manifest.gates} >= {"rmse", "interval_coverage", "int8_agreement", "model_bytes"}
    assert manifest.raw is not None
    used = [manifest.input.channels[channel] for channel in manifest.raw.channels]
    assert {"load", "speed", "a", "b", "c"} <= set(used)
    assert "constant" not in used
    assert manifest.lineage["recipe"] == "remaining-life-2"
    assert manifest.lineage["precision"] in {"int8", "mixed", "float"}
    assert "a window here, float" in manifest.lineage["precision_why"]
    assert '"cap":60.0' in manifest.lineage["parameters"]
    predicted, truth = [], []
    for seed in range(100, 120):
        unseen = machine(seed, 6)
        values = loaded.evaluate(windows_of(unseen)).scores.values
        assert values is not None
        predicted.append(values)
        truth.append(np.minimum(60.0, np.arange(len(values))[::-1]))
    found, true = np.concatenate(predicted), np.concatenate(truth)
    assert np.sqrt(np.mean((found - true) ** 2)) < 0.5 * true.std()
    assert manifest.estimation is not None
    assert manifest.drift is not None
    assert manifest.remaining_life is not None
    edges, warn_at = manifest.drift.score.edges, manifest.remaining_life.warn_at
    for chosen in (found >= 0, found < 30):  # of all ages, and only late: the error is another one
        scores = warn_at / np.maximum(found[chosen], LEAST_LIFE * warn_at)
        counts = Bins([edges]).sketch(scores[:, None]).counts[0]
        (mae, _) = estimate(manifest.estimation, edges, counts.tolist(), devices=20)
        real = float(np.mean(np.abs(found - true)[chosen]))
        assert mae.value is not None
        assert mae.reference is not None
        assert mae.value == pytest.approx(real, rel=0.3)
        assert abs(mae.value - real) < abs(mae.reference - real), "better than to assume the validation's"
    assert manifest.remaining_life.interval is not None
    assert 0.8 < covered(manifest.remaining_life.interval, found, true, 60.0) < 0.98


def test_replay_says_the_life_with_its_interval_and_no_score_where_the_condition_is_unknown(
    bundle: Path, tmp_path: Path
) -> None:
    unseen = windows_of(machine(200, 6))
    unseen[5, 3, 0] = 1.5  # a load that no machine of the training had
    count = unseen.shape[2]
    names = machine(200, 6).channels
    recording = Recording(unseen, np.ones(count), 1.0, np.arange(float(len(unseen))), names, ("",) * count, {})
    write_recording(recording, tmp_path / "run.npz")
    rows = list(score_recording(bundle, tmp_path / "run.npz"))
    assert [row["snapshot"] for row in rows if row["value"] is None] == [5]
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows if row["value"] is not None)
    assert rows[-1]["alert"]
    assert not rows[0]["alert"]


def test_six_operating_conditions_cost_little_and_without_them_the_model_is_much_worse(
    bundle: Path, tmp_path: Path
) -> None:
    train_recipe("remaining-life", QUICK, [machine(seed, 1, seed % 3) for seed in range(25)], job(tmp_path / "one"))
    one, six = error(load_bundle(tmp_path / "one"), 1), error(load_bundle(bundle), 6)
    assert six < 1.3 * one
    lives = [machine(seed, 6, seed % 3) for seed in range(25)]
    with pytest.raises(TrainingError) as caught:
        train_recipe("remaining-life", QUICK | {"conditions": []}, lives, job(tmp_path / "blind"))
    assert caught.value.code == "training.gate_failed"


@pytest.mark.parametrize(("kind", "nodes"), [("nets", {"Conv", "Gemm"}), ("trees", {"TreeEnsembleRegressor"})])
def test_a_model_of_nets_or_of_trees_only(kind: str, nodes: set[str], tmp_path: Path) -> None:
    made = train_recipe(
        "remaining-life", QUICK | {"model": kind}, [machine(seed, 1) for seed in range(15)], job(tmp_path / "b")
    )
    found = {node.op_type for node in onnx.load(tmp_path / "b" / MODEL_FILE).graph.node}
    assert found & {"Conv", "Gemm", "TreeEnsembleRegressor"} == nodes
    assert made.lineage["trees_share"] == ("0.000" if kind == "nets" else "1.000")
    self_test(load_bundle(tmp_path / "b"))
    assert error(load_bundle(tmp_path / "b"), 1) < 10


def test_the_windows_of_machines_that_near_their_end() -> None:
    remaining = np.concatenate([np.ones(50), np.linspace(1, 0, 21)[1:], np.ones(9)]).astype(np.float32)
    machines = np.array([0] * 70 + [1] * 9)
    found = nearing_end(Windows(np.zeros((79, 1, 1), np.float32), remaining, machines, 2))
    assert np.flatnonzero(found).tolist() == list(range(47, 70))
    assert nearing_end(Windows(np.zeros((9, 1, 1), np.float32), remaining[70:], machines[70:], 2)).all()


def test_the_same_recordings_and_seed_give_the_same_bytes_in_snapshots_of_any_form(tmp_path: Path) -> None:
    quick = QUICK | {"epochs": 4}
    lives = [machine(seed, 1) for seed in range(12)]
    train_recipe("remaining-life", quick, lives, job(tmp_path / "one"))
    series = lives[0].physical(slice(None))[:, 0]
    cuts = np.lib.stride_tricks.sliding_window_view(series, 10, axis=0).transpose(0, 2, 1).copy()
    overlapping = Recording(
        cuts, lives[0].scale, 1.0, np.arange(float(len(cuts))), lives[0].channels, lives[0].units, lives[0].meta
    )
    train_recipe("remaining-life", quick, [overlapping, *lives[1:]], job(tmp_path / "two"))
    for name in (MODEL_FILE, GOLDEN_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def with_gap(recording: Recording) -> Recording:
    keep = np.r_[0:20, 25 : recording.snapshots]
    return Recording(
        recording.samples[keep], recording.scale, 1.0, recording.t_s[keep], recording.channels, recording.units, {}
    )


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("training.too_little", lambda lives: lives[:9]),
        ("training.gaps", lambda lives: [*lives[1:], with_gap(lives[0])]),
        ("training.repeated", lambda lives: [*lives, lives[0]]),
    ],
)
def test_what_teaches_nothing_is_refused_and_nothing_is_written(code: str, change: Any, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        train_recipe("remaining-life", QUICK, change([machine(seed, 1) for seed in range(10)]), job(tmp_path / "out"))
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()


def test_noise_does_not_pass_the_gates(tmp_path: Path) -> None:
    def noise(seed: int) -> Recording:
        made = machine(seed, 1)
        samples = np.random.default_rng(seed).normal(size=made.samples.shape).astype(np.float32)
        return Recording(samples, made.scale, 1.0, made.t_s, made.channels, made.units, {"machine": str(seed)})

    with pytest.raises(TrainingError) as caught:
        train_recipe(
            "remaining-life", QUICK | {"epochs": 3}, [noise(seed) for seed in range(12)], job(tmp_path / "out")
        )
    assert caught.value.code in ("training.gate_failed", "training.channel")
    assert not (tmp_path / "out").exists()


def test_regimes_are_found_and_wear_is_none() -> None:
    lives = [machine(seed, 3).physical(slice(None))[:, 0, :6] for seed in range(12)]
    samples = np.concatenate(lives)
    standard = ((samples - samples.mean(axis=0)) / samples.std(axis=0)).astype(np.float32)
    age = np.concatenate([np.linspace(0, 1, len(life), dtype=np.float32) for life in lives])
    found = find_regimes(standard, age, range(6), seed=0)
    assert found is not None
    assert len(found.centers) == 3
    assert {0, 1} <= set(found.channels)
    assert 5 not in found.channels
    assert found.find(standard[None])[1].all()
    two_ages = np.concatenate([(np.arange(len(life)) > len(life) / 2)[:, None] for life in lives]).astype(np.float32)
    assert find_regimes(two_ages + 0.01 * standard[:, :1], age, [0], seed=0) is None


def test_an_interval_covers_as_stated_in_each_range() -> None:
    random = np.random.default_rng(0)

    def drawn(count: int) -> tuple[NDArray[Any], NDArray[Any]]:
        predicted = random.uniform(0, 100, count)
        return predicted, np.maximum(0, predicted + random.normal(size=count) * (1 + 0.2 * predicted))

    interval = fit_interval(*drawn(6000), coverage=0.9)
    predicted, truth = drawn(20_000)
    assert 0.88 < covered(interval, predicted, truth) < 0.92
    high = predicted > 80
    assert 0.86 < covered(interval, predicted[high], truth[high]) < 0.94


def test_an_interval_from_few_machines_covers_new_ones_whose_windows_err_alike() -> None:
    random = np.random.default_rng(1)

    def drawn(machines: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        machine = np.repeat(np.arange(machines), 40)
        predicted = random.uniform(50, 100, len(machine))
        off = random.normal(size=machines)[machine] + random.normal(size=len(machine)) / 3
        return predicted, predicted + off, machine

    shares: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(150):
        predicted, truth, machine = drawn(14)
        new = drawn(50)
        for known, found in shares.items():
            interval = fit_interval(predicted, truth, 0.9, machine if known else None)
            found.append(covered(interval, new[0], new[1]))
    assert 0.89 < np.mean(shares[True]) < 0.95
    assert np.mean(shares[False]) < 0.88  # as if each window were a machine of its own

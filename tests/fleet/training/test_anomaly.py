"""Training end to end: the bundle, its gates, its refusals, and its quality on real wear."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from wheeltapper_fleet.training import gates, healthy_part
from wheeltapper_fleet.training.anomaly import train_anomaly
from wheeltapper_fleet.training.autoencoder import open_session
from wheeltapper_fleet.training.bundles import break_golden
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.evaluate import evaluate, read_bundle
from wheeltapper_fleet.training.importers import import_cwru, import_femto, import_uci_fan
from wheeltapper_protocols.decision.evidence import Evidence
from wheeltapper_protocols.decision.scoring import Scorer
from wheeltapper_protocols.manifest.manifest import GOLDEN_FILE, MODEL_FILE, Gate
from wheeltapper_protocols.signal.features import FeatureSet
from wheeltapper_protocols.signal.recording import Recording, write_recording


def machine(snapshots: int = 60, seed: int = 0, rate_hz: float = 12_000.0, fault_from: int | None = None) -> Recording:
    random = np.random.default_rng(seed)
    t = np.arange(1024) / rate_hz
    samples = random.normal(scale=0.3, size=(snapshots, 1024, 1)) + np.sin(2 * np.pi * 30 * t)[None, :, None]
    if fault_from is not None:
        samples[fault_from:, ::97] += 6.0
        samples[fault_from:] *= 2.5
    return Recording(
        samples.astype(np.float32), np.ones(1), rate_hz, np.arange(float(snapshots)), ("de",), ("g",), {"machine": "m"}
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    train_anomaly([machine(seed=1), machine(seed=2)], healthy_fraction=0.5, out=out)
    return out


def test_the_bundle_is_complete_and_its_golden_vectors_are_reproducible(bundle: Path) -> None:
    found = read_bundle(bundle)
    manifest = found.manifest
    assert manifest.release is None
    assert all(gate.passed for gate in manifest.gates)
    assert {gate.name for gate in manifest.gates} >= {"int8_agreement", "false_alert_rate", "finite", "latency_p95_ms"}
    golden = np.load(bundle / GOLDEN_FILE, allow_pickle=False)
    features = FeatureSet(manifest.features, manifest.input.sample_rate_hz, manifest.input.window_samples, 1)
    assert manifest.scoring is not None
    scorer = Scorer(manifest.scoring, features.names)
    rows = scorer.model_input(features.compute(golden["samples"]))
    np.testing.assert_allclose(rows, golden["model_input"], rtol=1e-4, atol=1e-3)
    output = open_session(found.model).run(["output"], {"input": rows})[0]
    np.testing.assert_allclose(output, golden["model_output"], atol=manifest.golden.output_atol)
    assert manifest.evidence is not None
    score = Evidence(manifest.evidence, manifest.scoring).score(rows, output)
    np.testing.assert_allclose(score, golden["score"], rtol=manifest.golden.score_rtol)
    assert len(score) == 8


def test_a_fault_alerts_and_a_healthy_machine_does_not(bundle: Path) -> None:
    found = read_bundle(bundle)
    assert not evaluate(machine(200, seed=3), found).alert.any()
    faulty = evaluate(machine(100, seed=4, fault_from=60), found)
    assert faulty.first_alert is not None
    assert 60 <= faulty.first_alert <= 72
    assert faulty.verdicts[faulty.first_alert].reasons


def test_training_is_deterministic(bundle: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "1.npz", tmp_path / "2.npz"]
    for seed, path in enumerate(paths, start=1):
        write_recording(machine(seed=seed), path)
    train_anomaly(paths, healthy_fraction=0.5, out=tmp_path / "again")
    for name in (MODEL_FILE, GOLDEN_FILE):
        assert (tmp_path / "again" / name).read_bytes() == (bundle / name).read_bytes()


def test_a_broken_bundle_is_well_formed_and_wrong(bundle: Path, tmp_path: Path) -> None:
    train_anomaly([machine(seed=1)], healthy_fraction=0.5, out=tmp_path / "b")
    break_golden(tmp_path / "b")
    found = read_bundle(tmp_path / "b")
    golden = np.load(tmp_path / "b" / GOLDEN_FILE, allow_pickle=False)
    output = open_session(found.model).run(["output"], {"input": golden["model_input"]})[0]
    assert np.abs(output - golden["model_output"]).min() > found.manifest.golden.output_atol


@pytest.mark.parametrize(
    ("code", "recordings", "fraction"),
    [
        ("training.mixed_input", [machine(), machine(rate_hz=25_600.0)], 0.5),
        ("training.too_little", [machine(20)], 0.1),
        ("training.too_little", [], 0.1),
        ("training.fraction", [machine()], 0.0),
        ("training.fraction", [machine()], float("nan")),
    ],
)
def test_refused_input_writes_no_file(code: str, recordings: list[Recording], fraction: float, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        train_anomaly(recordings, healthy_fraction=fraction, out=tmp_path / "out")
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


def test_a_failed_gate_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "SIZE_LIMIT_BYTES", 10)
    with pytest.raises(TrainingError) as caught:
        train_anomaly([machine()], healthy_fraction=0.5, out=tmp_path / "out")
    assert caught.value.code == "training.gate_failed"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(TrainingError) as caught:
        train_anomaly([machine()], healthy_fraction=0.5, out=tmp_path)
    assert caught.value.code == "training.out_exists"
    assert (tmp_path / "precious").read_text() == "x"


def test_a_bundle_is_replaced_on_demand_only(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    shutil.copytree(bundle, out)
    for target in (out, tmp_path / "link"):
        if target is not out:
            target.symlink_to(out)
        with pytest.raises(TrainingError) as caught:
            train_anomaly([machine()], healthy_fraction=0.5, out=target)
        assert caught.value.code == "training.out_exists"
    assert (out / MODEL_FILE).read_bytes() == (bundle / MODEL_FILE).read_bytes()
    train_anomaly([machine(seed=7)], healthy_fraction=0.5, out=out, replace=True)
    assert (out / MODEL_FILE).read_bytes() != (bundle / MODEL_FILE).read_bytes()
    (tmp_path / "empty").mkdir()
    train_anomaly([machine(seed=7)], healthy_fraction=0.5, out=tmp_path / "empty")


def test_what_few_windows_cannot_show_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    made = train_anomaly([machine(120)], healthy_fraction=0.1, out=tmp_path / "b", warn=said.append)
    gate = next(gate for gate in made.gates if gate.name == "false_alert_rate")
    assert gate.limit == 0.5
    assert "the limit allows one" in gate.detail
    assert "at most 0.22 with 95% confidence" in gate.detail
    (text,) = said
    assert "12 healthy windows are too few" in text
    assert "its gate allows 50% instead of 10%" in text
    assert "Record at least 100 healthy windows (1.7 minutes)" in text


def test_enough_windows_need_no_words(tmp_path: Path) -> None:
    said: list[str] = []
    made = train_anomaly([machine(100)], healthy_fraction=1.0, out=tmp_path / "b", warn=said.append)
    assert said == []
    assert next(gate for gate in made.gates if gate.name == "false_alert_rate").limit == gates.FALSE_ALERT_LIMIT


@pytest.mark.parametrize(("events", "trials"), [(0, 12), (0, 29), (0, 100), (3, 40), (12, 12)])
def test_the_bound_of_a_rate_is_that_of_clopper_and_pearson(events: int, trials: int) -> None:
    exact = binomtest(events, trials).proportion_ci(0.9, "exact").high  # 5 % on each side
    assert gates.rate_bound(events, trials) == pytest.approx(exact)


def _zero(samples: NDArray[Any]) -> None:
    samples[:, :, 1] = 0


def _constant(samples: NDArray[Any]) -> None:
    samples[:, :, 1] = 2.5


def _stuck(samples: NDArray[Any]) -> None:
    samples[10:16, :, 1] = samples[9, 5, 1]


def _clipped(samples: NDArray[Any]) -> None:
    np.clip(samples[:, :, 1], -0.4, 0.9, out=samples[:, :, 1])


def _same(samples: NDArray[Any]) -> None:
    samples[:, :, 1] = samples[:, :, 0]


def _scaled(samples: NDArray[Any]) -> None:
    samples[:, :, 1] = -2 * samples[:, :, 0] + 1


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_zero, "channel 'b' is 0 in every sample"),
        (_constant, "channel 'b' is 2.5 in every sample"),
        (_stuck, "channel 'b' does not move in 6 of 30 windows"),
        (_clipped, "channel 'b' is clipped"),
        (_same, "channel 'b' is the same as 'a'"),
        (_scaled, "channel 'b' is 'a' at another scale"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_a_channel_that_teaches_nothing_is_refused(
    tmp_path: Path, spoil: Callable[[NDArray[Any]], None], why: str, dtype: type
) -> None:
    samples = np.concatenate([machine(30, seed=seed).samples for seed in (1, 2)], axis=2)
    spoil(samples)
    counts = samples if dtype is np.float32 else np.round(samples * 1000).astype(np.int16)
    scale = np.full(2, 1.0 if dtype is np.float32 else 1e-3)
    spoilt = Recording(counts, scale, 12_000.0, np.arange(30.0), ("a", "b"), ("g", "g"), {})
    with pytest.raises(TrainingError, match=why.replace("2.5", "2.5|2500")) as caught:
        train_anomaly([machine_of_two(), spoilt], healthy_fraction=1.0, out=tmp_path / "out")
    assert caught.value.code == "training.channel"
    assert list(tmp_path.iterdir()) == []


def machine_of_two() -> Recording:
    samples = np.concatenate([machine(30, seed=seed).samples for seed in (3, 4)], axis=2)
    return Recording(samples, np.ones(2), 12_000.0, np.arange(30.0), ("a", "b"), ("g", "g"), {})


def test_a_recording_counts_once(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        train_anomaly([machine(), machine()], healthy_fraction=0.5, out=tmp_path / "out")
    assert caught.value.code == "training.repeated"


def test_training_works_with_few_windows(tmp_path: Path) -> None:
    manifest = train_anomaly([machine(230)], healthy_fraction=0.1, out=tmp_path / "b")
    assert healthy_part.MIN_WINDOWS <= 23
    assert not evaluate(machine(230), read_bundle(tmp_path / "b")).alert.any()
    assert manifest.scoring is not None
    assert manifest.scoring.threshold > 4


def test_the_false_alert_limit_allows_one_alert_among_few_windows(bundle: Path) -> None:
    manifest = read_bundle(bundle).manifest
    assert manifest.scoring is not None
    scorer = Scorer(manifest.scoring, tuple(spec.name for spec in manifest.features))

    def gate(windows: int, loud: int) -> Gate:
        residual = np.zeros(windows)
        residual[windows - loud :] = 1.2
        group = np.ones((windows, len(scorer.names)))
        return gates.false_alerts((residual,), 1.0, [group], scorer)

    assert gate(23, 8).passed
    assert not gate(23, 20).passed
    assert gate(300, 20).limit == gates.FALSE_ALERT_LIMIT
    assert not gate(300, 40).passed


def test_int8_scores_damage_as_the_float_model_does(bundle: Path) -> None:
    agreement = next(gate for gate in read_bundle(bundle).manifest.gates if gate.name == "int8_agreement")
    assert agreement.value < 0.06


@pytest.mark.data
@pytest.mark.parametrize("run", ["2_1", "3_2"])
def test_a_recording_with_few_snapshots_alerts_before_its_end(run: str, data_dir: Path, tmp_path: Path) -> None:
    whole = import_femto(data_dir / "femto" / f"Learning_set__Bearing{run}.npz")
    thin = whole.part(slice(0, None, whole.snapshots // 230))
    train_anomaly([thin], healthy_fraction=0.1, out=tmp_path / "b")
    first = evaluate(thin, read_bundle(tmp_path / "b")).first_alert
    assert first is not None
    assert thin.snapshots // 4 <= first < thin.snapshots - 1


@pytest.mark.data
def test_a_few_seconds_of_a_fan_make_a_bundle(data_dir: Path, tmp_path: Path) -> None:
    fan = import_uci_fan(data_dir / "uci_fan" / "uci_fan_mems_50hz.npz", 1, 80)
    train_anomaly([fan.part(slice(0, 20))], healthy_fraction=1.0, out=tmp_path / "b")
    assert not evaluate(fan, read_bundle(tmp_path / "b")).alert.any()


@pytest.mark.data
def test_real_wear_alerts_late_enough_and_before_the_end(data_dir: Path, tmp_path: Path) -> None:
    runs = [import_femto(data_dir / "femto" / f"Learning_set__Bearing{name}.npz") for name in ("2_2", "3_1", "2_1")]
    for number, run in enumerate(runs):
        train_anomaly([run], healthy_fraction=0.1, out=tmp_path / str(number))
        first = evaluate(run, read_bundle(tmp_path / str(number))).first_alert
        assert first is not None
        assert first >= run.snapshots // 4


@pytest.mark.data
def test_importers(data_dir: Path) -> None:
    normal = import_cwru(data_dir / "cwru", "normal_0_97", 2048)
    assert normal.sample_rate_hz == 48_000.0
    fan = import_uci_fan(data_dir / "uci_fan" / "uci_fan_mems_50hz.npz", 1, 50)
    assert fan.samples.shape == (30, 100, 3)
    run = import_femto(data_dir / "femto" / "Learning_set__Bearing3_1.npz")
    assert run.samples.shape == (515, 2560, 2)
    assert np.abs(run.physical(slice(0, 1))).max() < 50
    with pytest.raises(TrainingError) as caught:
        import_cwru(data_dir / "cwru", "nothing")
    assert caught.value.code == "import.unknown"

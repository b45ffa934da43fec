"""The recipe ``fault-classifier`` end to end, and what it does against data that give the class away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.model.bundle import Bundle, load_bundle
from wheeltapper_agent.model.self_test import self_test
from wheeltapper_agent.pipeline.drift import DriftObserver
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.source.base import Window
from wheeltapper_fleet.training import fault_classifier
from wheeltapper_fleet.training.autoencoder import open_session
from wheeltapper_fleet.training.conformal import fit_temperature, softmax
from wheeltapper_fleet.training.envelopes import add_envelopes, plan_envelopes
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.fault_classifier import macro_auroc
from wheeltapper_fleet.training.onnx_graph import Graph
from wheeltapper_fleet.training.recipe_files import train_recipe
from wheeltapper_fleet.training.recipes import Job
from wheeltapper_fleet.training.runs.folder import RunFolder
from wheeltapper_fleet.training.runs.measured import Measured
from wheeltapper_fleet.training.vibration_windows import folds_of, read_labelled
from wheeltapper_protocols.drift.estimation import estimate
from wheeltapper_protocols.drift.sketch import decode_sketches
from wheeltapper_protocols.manifest.manifest import MODEL_FILE, Manifest
from wheeltapper_protocols.signal.recording import Recording
from wheeltapper_protocols.wire.messages import Alert, DriftReport, Report

QUICK: dict[str, Any] = {"window_samples": 256, "epochs": 10, "folds": 2}


def machine(seed: int, fault: str, rate_hz: float = 4000.0, step: float = 0.0) -> Recording:
    """Noise, with impacts at 90 a second (``inner``), with 37 a second that ring higher (``outer``), or without any."""
    random = np.random.default_rng(seed)
    count = int(6 * 1024 * rate_hz / 4000)
    series = random.normal(size=count) * random.uniform(0.5, 2.0)
    period = {"inner": rate_hz / 90, "outer": rate_hz / 37}.get(fault)
    if period:
        tone = {"inner": 0.8, "outer": 1.9}[fault] * 4000 / rate_hz
        ring = np.exp(-np.arange(int(rate_hz / 200)) / (rate_hz / 900)) * np.sin(np.arange(int(rate_hz / 200)) * tone)
        for at in np.arange(0, count - len(ring), period).astype(int):
            series[at : at + len(ring)] += 9 * series.std() * ring
    samples = series.reshape(6, -1, 1)
    meta = {"machine": f"{fault}-{seed}", "labels": [{"name": "fault", "value": fault}]}
    times = np.arange(6.0) * 10
    if step:
        counts = np.round(samples / step).astype(np.int16)
        return Recording(counts, np.array([step]), rate_hz, times, ("x",), ("g",), meta)
    return Recording(samples.astype(np.float32), np.ones(1), rate_hz, times, ("x",), ("g",), meta)


def fleet_of(machines: int, first: int = 0) -> list[Recording]:
    return [machine(first + seed, fault) for seed in range(machines) for fault in ("normal", "inner", "outer")]


def test_a_device_takes_the_bundle_and_names_faults_of_machines_that_nobody_has_seen(tmp_path: Path) -> None:
    warned: list[str] = []
    folder = RunFolder(tmp_path / "run")
    shown = Measured(folder)
    job = Job(out=tmp_path / "one", model="bearing-fault", warn=warned.append, shown=shown)
    manifest = train_recipe("fault-classifier", QUICK, fleet_of(3), job)
    loaded = load_bundle(tmp_path / "one")
    self_test(loaded)
    assert set(folder.plot_files()) == {"confusion", "loss", "reliability", "roc"}
    assert shown.metrics["accuracy"] > 0.5
    assert not warned
    assert manifest.classification is not None
    assert manifest.classification.classes == ["inner", "normal", "outer"]
    assert manifest.lineage["recipe"] == "fault-classifier-2"
    right = []
    for unseen in fleet_of(3, first=50):
        windows = unseen.samples.reshape(-1, 256, 1)
        found = loaded.evaluate(windows).scores
        assert found.labels is not None
        right += [name == str(unseen.meta["machine"]).split("-")[0] for name in found.labels]
        loud = loaded.evaluate(windows * np.float32(100)).scores
        np.testing.assert_allclose(loud.score, found.score, atol=0.05)
    assert np.mean(right) > 0.8
    check_estimate(manifest, loaded, right)
    train_recipe("fault-classifier", QUICK, fleet_of(3), Job(out=tmp_path / "two", model="bearing-fault"))
    assert (tmp_path / "one" / MODEL_FILE).read_bytes() == (tmp_path / "two" / MODEL_FILE).read_bytes()


def check_estimate(manifest: Manifest, loaded: Bundle, right: list[bool]) -> None:
    """What a device's observer reports of unseen machines gives an estimate of how many windows are named rightly."""
    assert manifest.estimation is not None
    assert manifest.drift is not None
    assert 1.0 in manifest.drift.score.edges
    observer, reports, at = DriftObserver("main", SystemClock()), list[Alert | Report](), 0
    for unseen in fleet_of(3, first=50):
        found = loaded.evaluate(unseen.samples.reshape(-1, 256, 1))
        for features, score in zip(found.features, found.scores.score, strict=True):
            window = Window(np.zeros((256, 1), dtype=np.float32), float(at))
            seen = Observation("main", at, window, manifest, features=features, score=float(score))
            reports += observer.observe(seen)
            at += 1
    reports += observer.end()
    bodies = [each.body for each in reports if isinstance(each, Report)]
    counts = np.sum([decode_sketches(each.score).counts[0] for each in bodies if isinstance(each, DriftReport)], axis=0)
    assert counts.sum() == len(right)
    accuracy = estimate(manifest.estimation, manifest.drift.score.edges, counts.tolist(), devices=9)[0]
    assert accuracy.value is not None
    assert accuracy.low is not None
    assert accuracy.reference is not None
    # the nets of the reference saw half of the machines: it errs to the worse side
    assert accuracy.low <= np.mean(right)
    assert abs(accuracy.value - np.mean(right)) < abs(accuracy.reference - np.mean(right)) < 0.15


def test_where_8_bits_name_other_classes_layers_stay_in_floating_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fault_classifier, "_LEAST_AGREEMENT", 1.0)
    monkeypatch.setattr(fault_classifier, "quantize", lambda model, rows, kept=(): b"" if not kept else model)
    real = fault_classifier._likeliest
    monkeypatch.setattr(
        fault_classifier, "_likeliest", lambda model, rows: real(model, rows) if model else np.full(len(rows), -1)
    )
    made = train_recipe("fault-classifier", QUICK | {"epochs": 2}, fleet_of(3), Job(out=tmp_path / "b", model="m"))
    found = {gate.name: gate.value for gate in made.gates}
    assert found["int8_same_class"] == 1.0
    assert made.lineage["precision"] in {"mixed", "float"}


@pytest.mark.parametrize(
    ("kind", "nodes", "faults"),
    [
        ("auto", None, ("normal", "inner", "outer")),
        ("trees", {"TreeEnsembleRegressor"}, ("normal", "inner", "outer")),
        ("trees", {"TreeEnsembleRegressor"}, ("normal", "outer")),
    ],
)
def test_trees_alone_or_with_nets_name_faults_and_are_loud_or_quiet_alike(
    kind: str, nodes: set[str] | None, faults: tuple[str, ...], tmp_path: Path
) -> None:
    lives = [machine(seed, fault) for seed in range(3) for fault in faults]
    out = tmp_path / "bundle"
    made = train_recipe("fault-classifier", QUICK | {"model": kind, "epochs": 4}, lives, Job(out=out, model="fault"))
    grown = {node.op_type for node in onnx.load(out / MODEL_FILE).graph.node} & {"TreeEnsembleRegressor"}
    assert grown == (
        nodes if nodes is not None else ({"TreeEnsembleRegressor"} if made.lineage["trees_share"] != "0.00" else set())
    )
    assert {f"macro_auroc_{each}" for each in (("nets", "trees") if kind == "auto" else (kind,))} <= set(made.lineage)
    loaded = load_bundle(out)
    self_test(loaded)
    unseen = [machine(60 + seed, fault) for seed in range(2) for fault in faults]
    right = []
    for each in unseen:
        windows = each.samples.reshape(-1, 256, 1)
        found = loaded.evaluate(windows).scores
        assert found.labels is not None
        right += [name == str(each.meta["machine"]).split("-")[0] for name in found.labels]
        np.testing.assert_allclose(loaded.evaluate(windows * np.float32(50)).scores.score, found.score, atol=0.05)
    assert np.mean(right) > 0.75


@given(st.integers(256, 3000), st.integers(1, 3), st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_the_graph_computes_the_spectrum_of_the_envelope_that_training_saw(
    samples: int, channels: int, seed: int
) -> None:
    x = np.random.default_rng(seed).standard_normal((3, samples, channels)).astype(np.float32)
    plan, graph = plan_envelopes(samples), Graph()
    graph.add("Transpose", ["input"], "by_channel", perm=[0, 2, 1])
    graph.add("Identity", [add_envelopes(graph, plan, "by_channel", channels, samples)], "output")
    wanted = plan.apply(x)
    model = graph.model(["n", samples, channels], ["n", wanted.shape[1]])
    np.testing.assert_allclose(open_session(model).run(["output"], {"input": x})[0], wanted, atol=5e-3)


def test_a_line_of_the_envelope_is_seen_at_its_frequency() -> None:
    time = np.arange(2048) / 12_000
    noise = np.random.default_rng(0).standard_normal((2, 2048))
    x = (noise * (1 + 0.9 * np.sin(2 * np.pi * 107 * time) * np.array([[0.0], [1.0]]))).astype(np.float32)[:, :, None]
    plan = plan_envelopes(2048)
    quiet, modulated = plan.apply(x)
    groups = plan.groups.shape[1]
    rise = (modulated - quiet)[:groups]
    place = 107 * plan.points * plan.pool / 12_000
    assert plan.groups[int(np.argmin(np.abs(plan.bins - place))), int(rise.argmax())] > 0


def test_recordings_come_to_one_rate_and_the_grid_of_a_converter_is_hidden() -> None:
    fine, coarse = machine(1, "normal", step=0.001), machine(2, "inner", step=0.05)
    fast = machine(3, "outer", rate_hz=16_000.0)
    data = read_labelled([fine, coarse, fast], "fault", 256, 0.0, seed=0)
    assert data.rate_hz == 4000.0
    assert data.samples.shape[1:] == (256, 1)
    for each in range(3):
        values = data.samples[data.machine == each].reshape(-1)
        for step in (0.001, 0.05):  # on a grid the rest of the division would be near 0 or 1
            rest = np.mod(values.astype(np.float64) / step, 1.0)
            assert np.histogram(rest, bins=10, range=(0, 1))[0].max() < 0.13 * len(rest)


def test_machines_are_divided_never_windows() -> None:
    data = read_labelled([*fleet_of(4)[3:], machine(0, "normal")], "fault", 256, 0.0, seed=0)
    fold, alone = folds_of(data, 3, seed=1)
    assert alone == []
    assert all(len(set(fold[data.machine == each].tolist())) == 1 for each in set(data.machine.tolist()))
    for each in range(3):
        assert len(set(fold[data.classes == each].tolist())) == 3
    single = read_labelled([*[m for m in fleet_of(2) if "normal" not in str(m.meta)], machine(0, "normal")],
                           "fault", 256, 0.0, seed=0)  # fmt: skip
    fold, alone = folds_of(single, 2, seed=1)
    assert alone == ["normal"]
    assert (np.diff(fold[single.classes == single.names.index("normal")]) >= 0).all()


def unlabelled(recording: Recording) -> Recording:
    recording.meta.pop("labels")
    return recording


@pytest.mark.parametrize(
    ("code", "made"),
    [
        ("training.label", lambda: [unlabelled(machine(0, "normal")), machine(1, "inner")]),
        ("training.label", lambda: [machine(0, "outer"), machine(1, "inner")]),
        ("training.repeated", lambda: [machine(0, "normal"), machine(1, "inner"), machine(0, "normal")]),
        ("training.too_little", lambda: [machine(0, "normal").part(slice(0, 1)), machine(1, "inner")]),
        ("training.too_little", list),
    ],
)
def test_what_teaches_nothing_is_refused(code: str, made: Any, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        train_recipe("fault-classifier", QUICK, made(), Job(out=tmp_path / "out", model="m"))
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()


def test_labels_that_mean_nothing_do_not_pass_the_gates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fault_classifier, "_LEAST_STEPS", 1)

    def relabelled(seed: int) -> Recording:
        made = machine(seed, "normal")
        made.meta["labels"] = {"fault": ("normal", "inner")[seed % 2]}
        return made

    with pytest.raises(TrainingError) as caught:
        train_recipe("fault-classifier", QUICK, [relabelled(s) for s in range(6)], Job(out=tmp_path / "o", model="m"))
    assert caught.value.code == "training.gate_failed"


def test_the_temperature_makes_probabilities_honest() -> None:
    random = np.random.default_rng(0)
    honest: NDArray[Any] = random.normal(scale=2, size=(4000, 3))
    chosen = np.array([random.choice(3, p=row) for row in softmax(honest)])
    assert fit_temperature(honest * 4, chosen) == pytest.approx(4, rel=0.1)
    assert macro_auroc(honest, chosen) > 0.8

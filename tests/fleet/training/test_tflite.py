"""Recipes' models as TFLite: the same quantised numbers as in ONNX, and golden outputs by each runtime that is here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray
from typer.testing import CliRunner

from tests.fleet.training.run_sites import temperature
from tests.fleet.training.test_anomaly import machine
from tests.fleet.training.test_fault_classifier import QUICK as FAULTS
from tests.fleet.training.test_fault_classifier import fleet_of
from tests.fleet.training.test_remaining_life import QUICK as LIFE
from tests.fleet.training.test_remaining_life import machine as life_of
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.model.bundle import load_bundle
from wheeltapper_agent.model.runtimes import load_model
from wheeltapper_agent.model.self_test import self_test
from wheeltapper_fleet.cli.app import app
from wheeltapper_fleet.learning.runs.recipe_text import read_recipe
from wheeltapper_fleet.training import anomaly, autoencoder, variants
from wheeltapper_fleet.training.anomaly import train_anomaly
from wheeltapper_fleet.training.bundle_check import check_bundle
from wheeltapper_fleet.training.convnet import ConvNet, Convolution
from wheeltapper_fleet.training.convnet_onnx import Front, Regimes, Trends, quantize, run, to_onnx
from wheeltapper_fleet.training.desk_agent import DeskAgent
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.life_windows import trend_shapes
from wheeltapper_fleet.training.recipe_files import train_recipe
from wheeltapper_fleet.training.recipes import Job, Shown
from wheeltapper_fleet.training.runs.folder import RunFolder
from wheeltapper_fleet.training.runs.measured import Measured
from wheeltapper_fleet.training.tflite_graph import TfliteGraph
from wheeltapper_fleet.training.tflite_nets import autoencoder_to_tflite, nets_to_tflite
from wheeltapper_fleet.training.variants import formats_for
from wheeltapper_protocols.manifest.manifest import Manifest, decode_manifest
from wheeltapper_protocols.signal.recording import write_recording

BOTH = ("onnx", "tflite")
LITE = Profile(name="small", runtimes=("ai-edge-litert",))
LEGACY_AGENT = Path(__file__).resolve().parents[3] / ".venv-legacy/bin/wheeltapper-agent"
Array = NDArray[np.float32]


def lite(content: bytes, windows: Array) -> Array:
    return load_model(content, "tflite", LITE).run(windows)


def onnx_output(content: bytes, windows: Array) -> Array:
    found: Array = autoencoder.open_session(content).run(["output"], {"input": windows})[0]
    return found


def started(net: ConvNet, seed: int) -> ConvNet:
    random = np.random.default_rng(seed)
    net.start(random)
    for bias in net.biases:
        bias += random.normal(scale=0.1, size=bias.shape).astype(np.float32)
    return net


def blocks() -> tuple[list[ConvNet], Front, Array]:
    """Means of blocks of some channels, nets that keep the order of time."""
    front = Front(np.array([[1.0, -2.0]], np.float32), np.array([[2.0, 0.5]], np.float32), 4, 3.0, (2, 0))
    forms = [Convolution(6, 3), Convolution(5, 2, dilation=2)]
    nets = [started(ConvNet(8, 2, forms, hidden=7, outputs=2), seed) for seed in range(2)]
    return nets, front, np.random.default_rng(0).normal(scale=2, size=(300, 32, 3)).astype(np.float32)


def vibration() -> tuple[list[ConvNet], Front, Array]:
    """Windows of unit size, strided convolutions, their mean over time."""
    front = Front(np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32), 1, 12.0, (0,), by_window=True)
    forms = [Convolution(8, 16, stride=4), Convolution(9, 5, stride=2)]
    nets = [started(ConvNet(256, 1, forms, hidden=16, outputs=3, average=True), seed) for seed in range(3)]
    return nets, front, np.random.default_rng(1).normal(size=(300, 256, 1)).astype(np.float32) * np.float32(7)


def trends() -> tuple[list[ConvNet], Front, Array]:
    """Operating regimes and trends; in some windows the regime of a sample is unknown."""
    random = np.random.default_rng(2)
    shapes = trend_shapes(32)
    regimes = Regimes((0, 2), np.array([[0, 0], [5, 5]], np.float32), 4.0)
    mean, scale = random.normal(size=(2, 2)), random.uniform(0.5, 1.5, size=(2, 2))
    usual = Trends(shapes, np.zeros(2 * len(shapes), np.float32), np.full(2 * len(shapes), 1.5, np.float32))
    front = Front(mean.astype(np.float32), scale.astype(np.float32), 1, 5.0, (1, 3), regimes, trends=usual)
    x = random.normal(size=(300, 32, 4)).astype(np.float32)
    x[:, ::2, [0, 2]] += 5
    x[5:8, 3, 0] = 50
    return [started(ConvNet(1, 2 * len(shapes), [Convolution(16, 1)], 12, 1), 4)], front, x


@pytest.mark.parametrize("form", [blocks, vibration, trends])
def test_the_file_holds_the_quantised_numbers_of_the_onnx_model(form: Any) -> None:
    nets, front, x = form()
    small = quantize(to_onnx(nets, front, *x.shape[1:]), x)
    content = nets_to_tflite(nets, front, x.shape[1], x.shape[2], small)
    assert content == nets_to_tflite(nets, front, x.shape[1], x.shape[2], small)
    found, wanted, exact = lite(content, x[:60]), onnx_output(small, x[:60]), run(nets, front, x[:60])
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    assert (form is trends) == np.isnan(found).any()
    assert np.nanmax(np.abs(found - wanted)) <= 0.1 * np.nanmax(np.abs(wanted - exact))  # the same rounding, to a step
    assert np.nanmax(np.abs(wanted - exact)) > 0


def test_a_layer_that_is_float_in_the_onnx_model_is_float_in_the_file() -> None:
    nets, front, x = blocks()
    exact = to_onnx(nets, front, *x.shape[1:])
    np.testing.assert_allclose(
        lite(nets_to_tflite(nets, front, 32, 3, exact), x[:9]), run(nets, front, x[:9]), atol=1e-5
    )


def test_an_autoencoder_is_the_same_in_both_formats() -> None:
    rows = np.random.default_rng(0).normal(scale=2, size=(400, 12)).astype(np.float32)
    small = autoencoder.quantize_int8(autoencoder.to_onnx(autoencoder.fit(rows, 0)), rows)
    found, wanted = lite(autoencoder_to_tflite(small), rows[:60]), onnx_output(small, rows[:60])
    assert np.abs(found - wanted).max() < 0.02 * wanted.std()


def test_an_autoencoder_that_8_bits_spoil_stays_in_floating_point_in_both_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    usual = decode_manifest((bundle / "manifest.json").read_bytes()).lineage
    assert usual["precision"] == "int8"
    assert "a window here, float" in usual["precision_why"]
    real = autoencoder.quantize_int8
    monkeypatch.setattr(autoencoder, "quantize_int8", lambda model, rows: real(model, 1e-3 * rows[:3]))
    monkeypatch.setattr(anomaly, "_ATTEMPTS", 1)
    monkeypatch.setattr(autoencoder, "_CALIBRATION_SHIFTS", (0.0,))
    made = both(tmp_path / "b")
    assert made.lineage["precision"] == "float"
    assert "8 bits differ by" in made.lineage["precision_why"]
    gate = next(each for each in made.gates if each.name == "int8_agreement")
    assert gate.passed
    assert gate.value < 1e-3
    self_test(load_bundle(tmp_path / "b", LITE))


def test_two_tensors_of_one_name_are_refused() -> None:
    graph = TfliteGraph()
    graph.tensor("x", (1, 2))
    with pytest.raises(ValueError, match="two tensors 'x'"):
        graph.tensor("x", (1, 3))


def both(out: Path, shown: Shown | None = None) -> Manifest:
    return train_anomaly([machine(seed=1), machine(seed=2)], healthy_fraction=0.5, out=out, formats=BOTH, shown=shown)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tflite") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WHEELTAPPER_AGENTS", raising=False)
        folder = RunFolder(out.parent / "run")
        both(out, Measured(folder))
    assert set(folder.plot_files()) == {"alarm-budget", "scores"}
    return out


def test_a_release_claims_the_runtimes_whose_golden_outputs_were_made(bundle: Path) -> None:
    manifest = decode_manifest((bundle / "manifest.json").read_bytes())
    assert manifest.runtimes is not None
    assert manifest.variants is not None
    assert [each.name for each in manifest.runtimes] == ["onnxruntime"]
    assert [each.name for each in manifest.variants[0].runtimes] == ["ai-edge-litert"]
    assert manifest.lineage["runtimes_not_checked"] == "tflite-runtime"
    assert {"ai-edge-litert_agreement", "tflite_bytes"} <= {gate.name for gate in manifest.gates}
    assert {path.name for path in bundle.iterdir()} == {
        "golden-ai-edge-litert.npz", "golden.npz", "manifest.json", "model.onnx", "model.tflite",
    }  # fmt: skip
    on_a_small_board, usual = load_bundle(bundle, LITE), load_bundle(bundle)
    assert (on_a_small_board.manifest.runtime, usual.manifest.runtime) == ("tflite", "onnx")
    self_test(on_a_small_board)
    windows = machine(seed=9, fault_from=30).samples
    scores = [each.evaluate(windows).scores.score for each in (on_a_small_board, usual)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=0.05, atol=0.05)
    report = check_bundle(bundle, [DeskAgent()])
    assert report.runtimes == ["onnxruntime", "ai-edge-litert"]
    assert not report.failed
    assert not report.missing


def test_without_a_runtime_or_with_a_wrong_file_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    files = {name: (bundle / name).read_bytes() for name in ("model.onnx", "golden.npz")}
    made = decode_manifest((bundle / "manifest.json").read_bytes())
    width = len(made.features)
    wrong = autoencoder.to_onnx([autoencoder.Layer(np.eye(width, dtype=np.float32), np.ones(width, np.float32))])
    content = autoencoder_to_tflite(autoencoder.quantize_int8(wrong, np.ones((20, width), np.float32)))
    kept = [each for each in made.files if each.name in files]
    plain = replace(made, variants=None, runtimes=None, files=kept)
    with pytest.raises(TrainingError) as caught:
        variants.with_tflite(plain, files, content)
    assert caught.value.code == "training.gate_failed"
    monkeypatch.setattr(variants, "desk_agents", list)
    with pytest.raises(TrainingError) as missing:
        both(tmp_path / "none")
    assert missing.value.code == "training.runtime"
    assert not (tmp_path / "none").exists()


def test_faults_by_nets_are_made_too(tmp_path: Path) -> None:
    warned: list[str] = []
    job = Job(out=tmp_path / "faults", model="faults", formats=BOTH, warn=warned.append)
    made = train_recipe("fault-classifier", FAULTS | {"epochs": 4}, fleet_of(3), job)
    assert made.variants is not None
    self_test(load_bundle(tmp_path / "faults", LITE))
    assert not warned


@pytest.mark.slow
def test_lives_by_nets_are_made_too(tmp_path: Path) -> None:
    lives = [life_of(seed, 6, seed % 3) for seed in range(12)]
    job = Job(out=tmp_path / "life", model="life", formats=BOTH)
    made = train_recipe("remaining-life", LIFE | {"epochs": 4, "model": "nets"}, lives, job)
    assert made.variants is not None
    self_test(load_bundle(tmp_path / "life", LITE))


def test_trees_stay_in_onnx_and_the_manifest_says_so(tmp_path: Path) -> None:
    warned: list[str] = []
    job = Job(out=tmp_path / "b", model="faults", formats=BOTH, warn=warned.append)
    made = train_recipe("fault-classifier", FAULTS | {"model": "trees"}, fleet_of(3), job)
    assert made.variants is None
    assert made.lineage["tflite"].startswith("no TFLite file: trees")
    assert warned == [made.lineage["tflite"]]


def test_formats_follow_from_the_boards_unless_they_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert formats_for([], []) == ("onnx",)
    assert formats_for([], ["raspberry-pi-5"]) == ("onnx",)
    assert formats_for([], ["raspberry-pi-5", "raspberry-pi-3"]) == BOTH
    assert formats_for(["onnx"], ["raspberry-pi-3"]) == ("onnx",)
    with pytest.raises(TrainingError) as caught:
        formats_for([], ["toaster"])
    assert caught.value.code == "recipe.board"
    base = 'recipe = "anomaly"\nmodel = "m"\n{}\n[data]\ndataset = "d@1"\n'
    assert read_recipe(base.format('boards = ["raspberry-pi-3"]')).boards == ["raspberry-pi-3"]
    for wrong in ('formats = ["tflite"]', 'formats = ["onnx", "keras"]', "boards = [3]"):
        with pytest.raises(TrainingError) as refused:
            read_recipe(base.format(wrong))
        assert refused.value.code == "recipe.malformed"


def command(*words: object) -> Any:
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_commands_make_both_formats_or_say_that_a_recipe_cannot(tmp_path: Path) -> None:
    write_recording(machine(seed=3), tmp_path / "one.npz")
    line = ["train", "anomaly", "--recording", tmp_path / "one.npz", "--healthy-fraction", 1, "--tflite"]
    made = command(*line, "--out", tmp_path / "both")
    assert "ai-edge-litert_agreement" in {gate["name"] for gate in made["gates"]}
    assert (tmp_path / "both" / "model.tflite").exists()
    write_recording(temperature(1), tmp_path / "slow.npz")
    recipe = 'recipe = "slow-signal"\nmodel = "m"\nformats = ["onnx", "tflite"]\n[train]\nworkers = 2\n'
    (tmp_path / "recipe.toml").write_text(recipe + '[data]\nrecordings = ["slow.npz"]\n')
    warnings = command("train", "recipe", tmp_path / "recipe.toml", "--out", tmp_path / "b")["warnings"]
    assert any("one process trains here" in each for each in warnings)
    assert any("makes no TFLite file" in each for each in warnings)


@pytest.mark.slow
@pytest.mark.skipif(not LEGACY_AGENT.exists(), reason="make test-legacy has not made its environment")
def test_an_agent_of_another_environment_adds_its_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHEELTAPPER_AGENTS", os.fspath(LEGACY_AGENT))
    made = both(tmp_path / "both")
    assert made.variants is not None
    assert [each.name for each in made.variants[0].runtimes] == ["ai-edge-litert", "tflite-runtime"]
    assert "runtimes_not_checked" not in made.lineage
    legacy = DeskAgent(os.fspath(LEGACY_AGENT))
    entries = {each["runtime"]: each for each in legacy.check(tmp_path / "both", profile="raspberry-pi-3")}
    assert entries["tflite-runtime"]["metrics"]["output_error"] == 0
    report = check_bundle(tmp_path / "both", [DeskAgent(), legacy], profiles=["raspberry-pi-3"])
    assert {"board_raspberry-pi-3", "board_raspberry-pi-3_model_mb"} <= {gate.name for gate in report.gates}
    assert report.runtimes == ["onnxruntime", "ai-edge-litert", "tflite-runtime"]
    assert not report.missing

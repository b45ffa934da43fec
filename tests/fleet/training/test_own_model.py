"""``wheeltapper bundle init`` and ``check``: somebody's model becomes a bundle that runs, or is refused with advice."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.fleet.training.own_models import (
    WINDOW,
    level_score,
    life_by_level,
    machine,
    net,
    peak_classifier,
    reconstruction,
    write_machines,
)
from wheeltapper_fleet.cli.app import main
from wheeltapper_fleet.training.bundles import break_golden
from wheeltapper_fleet.training.desk_agent import DeskAgent
from wheeltapper_protocols.manifest.manifest import Manifest, decode_manifest
from wheeltapper_protocols.signal.recording import write_recording

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`wheeltapper bundle …` in this process: exit code, standard output, the end of standard error."""

    def run_line(*line: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wheeltapper", "bundle", *map(str, line)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run_line


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings each of normal machines and of machines with a fault of the inner race."""
    return write_machines(tmp_path_factory.mktemp("machines"), "normal", "inner")


def saved(tmp_path: Path, content: bytes, name: str = "model.onnx") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def made(run: Run, tmp_path: Path, *options: object) -> tuple[Manifest, dict[str, Any]]:
    """The bundle that ``init`` makes, and its answer."""
    code, out, err = run("init", "--out", tmp_path / "bundle", "--json", *options)
    assert code == 0, err
    return decode_manifest((tmp_path / "bundle" / "manifest.json").read_bytes()), json.loads(out)


def test_a_classifier_of_samples_runs_after_one_command(run: Run, tmp_path: Path, machines: Path) -> None:
    model = saved(tmp_path, peak_classifier())
    manifest, answer = made(run, tmp_path, "--model", model, "--data", machines, "--classes", "normal,inner")
    assert (manifest.task, manifest.raw is not None, manifest.features) == ("classification", True, [])
    assert manifest.classification is not None
    assert (manifest.classification.normal, manifest.classification.output) == (["normal"], "probabilities")
    assert manifest.raw is not None
    assert (manifest.raw.center, manifest.raw.scale) == ([0.0], [1.0])  # found: standardised it would be wrong
    gates = {gate["name"]: gate for gate in answer["gates"]}
    assert gates["balanced_accuracy"]["value"] > 0.95
    assert {"finite", "calibration_error", "false_alert_rate", "faulty_alerted", "sites_apart"} <= set(gates)
    assert {"golden_onnxruntime", "latency_p95_ms_onnxruntime", "memory_mb_onnxruntime", "model_bytes"} <= set(gates)
    assert answer["runtimes"] == ["onnxruntime"]
    assert manifest.drift is not None
    code, out, _ = run("check", tmp_path / "bundle")
    assert (code, "FAILED" in out) == (0, False)
    code, _, err = run(
        "init", "--model", model, "--data", machines, "--classes", "normal,inner", "--out", tmp_path / "bundle"
    )
    assert (code, err.endswith("[training.out_exists]\n")) == (2, True)


def test_scaling_is_found_from_the_data_or_asked(run: Run, tmp_path: Path, machines: Path) -> None:
    loud = np.concatenate([machine(kind, seed).samples for kind, seed in ALL])
    model = saved(tmp_path, peak_classifier(deviation=float(loud.std())))
    manifest, answer = made(run, tmp_path, "--model", model, "--data", machines, "--classes", "normal,inner")
    assert manifest.raw is not None
    assert manifest.raw.scale[0] == pytest.approx(float(loud.std()), rel=1e-3)
    assert any("scaling of the model's input is standard" in note for note in answer["notes"])
    # A score that both scalings make equally good: the data does not say, so a script must.
    score = saved(tmp_path, level_score(), "score.onnx")
    options = ("--model", score, "--data", machines, "--task", "score", "--input", "flat")
    code, _, err = run("init", "--out", tmp_path / "b", *options)
    assert (code, "--scaling" in err, err.endswith("[bundle.question]\n")) == (2, True, True)
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_the_three_other_tasks(run: Run, tmp_path: Path, machines: Path) -> None:
    score = saved(tmp_path, level_score(), "score.onnx")
    manifest, answer = made(
        run, tmp_path / "s", "--model", score, "--data", machines, "--task", "score", "--scaling", "none"
    )
    assert manifest.anomaly is not None
    assert (manifest.anomaly.output, manifest.anomaly.threshold > 0.5) == ("score", True)
    assert {"auroc", "false_alert_rate", "faulty_alerted"} <= {gate["name"] for gate in answer["gates"]}
    again = saved(tmp_path, reconstruction(-0.9, 0.9), "rec.onnx")
    manifest, _ = made(run, tmp_path / "r", "--model", again, "--data", machines, "--scaling", "none")
    assert (manifest.task, manifest.anomaly is not None and manifest.anomaly.output) == ("anomaly", "reconstruction")
    life = saved(tmp_path, life_by_level(), "life.onnx")
    worn = machine("normal", 5, windows=60)
    wear = np.linspace(0.6, 2.0, 60, dtype=np.float32)[:, None, None]
    worn = type(worn)(worn.samples * wear, worn.scale, worn.sample_rate_hz, worn.t_s, worn.channels, worn.units, {})
    write_recording(worn, tmp_path / "run.npz")
    slope, start = -59 / (1.4 * 0.7071), 59 * 2.0 / 1.4
    life = saved(tmp_path, life_by_level(slope, start), "life.onnx")
    manifest, answer = made(
        run, tmp_path / "l", "--model", life, "--data", f"0={tmp_path / 'run.npz'}", "--task", "remaining_life",
        "--unit", "cycles", "--warn-at", "10",
    )  # fmt: skip
    assert manifest.remaining_life is not None
    assert (manifest.remaining_life.cap, manifest.remaining_life.warn_at) == (59.0, 10.0)
    assert {"rmse"} <= {gate["name"] for gate in answer["gates"]}


def test_a_bundle_that_is_not_good_enough_is_not_written(run: Run, tmp_path: Path, machines: Path) -> None:
    wrong = saved(tmp_path, peak_classifier())
    options = ("--model", wrong, "--data", machines, "--scaling", "none", "--classes", "inner,normal")
    code, _, err = run("init", "--out", tmp_path / "b", *options)
    assert (code, "balanced_accuracy" in err, err.endswith("[bundle.gate_failed]\n")) == (2, True, True)
    assert not (tmp_path / "b").exists()


ALL = [("normal", 0), ("normal", 1), ("inner", 100), ("inner", 101)]
"""The machines of the fixture."""


def same(operator: str = "Identity", shape: tuple[object, ...] = ("n", WINDOW, 1), domain: str = "") -> bytes:
    """A model whose output has its input's shape."""
    return net([helper.make_node(operator, ["x"], ["y"], domain=domain)], list(shape), list(shape))


def greedy() -> bytes:
    """A model that makes 64 GB of zeros."""
    nodes = [
        helper.make_node("ConstantOfShape", ["big"], ["c"]),
        helper.make_node("ReduceSum", ["c"], ["s"], keepdims=0),
        helper.make_node("Add", ["x", "s"], ["y"]),
    ]
    return net(nodes, ["n", WINDOW, 1], ["n", WINDOW, 1], big=np.array([2**34], np.int64))


def nowhere() -> bytes:
    """A model with a weight that is no number."""
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    return net(nodes, ["n", WINDOW, 1], ["n", WINDOW, 1], w=np.float32("nan"))


HOSTILE = [
    ("empty", b"", "bundle.model"),
    ("truncated", peak_classifier()[:200], "runtime.load"),
    ("text", b"not a model at all", "runtime.load"),
    ("nan", nowhere(), "bundle.not_finite"),
    ("operator", same("NoSuchOperator", domain="evil"), "runtime.load"),
    ("shape", same(shape=("n", 7, 9)), "bundle.input"),
    ("batch", same(shape=(8, WINDOW, 1)), "runtime.shape"),
    ("huge", greedy(), "runtime."),
]


@pytest.mark.parametrize(("content", "code"), [each[1:] for each in HOSTILE], ids=[each[0] for each in HOSTILE])
def test_a_model_that_no_device_could_run_is_refused(
    run: Run, tmp_path: Path, machines: Path, content: bytes, code: str
) -> None:
    model = saved(tmp_path, content)
    options = ("--model", model, "--data", machines, "--scaling", "none", "--task", "reconstruction")
    status, out, err = run("init", "--out", tmp_path / "b", *options)
    assert (status in (1, 2), out) == (True, "")
    assert f"[{code}" in err.splitlines()[-1], err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]


def test_weights_in_other_files_and_outputs_that_are_no_numbers_are_refused(
    run: Run, tmp_path: Path, machines: Path
) -> None:
    model = onnx.load_from_string(peak_classifier())
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    tensor.ClearField("raw_data")
    options = ("--data", machines, "--out", tmp_path / "b", "--classes", "normal,inner")
    code, _, err = run("init", "--model", saved(tmp_path, model.SerializeToString()), *options)
    assert (code, err.endswith("[runtime.external_data]\n")) == (2, True)
    whole = onnx.load_from_string(peak_classifier())
    whole.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    code, _, err = run("init", "--model", saved(tmp_path, whole.SerializeToString()), *options)
    assert (code, err.endswith("[bundle.output]\n")) == (2, True)


def two_outputs() -> bytes:
    """A classifier with its logits as a second output."""
    model = onnx.load_from_string(peak_classifier())
    model.graph.output.append(helper.make_tensor_value_info("l", onnx.TensorProto.FLOAT, ["n", 2]))
    return bytes(model.SerializeToString())


def test_what_is_open_is_asked_on_a_terminal(
    run: Run, tmp_path: Path, machines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(tmp_path, two_outputs())
    options = ("--model", model, "--data", machines, "--out", tmp_path / "b")
    code, _, err = run("init", *options)
    assert (code, "--output (y, l)" in err, err.endswith("[bundle.question]\n")) == (2, True, True)
    asked: list[str] = []

    def answer(text: str, **_: object) -> str:
        asked.append(text)
        return {"output": "l", "classes": "normal, inner"}[text.rpartition("--")[2].rstrip(")")]

    monkeypatch.setattr("typer.prompt", answer)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    code, _, err = run("init", *options)
    assert (code, len(asked)) == (0, 2), err
    manifest = decode_manifest((tmp_path / "b" / "manifest.json").read_bytes())
    assert manifest.classification is not None
    assert (manifest.output, manifest.classification.output) == ("l", "logits")


def test_check_finds_what_a_device_finds_and_computes_gates_anew(run: Run, tmp_path: Path, machines: Path) -> None:
    model = saved(tmp_path, peak_classifier())
    made(run, tmp_path, "--model", model, "--data", machines, "--classes", "normal,inner")
    bundle = tmp_path / "bundle"
    fresh = write_machines(tmp_path / "fresh", "normal", "inner", first=1000)
    before = (bundle / "manifest.json").read_bytes()
    compared = ("--profile", "x86-gateway", "--champion", bundle)
    code, out, err = run("check", bundle, "--data", fresh, *compared, "--write", "--json")
    assert (code, (bundle / "manifest.json").read_bytes() != before) == (0, True), err
    gates = {gate["name"]: gate for gate in json.loads(out)["gates"]}
    assert {"board_x86-gateway", "against_champion", "drift_of_healthy"} <= set(gates)
    assert gates["board_x86-gateway_model_mb"]["limit"] == 64
    assert gates["board_x86-gateway"]["limit"] <= 50
    assert gates["against_champion"]["value"] == 0.0
    # Labels the wrong way round: the file's gates say all is well, the data says otherwise.
    wrong = [f"inner={fresh / 'normal-0.npz'}", f"normal={fresh / 'inner-0.npz'}"]
    code, out, err = run("check", bundle, "--data", wrong[0], "--data", wrong[1])
    assert (code, "FAILED  balanced_accuracy" in out, err.endswith("[bundle.gate_failed]\n")) == (2, True, True)
    break_golden(bundle)
    code, _, err = run("check", bundle)
    assert (code, "[self_test." in err) == (2, True)


@pytest.mark.parametrize(
    ("budget", "gate"), [("max_model_mb", "board_x86-gateway_model_mb"), ("max_window_ms", "board_x86-gateway")]
)
def test_a_model_beyond_a_boards_budget_is_refused(
    run: Run, tmp_path: Path, machines: Path, monkeypatch: pytest.MonkeyPatch, budget: str, gate: str
) -> None:
    made(run, tmp_path, "--model", saved(tmp_path, peak_classifier()), "--data", machines, "--classes", "normal,inner")
    assert DeskAgent().board("x86-gateway")["memory_cap_mb"] == 1024
    assert DeskAgent().board("no-such-board") == {}
    monkeypatch.setattr(
        DeskAgent, "board", lambda self, name: {"name": name, budget: -1.0}
    )  # a fast model takes 0 ms of processor time
    code, out, err = run("check", tmp_path / "bundle", "--profile", "x86-gateway")
    assert (code, f"FAILED  {gate}" in out, err.endswith("[bundle.gate_failed]\n")) == (2, True, True)


def test_a_claimed_runtime_that_nobody_has_is_not_passed_over(run: Run, tmp_path: Path, machines: Path) -> None:
    model = saved(tmp_path, peak_classifier())
    options = ("--model", model, "--data", machines, "--classes", "normal,inner", "--out", tmp_path / "bundle")
    code, _, err = run("init", *options, "--agent", str(tmp_path / "no-agent"))
    assert (code, err.endswith("[bundle.no_agent]\n")) == (2, True)
    code, _, err = run("init", *options, "--claim", "tflite-runtime")
    assert (code, err.endswith("[bundle.untested]\n") or "runtime" in err) == (2, True)
    assert not (tmp_path / "bundle").exists()


def test_gates_come_from_the_test_side_of_a_dataset(
    run: Run, tmp_path: Path, machines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each label is a version; the newest has all machines, divided by machine."""
    store = ("--store", str(tmp_path / "store"))
    for kind, more in (("normal", ()), ("inner", ("--base", "own", "--assign", "inner-100=test"))):
        files = [str(machines / f"{kind}-{number}.npz") for number in (0, 1)]
        sides = ("--split", "train=0.5", "--split", "test=0.5", "--assign", "normal-0=test")
        line = ["wheeltapper", "dataset", "import", "own", *files, "--label", f"fault={kind}", *more, *sides, *store]
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, capsys.readouterr().err
    capsys.readouterr()
    model = saved(tmp_path, peak_classifier())
    options = ("--model", model, "--dataset", "own", *store, "--classes", "normal,inner", "--scaling", "none")
    manifest, answer = made(run, tmp_path, *options)
    judged_on = {name: value for name, value in manifest.lineage.items() if name.startswith("judged-on-")}
    assert (judged_on["judged-on-dataset"], judged_on["judged-on-dataset_side"]) == ("own@2", "test")
    assert {"judged-on-0", "judged-on-1"} <= set(judged_on)
    assert "judged-on-2" not in judged_on  # the other machines are on the side train
    assert any(gate["name"] == "balanced_accuracy" and gate["passed"] for gate in answer["gates"])

"""Quantisation: what is lost is measured on other windows, layers that lose most stay, and the faster model is kept."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.fleet.training.own_models import net, write_machines
from tests.fleet.training.test_own_model import Run, run, saved
from wheeltapper_fleet.training import quantize
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.quantize import layers_of, quantise, quantised

__all__ = ["run"]


def dense(*sizes: int, last_scale: float = 1.0, seed: int = 0) -> bytes:
    """A network of dense layers with random weights."""
    random = np.random.default_rng(seed)
    nodes, value = [], "x"
    constants: dict[str, Any] = {}
    for number, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        weights = random.normal(size=(rows, columns)) / np.sqrt(rows)
        constants |= {f"w{number}": weights.astype(np.float32), f"b{number}": np.zeros(columns, np.float32)}
        last = number == len(sizes) - 2
        inputs = [value, f"w{number}", f"b{number}"]
        nodes.append(helper.make_node("Gemm", inputs, ["y" if last else f"l{number}"], f"dense{number}"))
        if not last:
            nodes.append(helper.make_node("Relu", [f"l{number}"], [f"h{number}"], f"relu{number}"))
            value = f"h{number}"
    return net(nodes, ["n", sizes[0]], ["n", sizes[-1]], **constants)


def rows(count: int = 200, width: int = 16, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def test_weights_are_quantised_per_channel_in_the_form_of_all_runtimes() -> None:
    model = quantise(dense(16, 8, 4), rows())
    graph = onnx.load_from_string(model).graph
    kinds = {node.op_type for node in graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert "QLinearMatMul" not in kinds
    scales = [each for each in graph.initializer if each.name.endswith("_scale") and "w0" in each.name]
    assert [list(each.dims) for each in scales] == [[8]]


def test_the_layer_that_loses_most_stays_in_floating_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "latency_ms", lambda models, row: [2.0, 1.0])  # 8 bits are faster
    model, all_ = dense(16, 8, 8, 4), rows(400)
    whole = quantised(model, all_[:200], all_[200:])
    assert (whole.kept, whole.float_layers, whole.loss == whole.full_loss) == ("int8", (), True)
    told: list[str] = []
    strict = quantised(model, all_[:200], all_[200:], limit=0.9 * whole.loss, say=told.append)
    assert (strict.kept, len(strict.float_layers)) == ("mixed", len(told) - 1)
    assert strict.loss <= 0.9 * whole.loss < whole.loss
    left = [node.name for node in onnx.load_from_string(strict.content).graph.node if node.op_type == "Gemm"]
    assert set(strict.float_layers) <= set(left)
    never = quantised(model, all_[:200], all_[200:], limit=1e-6)
    assert (never.kept, never.content == model, "lose" in never.why) == ("float", True, True)


def test_the_faster_model_is_kept_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model, all_ = dense(16, 8, 4), rows(400)
    monkeypatch.setattr(quantize, "latency_ms", lambda models, row: [1.0, 2.0])  # 8 bits are slower
    slower = quantised(model, all_[:200], all_[200:])
    assert (slower.kept, slower.content == model) == ("float", True)
    assert "float is kept" in slower.why
    assert quantised(model, all_[:200], all_[200:], smaller=True).kept == "int8"
    monkeypatch.undo()
    measured = quantize.latency_ms([model, slower.content], all_[:1])
    assert all(0 < each < 1000 for each in measured)


def test_ranges_come_from_the_calibration_windows_alone() -> None:
    model, quiet = dense(16, 8, 4), rows()
    assert quantise(model, quiet) == quantise(model, quiet)
    assert quantise(model, quiet) != quantise(model, 10 * quiet)
    apart = quantised(model, quiet, 10 * quiet, smaller=True, limit=10.0)
    assert (
        apart.loss > 5 * quantised(model, quiet, rows(seed=2), smaller=True, limit=10.0).loss
    )  # windows beyond the ranges


def test_what_cannot_be_quantised_is_refused() -> None:
    with pytest.raises(TrainingError) as caught:
        quantised(net([helper.make_node("Identity", ["x"], ["y"])], ["n", 16], ["n", 16]), rows(), rows())
    assert caught.value.code == "quantize.input"
    with pytest.raises(TrainingError) as caught:
        quantised(dense(16, 8)[:80], rows(), rows())
    assert caught.value.code == "quantize.input"
    assert layers_of(dense(16, 8, 4)) == ["dense0", "dense1"]


def test_the_command_quantises_on_recordings(run: Run, tmp_path: Path) -> None:
    machines = write_machines(tmp_path / "machines", "normal", "inner")
    model = saved(tmp_path, dense(512, 16, 2))
    options = ("--model", model, "--data", machines, "--scaling", "standard", "--limit", "1", "--json")
    code, out, err = run("quantize", *options, "--out", tmp_path / "int8.onnx", "--smaller")
    assert code == 0, err
    answer = json.loads(out)
    assert (answer["kept"], answer["int8_bytes"] < answer["float_bytes"]) == ("int8", True)
    assert (tmp_path / "int8.onnx").stat().st_size == answer["int8_bytes"]
    code, _, err = run("quantize", *options, "--out", tmp_path / "int8.onnx")
    assert (code, err.endswith("[training.out_exists]\n")) == (2, True)


@pytest.mark.slow
def test_init_compares_a_quantised_model_with_its_float_model(run: Run, tmp_path: Path) -> None:
    machines = write_machines(tmp_path / "machines", "normal", "inner")
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["s"]),
        helper.make_node("MatMul", ["s", "w"], ["y"], "mean"),
    ]
    model = saved(tmp_path, net(nodes, ["n", 512], ["n", 1], w=np.full((512, 1), 1 / 512, np.float32)))
    scaled = ("--data", machines, "--scaling", "standard", "--input", "flat")
    code, _, err = run("quantize", "--model", model, *scaled, "--out", tmp_path / "int8.onnx", "--smaller", "--json")
    assert code == 0, err
    options = ("--task", "score", "--float-model", model, "--out", tmp_path / "bundle", "--json")
    code, out, err = run("init", "--model", tmp_path / "int8.onnx", *scaled, *options)
    gates = {gate["name"]: gate for gate in json.loads(out)["gates"]} if out else {}
    assert {"int8_agreement", "int8_against_float"} <= set(gates), err

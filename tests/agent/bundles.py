"""Small real bundles: an identity network in ONNX, the default features, golden vectors computed here."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from wheeltapper_agent.adapters.simulator import Machine
from wheeltapper_agent.config import SimulatorConfig
from wheeltapper_protocols.decision import DecisionSpec
from wheeltapper_protocols.features import FeatureSet, default_specs
from wheeltapper_protocols.manifest import Budget, BundleFile, Golden, Input, Manifest, encode_manifest
from wheeltapper_protocols.scoring import Scorer, ScoringSpec

SMALL = SimulatorConfig(window_samples=1024, interval_seconds=1.0, time_scale=50.0)


def network(gain: float = 0.5, fails: bool = False) -> bytes:
    """output = gain * input; a network that fails divides an integer reshaping at run time."""
    nodes = [helper.make_node("Mul", ["input", "gain"], ["output"])]
    initial = [helper.make_tensor("gain", TensorProto.FLOAT, [1], [gain])]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, None])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [None, None])],
        initial,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    onnx.checker.check_model(model)
    return content


def make_bundle(
    release: int = 1,
    config: SimulatorConfig = SMALL,
    gain: float = 0.5,
    golden_error: float = 0.0,
    model: str = "bearing",
    **changes: Any,
) -> dict[str, bytes]:
    """The files of a bundle by name, ``manifest.json`` among them."""
    channels, units = ["horizontal", "vertical"], ["g", "g"]
    specs = default_specs(config.sample_rate_hz, channels)
    features = FeatureSet(specs, config.sample_rate_hz, config.window_samples, 2)
    machine = Machine(config)
    samples = np.stack([machine.window(index, index * 10.0) for index in range(24)])
    table = np.asarray(features.compute(samples), dtype=np.float64)
    scoring = ScoringSpec(
        transform=["affine"] * table.shape[1],
        center=table.mean(axis=0).tolist(),
        scale=np.maximum(table.std(axis=0), 1e-6).tolist(),
        weight=[1.0] * table.shape[1],
        down=[0.5] * table.shape[1],
        threshold=2.0,
    )
    scorer = Scorer(scoring, tuple(features.names))
    model_input = scorer.model_input(features.compute(samples[:8]))
    model_output = (model_input * np.float32(gain)).astype(np.float32)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        samples=samples[:8],
        model_input=model_input,
        model_output=model_output + np.float32(golden_error),
        score=scorer.score(model_input, model_output).score,
    )
    files = {"model.onnx": network(gain), "golden.npz": buffer.getvalue()}
    fields: dict[str, Any] = {
        "model": model,
        "release": release,
        "created_at": "2026-01-01T00:00:00Z",
        "files": [
            BundleFile(name=name, sha256=hashlib.sha256(content).hexdigest(), length=len(content))
            for name, content in files.items()
        ],
        "input": Input(
            sample_rate_hz=config.sample_rate_hz, window_samples=config.window_samples, channels=channels, units=units
        ),
        "features": specs,
        "scoring": scoring,
        "decision": DecisionSpec(),
        "golden": Golden(output_atol=1e-3, score_rtol=1e-2),
        "budget": Budget(latency_p95_ms=500.0, rss_growth_mb=500.0),
    }
    files["manifest.json"] = encode_manifest(Manifest(**(fields | changes)))
    return files


def write_bundle(folder: Path, files: dict[str, bytes]) -> Path:
    """Put the files into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder

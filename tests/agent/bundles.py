"""Small bundles of the task anomaly: a model that multiplies by a gain, in ONNX or TFLite, on the default features.

With ``WHEELTAPPER_TEST_RUNTIME=tflite`` bundles are for TFLite unless a test says otherwise, so that the agent's tests
run where there is no ONNX Runtime (``make test-legacy``).
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from tests.agent.tflite_writer import gain_net
from wheeltapper_agent.source.simulator import Machine, SimulatorConfig
from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.decision.scoring import Scorer, ScoringSpec
from wheeltapper_protocols.manifest.manifest import (
    MODEL_FILES,
    Budget,
    BundleFile,
    Golden,
    Input,
    Manifest,
    encode_manifest,
)
from wheeltapper_protocols.signal.features import FeatureSet, default_specs

Runtime = Literal["onnx", "tflite"]
RUNTIME: Final[Runtime] = "tflite" if os.environ.get("WHEELTAPPER_TEST_RUNTIME") == "tflite" else "onnx"
MODEL_FILE: Final = MODEL_FILES[RUNTIME]
"""The model's file in a bundle that :func:`make_bundle` makes by default."""
SMALL = SimulatorConfig(window_samples=1024, interval_seconds=1.0, time_scale=50.0)


def gain_model(gain: float = 0.5) -> bytes:
    """An ONNX model: output = gain * input."""
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Mul", ["input", "gain"], ["output"])],
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, None])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [None, None])],
        [helper.make_tensor("gain", TensorProto.FLOAT, [1], [gain])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    onnx.checker.check_model(model)
    return content


def make_bundle(
    release: int | None = 1,
    config: SimulatorConfig = SMALL,
    gain: float = 0.5,
    golden_error: float = 0.0,
    model: str = "bearing",
    runtime: Runtime = RUNTIME,
    content: bytes | None = None,
    **changes: Any,
) -> dict[str, bytes]:
    """The files of a bundle by name, with ``manifest.json``.

    Args:
        release: the release number.
        config: the simulated machine whose windows are the golden inputs.
        gain: factor from the model's input to its output.
        golden_error: added to the golden outputs; above the tolerance, the self-test fails.
        model: the name of the model.
        runtime: the runtime of the model's file.
        content: the model's file; by default a model that multiplies by ``gain``.
        changes: fields of the manifest.
    """
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
    if content is None:
        content = gain_model(gain) if runtime == "onnx" else gain_net(table.shape[1], gain)
    files = {MODEL_FILES[runtime]: content, "golden.npz": buffer.getvalue()}
    fields: dict[str, Any] = {
        "model": model,
        "release": release,
        "runtime": runtime,
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
    """Write the files into ``folder``, which is made; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder

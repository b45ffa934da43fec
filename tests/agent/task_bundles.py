"""Small bundles of every task: ONNX models trained by scikit-learn or made by hand."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression, Ridge

from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.decision.scoring import ScoringSpec
from wheeltapper_protocols.manifest.inference_task import InferenceTask
from wheeltapper_protocols.manifest.manifest import (
    Budget,
    BundleFile,
    Classification,
    Golden,
    Input,
    Manifest,
    RawInput,
    RemainingLife,
    encode_manifest,
)
from wheeltapper_protocols.signal.features import FeatureSet, FeatureSpec, default_specs

CLASSES = ["normal", "inner", "outer"]
RAW_INPUT = Input(sample_rate_hz=1000.0, window_samples=16, channels=["x"], units=["g"])


@dataclass(frozen=True)
class Windows:
    """Windows [n, sample, channel], and the true class or value of each."""

    samples: NDArray[np.float32]
    truth: NDArray[Any]


def linear(weights: NDArray[Any], bias: NDArray[Any], last: str = "", batch: int | None = None) -> bytes:
    """A model: ``input @ weights + bias``, then the operator ``last`` (such as Softmax)."""
    nodes = [helper.make_node("Gemm", ["input", "w", "b"], ["linear" if last else "output"])]
    if last:
        nodes.append(helper.make_node(last, ["linear"], ["output"]))
    return graph(
        nodes,
        {"w": np.asarray(weights, np.float32), "b": np.asarray(bias, np.float32)},
        [batch, weights.shape[0]],
        [batch, weights.shape[1]],
    )


def graph(
    nodes: list[onnx.NodeProto],
    constants: dict[str, NDArray[Any]],
    input_shape: list[int | None],
    output_shape: list[int | None],
) -> bytes:
    """A checked ONNX model whose input is called ``input`` and whose output is called ``output``."""
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, input_shape)],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, output_shape)],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def standard_scoring(table: NDArray[Any]) -> ScoringSpec:
    """A section ``scoring`` that standardises features by the mean and deviation of ``table`` [window, feature]."""
    count = table.shape[1]
    return ScoringSpec(
        transform=["affine"] * count,
        center=table.mean(axis=0).tolist(),
        scale=np.maximum(table.std(axis=0), 1e-6).tolist(),
        weight=[1.0] * count,
        down=[1.0] * count,
        threshold=1.0,
    )


def task_bundle(onnx_model: bytes, samples: NDArray[np.float32], **fields: Any) -> dict[str, bytes]:
    """The files of a bundle; its golden vectors are computed by ``onnx_model`` and the manifest's task."""
    import onnxruntime

    golden = Golden(output_atol=1e-3, score_rtol=1e-2)
    budget = Budget(latency_p95_ms=500.0, rss_growth_mb=500.0)
    base: dict[str, Any] = {"model": "task", "release": 1, "created_at": "2026-01-01T00:00:00Z", "features": []}
    base |= {"decision": DecisionSpec(), "golden": golden, "budget": budget} | fields
    draft = Manifest(
        **base, files=[BundleFile(name=n, sha256="0" * 64, length=1) for n in ("model.onnx", "golden.npz")]
    )
    form = (draft.input.sample_rate_hz, draft.input.window_samples, len(draft.input.channels))
    table = FeatureSet(draft.features, *form).compute(samples)
    task = InferenceTask(draft)
    model_input = task.model_input(table, samples)
    session = onnxruntime.InferenceSession(onnx_model, providers=["CPUExecutionProvider"])
    output = np.concatenate([session.run(["output"], {"input": one[None]})[0] for one in model_input])
    buffer = io.BytesIO()
    score = task.read(model_input, output).score
    np.savez(buffer, samples=samples, model_input=model_input, model_output=output, score=score)
    files = {"model.onnx": onnx_model, "golden.npz": buffer.getvalue()}
    named = [
        BundleFile(name=name, sha256=hashlib.sha256(content).hexdigest(), length=len(content))
        for name, content in files.items()
    ]
    return files | {"manifest.json": encode_manifest(Manifest(**base, files=named))}


def cwru_windows(data: Path, names: dict[str, str], samples: int = 2048) -> dict[str, Windows]:
    """Windows of CWRU drive-end recordings at 48 kHz, each in its recorded resolution: {class: windows}."""
    found = {}
    with np.load(data / "cwru" / "cwru_de_int16.npz", allow_pickle=False) as archive:
        for label, name in names.items():
            x = archive[name].astype(np.float32) * np.float32(archive[f"{name}__lsb"])
            count = min(100, len(x) // samples)
            found[label] = Windows(x[: count * samples].reshape(count, samples, 1), np.array([label] * count))
    return found


def classifier(windows: dict[str, Windows], **fields: Any) -> dict[str, bytes]:
    """A logistic regression on the default features, trained on the first half of each class."""
    samples = next(iter(windows.values())).samples.shape[1]
    specs = default_specs(48_000.0, ["de"], samples)
    features = FeatureSet(specs, 48_000.0, samples, 1)
    tables = {label: features.compute(each.samples[: len(each.samples) // 2]) for label, each in windows.items()}
    scoring = standard_scoring(tables["normal"])
    x = np.concatenate(list(tables.values()))
    y = np.concatenate([[CLASSES.index(label)] * len(table) for label, table in tables.items()])
    z = np.clip((x - np.array(scoring.center)) / np.array(scoring.scale), -1000, 1000)
    model = LogisticRegression(C=1e-4, max_iter=500).fit(z, y)
    return task_bundle(
        linear(model.coef_.T, model.intercept_, "Softmax"),
        np.concatenate([each.samples[:3] for each in windows.values()]),
        task="classification",
        input=Input(sample_rate_hz=48_000.0, window_samples=samples, channels=["de"], units=["g"]),
        features=specs,
        scoring=scoring,
        classification=Classification(classes=CLASSES, normal=["normal"]),
        **fields,
    )


def raw_classifier(**changes: Any) -> dict[str, bytes]:
    """A classifier of raw samples; its logits are 0 and 8 times the mean of 16 samples."""
    fields: dict[str, Any] = {
        "task": "classification",
        "input": RAW_INPUT,
        "raw": RawInput(channels=[0], center=[0.0], scale=[1.0], layout="flat"),
        "classification": Classification(classes=["ok", "bad"], normal=["ok"], output="logits", threshold=0.5),
    }
    weights = np.zeros((16, 2))
    weights[:, 1] = 0.5
    samples = np.linspace(-1, 1, 4)[:, None, None] * np.ones((4, 16, 1))
    return task_bundle(linear(weights, np.zeros(2)), samples.astype(np.float32), **(fields | changes))


def femto_life(samples: NDArray[np.float32], **fields: Any) -> dict[str, bytes]:
    """Remaining life in hours by ridge regression on two features of one run to failure [snapshot, 2560, 2] in g."""
    specs = [
        FeatureSpec(name=f"{name}.rms", kind="rms", channel=channel)
        for channel, name in enumerate(("horizontal", "vertical"))
    ]
    table = FeatureSet(specs, 25_600.0, 2560, 2).compute(samples)
    hours = (len(samples) - 1 - np.arange(len(samples))) * 10 / 3600
    cap = float(hours.max()) * 0.6
    scoring = standard_scoring(np.log(table))
    scoring = ScoringSpec(
        transform=["log", "log"],
        center=scoring.center,
        scale=scoring.scale,
        weight=[1.0, 1.0],
        down=[1.0, 1.0],
        threshold=1.0,
    )
    z = (np.log(table) - np.array(scoring.center)) / np.array(scoring.scale)
    model = Ridge(1.0).fit(z, np.minimum(hours, cap))
    return task_bundle(
        linear(model.coef_.reshape(2, 1), np.array([model.intercept_])),
        samples[:8],
        task="remaining_life",
        input=Input(
            sample_rate_hz=25_600.0, window_samples=2560, channels=["horizontal", "vertical"], units=["g", "g"]
        ),
        features=specs,
        scoring=scoring,
        remaining_life=RemainingLife(unit="hours", cap=cap, warn_at=0.3 * cap),
        **fields,
    )

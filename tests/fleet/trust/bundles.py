"""Small bundles, of a size that is not all in one piece of an upload."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from onnx import helper

from tests.agent.onnx_nets import net, value
from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.decision.scoring import ScoringSpec
from wheeltapper_protocols.manifest.manifest import Budget, BundleFile, Gate, Golden, Input, Manifest, encode_manifest
from wheeltapper_protocols.signal.features import FeatureSpec


def model_content(number: int) -> bytes:
    """An ONNX model that adds ``number`` to its input."""
    nodes = [helper.make_node("Add", ["input", "number"], ["output"])]
    ends = [value("input", [None, 1])], [value("output", [None, 1])]
    return net(nodes, *ends, number=np.float32(number), padding=np.full(35_000, number, np.float32))


def write_bundle(folder: Path, model: str, number: int, gates: tuple[Gate, ...], content: bytes | None = None) -> None:
    """A bundle whose model differs with ``number``; ``content``: another model."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"model.onnx": content or model_content(number), "golden.npz": b"golden"}
    files = []
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        files.append(BundleFile(name=name, sha256=hashlib.sha256(content).hexdigest(), length=len(content)))
    manifest = Manifest(
        model=model,
        created_at="2026-11-23T10:00:00Z",
        files=files,
        input=Input(sample_rate_hz=25_600.0, window_samples=2560, channels=["x"], units=["g"]),
        features=[FeatureSpec(name="x.rms", kind="rms", channel=0)],
        scoring=ScoringSpec(transform=["log"], center=[0.0], scale=[1.0], weight=[1.0], down=[0.5], threshold=3.0),
        decision=DecisionSpec(),
        golden=Golden(output_atol=1e-3, score_rtol=1e-2),
        budget=Budget(latency_p95_ms=50.0, rss_growth_mb=100.0),
        gates=list(gates),
    )
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))

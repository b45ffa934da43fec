"""Small bundles: the files hold no model, only bytes that hash to what the manifest says."""

from __future__ import annotations

import hashlib
from pathlib import Path

from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.decision.scoring import ScoringSpec
from wheeltapper_protocols.manifest.manifest import Budget, BundleFile, Gate, Golden, Input, Manifest, encode_manifest
from wheeltapper_protocols.signal.features import FeatureSpec


def write_bundle(folder: Path, model: str, number: int, gates: tuple[Gate, ...]) -> None:
    """A bundle whose model differs with ``number``."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"model.onnx": b"model %d" % number * 20_000, "golden.npz": b"golden"}
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

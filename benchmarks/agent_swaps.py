"""Model swaps on a live pipeline: no window is lost, and memory stays flat.

Two releases alternate on a pipeline that keeps scoring. Each swap loads the bundle from disk as an activation does:
manifest, hashes, a new session. Memory is the resident set before and after the swaps, each time after both releases
have run for a while. The table also has the time of a swap and that of a window.

    python benchmarks/agent_swaps.py [--json]
"""

from __future__ import annotations

import gc
import hashlib
import io
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper
from rig import Row, main

from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.model.bundle import load_bundle
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_agent.source.simulator import Machine, SimulatorConfig
from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.decision.scoring import ScoringSpec
from wheeltapper_protocols.manifest.manifest import Budget, BundleFile, Golden, Input, Manifest, encode_manifest
from wheeltapper_protocols.signal.features import FeatureSet, default_specs
from wheeltapper_protocols.wire.messages import Severity, TelemetryRecord

MACHINE = SimulatorConfig(window_samples=2048)
WARM_SWAPS = 100
PAUSE_SECONDS = 0.002


def _model(width: int, gain: float) -> bytes:
    """An ONNX autoencoder of the default recipe's size: from ``width`` to 16 and back."""
    random = np.random.default_rng(int(gain * 100))
    weights = [random.normal(0, 0.1, shape).astype(np.float32) for shape in ((width, 16), (16, width))]
    nodes = [
        helper.make_node("MatMul", ["input", "down"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "up"], ["output"]),
    ]
    tensors = [
        helper.make_tensor(name, TensorProto.FLOAT, value.shape, value.ravel())
        for name, value in zip(("down", "up"), weights, strict=True)
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width]) for name in ("input", "output")]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString())


def _bundle(folder: Path, release: int) -> Path:
    channels = ["horizontal", "vertical"]
    specs = default_specs(MACHINE.sample_rate_hz, channels)
    width = len(FeatureSet(specs, MACHINE.sample_rate_hz, MACHINE.window_samples, 2).names)
    buffer = io.BytesIO()
    np.savez(buffer, samples=np.zeros((1, MACHINE.window_samples, 2), dtype=np.float32))
    files = {"model.onnx": _model(width, 0.1 * release), "golden.npz": buffer.getvalue()}
    manifest = Manifest(
        model="bearing",
        release=release,
        created_at="2026-01-01T00:00:00Z",
        files=[
            BundleFile(name=name, sha256=hashlib.sha256(content).hexdigest(), length=len(content))
            for name, content in files.items()
        ],
        input=Input(
            sample_rate_hz=MACHINE.sample_rate_hz,
            window_samples=MACHINE.window_samples,
            channels=channels,
            units=["g", "g"],
        ),
        features=specs,
        scoring=ScoringSpec(
            transform=["affine"] * width,
            center=[0.0] * width,
            scale=[1.0] * width,
            weight=[1.0] * width,
            down=[0.5] * width,
            threshold=2.0,
        ),
        decision=DecisionSpec(),
        golden=Golden(output_atol=1e-3, score_rtol=1e-2),
        budget=Budget(latency_p95_ms=100.0, rss_growth_mb=64.0),
    )
    folder.mkdir()
    for name, content in (files | {"manifest.json": encode_manifest(manifest)}).items():
        (folder / name).write_bytes(content)
    return folder


class _Source:
    """Repeats the same 32 windows as fast as they are taken, at most one every ``PAUSE_SECONDS``."""

    def __init__(self) -> None:
        machine = Machine(MACHINE)
        self._samples = [machine.window(index, index * 60.0) for index in range(32)]
        self._closed = threading.Event()
        self.spec = SourceSpec(MACHINE.sample_rate_hz, MACHINE.window_samples, ("horizontal", "vertical"), ("g", "g"))
        self.state, self.dropped, self.given = "running", 0, 0

    def windows(self, first: int) -> Iterator[Window]:
        while not self._closed.wait(PAUSE_SECONDS):
            self.given += 1
            yield Window(self._samples[self.given % 32], float(first + self.given))

    def model_ready(self) -> None:
        """Do nothing: nothing is open."""

    def close(self) -> None:
        self._closed.set()


class _Records:
    """Counts records without keeping them, so that the memory measured is the pipeline's."""

    def __init__(self) -> None:
        self.next, self.gaps, self.unscored, self.changes = 0, 0, 0, 0
        self._release: int | None = None

    def append(self, *items: Any) -> None:
        for item in items:
            if isinstance(item, TelemetryRecord):
                self.gaps += item.window != self.next
                self.next = item.window + 1
                self.unscored += item.score is None
                self.changes += item.release != self._release
                self._release = item.release

    def next_window(self, _pipeline: str) -> int:
        return 0

    def open_alert(self, _pipeline: str) -> Severity:
        return Severity.NORMAL


def _rss_mb() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _swap(pipeline: Pipeline, records: _Records, folder: Path) -> float:
    """Load a bundle and swap to it; returns the seconds until a window was scored by it."""
    began = time.perf_counter()
    pipeline.swap(load_bundle(folder))
    took = time.perf_counter() - began
    changes = records.changes
    while records.changes == changes:
        time.sleep(PAUSE_SECONDS / 4)
    return took


def rows(swaps: int = 1000) -> list[Row]:
    """The rows of the table."""
    with tempfile.TemporaryDirectory() as temporary:
        folders = [_bundle(Path(temporary, str(release)), release) for release in (1, 2)]
        source, records = _Source(), _Records()
        pipeline = Pipeline("main", source, records, SystemClock())
        pipeline.swap(load_bundle(folders[0]))
        pipeline.start()
        while not records.changes:
            time.sleep(0.01)
        for number in range(WARM_SWAPS):
            _swap(pipeline, records, folders[(number + 1) % 2])
        before_mb, changes = _rss_mb(), records.changes
        took = [_swap(pipeline, records, folders[(number + 1) % 2]) for number in range(swaps)]
        growth_mb = _rss_mb() - before_mb
        done = records.changes - changes
        pipeline.stop()
    lost = records.gaps + (source.given - records.next) + records.unscored
    return [
        {"name": "model swaps done", "value": done, "target": swaps, "holds": done == swaps},
        {"name": "windows lost in swaps", "value": lost, "target": 0, "holds": lost == 0},
        {
            "name": "RSS growth over the swaps [MB]",
            "value": round(growth_mb, 2),
            "target": 2.0,
            "holds": growth_mb <= 2,
        },
        {"name": "windows scored meanwhile", "value": records.next, "target": None, "holds": True},
        {
            "name": "median load and swap [ms]",
            "value": round(float(np.median(took)) * 1e3, 2),
            "target": None,
            "holds": True,
        },
    ]


if __name__ == "__main__":
    main(rows, "Model swaps")

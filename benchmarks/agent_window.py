"""CPU per window through the whole agent, against a hand-written loop with the same features and a bare session.

The agent is the real process: enrolled, connected over TLS, with the source paced, features, network, decision, drift,
spool, delivery and acks. The loop is what an engineer would write: the same recording, the same features, a bare
session of the same runtime, nothing kept and nothing sent. Both are paced alike and measured by the kernel's account of
the process (user and system time of all threads), in turns, in one run.

    python benchmarks/agent_window.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from rig import Row, agent_beside, cpu_seconds, main, row, simulated, trained_bundle, wait_for_windows

from wheeltapper_agent.config import SimulatorConfig
from wheeltapper_protocols.recording import write_recording

RATE_HZ = 100.0
WINDOWS = 1500
_WARM_UP = 200


def loop(bundle: Path, recording_file: Path) -> None:
    """The hand-written loop, in a process of its own; prints its CPU seconds a window."""
    import onnxruntime

    from wheeltapper_protocols.features import FeatureSet
    from wheeltapper_protocols.manifest import decode_manifest
    from wheeltapper_protocols.recording import read_recording

    manifest = decode_manifest((bundle / "manifest.json").read_bytes())
    shape = manifest.input
    features = FeatureSet(manifest.features, shape.sample_rate_hz, shape.window_samples, len(shape.channels))
    assert manifest.scoring is not None
    center = np.array(manifest.scoring.center, dtype=np.float32)
    scale = np.array(manifest.scoring.scale, dtype=np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession((bundle / manifest.model_file).read_bytes(), options)
    recording = read_recording(recording_file)
    began_at, began = time.monotonic(), 0.0
    for index in range(WINDOWS):
        if index == _WARM_UP:
            began = time.process_time()
        time.sleep(max(0.0, began_at + index / RATE_HZ - time.monotonic()))
        values = features.compute(recording.physical(slice(index, index + 1)))
        session.run(None, {"input": (values - center) / scale})
    print((time.process_time() - began) / (WINDOWS - _WARM_UP))


def _loop_seconds(bundle: Path, recording: Path) -> float:
    command = [sys.executable, __file__, "loop", str(bundle), str(recording)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)


def _agent_seconds(bundle: Path, recording: Path) -> float:
    source = {"kind": "replay", "path": str(recording), "rate_hz": RATE_HZ, "hold_until_model": True}
    with agent_beside(bundle, source) as agent:
        wait_for_windows(agent, _WARM_UP)
        cpu, windows = cpu_seconds(agent.pid), agent.windows()
        wait_for_windows(agent, WINDOWS - 50)
        return (cpu_seconds(agent.pid) - cpu) / (agent.windows() - windows)


def rows() -> list[Row]:
    """The figures."""
    import tempfile

    found: list[Row] = []
    for samples in (2048, 4096):
        with tempfile.TemporaryDirectory(prefix="wheeltapper-bench-") as name:
            config = SimulatorConfig(window_samples=samples)
            bundle = trained_bundle(Path(name, "bundle"), config)
            recording = Path(name, "recording.npz")
            write_recording(simulated(config, WINDOWS), recording)
            ours, theirs = _agent_seconds(bundle, recording), _loop_seconds(bundle, recording)
            title = f"autoencoder, {samples} samples"
            found.append(row(f"{title}: CPU a window, agent over loop", ours / theirs, at_most=1.25))
            found.append(row(f"{title}: CPU a window, agent (us)", ours * 1e6))
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["loop"]:
        loop(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(rows, "CPU a window through the whole agent")

"""Memory of the running agent with one pipeline, compared with a process that has only an inference session.

The agent is a real process: enrolled with a fleet service, connected to its broker, scoring one window a second with a
release from the fleet. It is measured twice: right after it installed the release, when the libraries that verify and
fetch are still loaded; and after a restart with this release, which is the usual state of a device.

The table also has a lower bound for any agent: a process with the bare session that loads and uses TLS, SQLite, the
MQTT client, the wire types and the features of a window, without the agent's own code.

    python benchmarks/agent_rss.py

It needs the repository's tests for its bundles. RSS is VmRSS. PSS divides shared pages among the processes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, Literal

from rig import REPOSITORY, Row, RunningAgent, agent_beside, main, row, simulated

sys.path.append(str(REPOSITORY))
from tests.agent.bundles import make_bundle, write_bundle
from wheeltapper_agent.source.simulator import SimulatorConfig
from wheeltapper_fleet.demo.stage import wait_for
from wheeltapper_protocols.manifest.manifest import Gate
from wheeltapper_protocols.signal.recording import recording_bytes

_WINDOWS: Final = 15
_RECORDED: Final = 80
"""Windows in the recording, as many as are played: the agent keeps the recording in memory."""
_TARGET: Final = 1.25
_RUNS: Final = "for _ in range(100): one()\nprint(open('/proc/self/smaps_rollup').read())"
_BARE: Final = {
    "onnx": "import sys, numpy, onnxruntime\n"
    "options = onnxruntime.SessionOptions(); options.intra_op_num_threads = 1\n"
    "session = onnxruntime.InferenceSession(open(sys.argv[1], 'rb').read(), options, ['CPUExecutionProvider'])\n"
    "values = numpy.zeros((1, int(sys.argv[2])), 'float32')\n"
    "one = lambda: session.run(['output'], {'input': values})\n" + _RUNS,
    "tflite": "import sys, numpy\nfrom ai_edge_litert.interpreter import Interpreter\n"
    "session = Interpreter(model_content=open(sys.argv[1], 'rb').read(), num_threads=1); session.allocate_tensors()\n"
    "values = numpy.zeros((1, int(sys.argv[2])), 'float32')\n"
    "given, made = session.get_input_details()[0]['index'], session.get_output_details()[0]['index']\n"
    "one = lambda: (session.set_tensor(given, values), session.invoke(), session.get_tensor(made))\n" + _RUNS,
}

_GROUND: Final = """
import ctypes, gc, sqlite3, ssl, sys
from wheeltapper_agent.ground.lazy_import import lazy_import
lazy_import("urllib.request")  # as the agent does
import paho.mqtt.client as mqtt
import wheeltapper_protocols.manifest.manifest
from wheeltapper_protocols.signal.features import FeatureSet, default_specs
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.tls_set_context(context)
client.loop_start()
database = sqlite3.connect(sys.argv[3])
database.execute("PRAGMA journal_mode = WAL")
database.execute("CREATE TABLE t(a)")
database.commit()
features = FeatureSet(default_specs(25600.0, ("a", "b")), 25600.0, 4096, 2)
wave = numpy.sin(numpy.arange(8192, dtype="float32")).reshape(1, 4096, 2)
for _ in range(20): features.compute(wave)
gc.collect(); ctypes.CDLL(None).malloc_trim(0)
"""


def _memory_mb(rollup: str) -> tuple[float, float]:
    """RSS and PSS in the text of a process's ``smaps_rollup``."""
    fields = {line.split()[0]: line.split()[1] for line in rollup.splitlines() if line.split()[1:]}
    return int(fields["Rss:"]) / 1024, int(fields["Pss:"]) / 1024


def _bare(runtime: Literal["onnx", "tflite"], model: Path, features: int, ground: str = "") -> tuple[float, float]:
    program = _BARE[runtime].removesuffix(_RUNS) + ground + _RUNS
    line = [sys.executable, "-c", program, str(model), str(features), str(model.with_suffix(".sqlite"))]
    return _memory_mb(subprocess.run(line, capture_output=True, text=True, check=True).stdout)


def _windows(agent: RunningAgent) -> int:
    status = json.loads((agent.state / "status.json").read_bytes())
    return int(status["pipelines"]["main"]["windows"])


def _agent(agent: RunningAgent) -> tuple[float, float]:
    """Memory of the agent after some more windows."""
    before = _windows(agent)
    wait_for("windows", lambda: _windows(agent) not in range(before, before + _WINDOWS), 120.0)
    return _memory_mb(Path(f"/proc/{agent.pid}/smaps_rollup").read_text(encoding="ascii"))


def _rows(runtime: Literal["onnx", "tflite"], title: str) -> list[Row]:
    config = SimulatorConfig(window_samples=4096)
    with tempfile.TemporaryDirectory(prefix="wheeltapper-bench-") as name:
        passed = [Gate(name="golden", value=0.0, limit=0.0, passed=True, detail="made by hand")]
        files = make_bundle(None, config, model="bearing-anomaly", runtime=runtime, gates=passed)
        folder = write_bundle(Path(name), files)
        recording = Path(name) / "recording.npz"
        recording.write_bytes(recording_bytes(simulated(config, _RECORDED)))
        source: dict[str, object] = {"kind": "replay", "path": str(recording), "hold_until_model": True}
        features = files["manifest.json"].count(b'"kind":')
        bare = _bare(runtime, folder / f"model.{runtime}", features)
        ground = _bare(runtime, folder / f"model.{runtime}", features, _GROUND)
        with agent_beside(folder, source) as first:
            updated = _agent(first)
            first.stage.end(first.device)
            started = first.stage.start_agent(first.device)
            again = _agent(RunningAgent(first.stage, first.device, started.pid))
    return [
        row(f"RSS with one pipeline over a bare session, {title}", again[0] / bare[0], at_most=_TARGET),
        row(f"the same, by PSS, {title}", again[1] / bare[1]),
        row(f"RSS [MB], {title}", again[0]),
        row(f"RSS right after an update [MB], {title}", updated[0]),
        row(f"RSS of the bare session [MB], {title}", bare[0]),
        row(f"RSS of the bare session with what the agent stands on [MB], {title}", ground[0]),
        row(f"the same over the bare session, {title}", ground[0] / bare[0]),
    ]


def rows() -> list[Row]:
    """The figures."""
    return _rows("onnx", "ONNX Runtime") + _rows("tflite", "LiteRT")


if __name__ == "__main__":
    main(rows, "Memory of the agent")

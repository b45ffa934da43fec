"""``replay``: a recording scored by a bundle, without a fleet, by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.agent.bundles import SMALL, make_bundle, write_bundle
from wheeltapper_agent.source.simulator import Machine
from wheeltapper_protocols.signal.recording import Recording, write_recording


def _replay(bundle: Path, recording: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "wheeltapper_agent", "replay", "--json"]
    line += ["--bundle", str(bundle), "--recording", str(recording)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(line, capture_output=True, text=True, check=False, env=environment, timeout=60)


def _recording(path: Path, rate_hz: float = 12800.0) -> Path:
    machine = Machine(SMALL)
    samples = np.stack([machine.window(index, index * 10.0) for index in range(6)])
    times = np.arange(6, dtype=np.float64) * np.float64(10.0)
    write_recording(Recording(samples, np.ones(2), rate_hz, times, ("horizontal", "vertical"), ("g", "g"), {}), path)
    return path


def test_replay_prints_one_line_a_snapshot(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", make_bundle(1))
    done = _replay(bundle, _recording(tmp_path / "r.npz"))
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["snapshot"] for row in rows] == list(range(6))
    assert set(rows[0]) == {"snapshot", "t_s", "score", "severity", "alert"}
    assert [row["t_s"] for row in rows] == [0, 10, 20, 30, 40, 50]
    assert all(row["severity"] == "normal" and row["alert"] is False for row in rows)


def test_replay_refuses_with_a_code(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", make_bundle(1))
    (tmp_path / "empty.npz").write_bytes(b"")
    cases = [
        (bundle, _recording(tmp_path / "rate.npz", 9600.0), "update.input_mismatch"),
        (bundle, tmp_path / "empty.npz", "recording.malformed"),
        (bundle, tmp_path / "none.npz", "source.unreadable"),
        (tmp_path, tmp_path / "empty.npz", "bundle.missing"),
    ]
    for folder, recording, code in cases:
        done = _replay(folder, recording)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"[{code}]" in done.stderr

"""``replay``: a recording scored by a bundle, without a fleet, by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.agent.bundles import SMALL, make_bundle, write_bundle
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.model.score_recording import score_recording
from wheeltapper_agent.source.simulator import Machine
from wheeltapper_protocols.signal.recording import Recording, write_recording


def _replay(bundle: Path, recording: Path, *options: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "wheeltapper_agent", "replay", "--json"]
    line += ["--bundle", str(bundle), "--recording", str(recording), *options]
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


def _table(path: Path, spoil: int = -1) -> Path:
    """The machine of :func:`_recording` as a table with decimal commas, whose rows follow one another."""
    samples = np.concatenate([Machine(SMALL).window(index, index * 10.0) for index in range(6)])
    lines = [f"{i};{a!r};{b!r}".replace(".", ",") for i, (a, b) in enumerate(samples.tolist())]
    if spoil >= 0:
        lines[spoil] = f"{spoil};ERR;0"
    path.write_text("made by hand\nn;ax;ay\n" + "\n".join(lines))
    return path


def test_a_table_has_the_scores_of_the_recording(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", make_bundle(1))
    known = [json.loads(line) for line in _replay(bundle, _recording(tmp_path / "r.npz")).stdout.splitlines()]
    options = ("--decimal", ",", "--skip-rows", "1", "--channels", "ax,ay")
    scores = [row["score"] for row in known]
    done = _replay(bundle, _table(tmp_path / "a.csv"), *options)
    assert [json.loads(line)["score"] for line in done.stdout.splitlines()] == scores
    done = _replay(bundle, _table(tmp_path / "a.csv", spoil=2 * SMALL.window_samples + 5), *options)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["score"] is None for row in rows] == [False, False, True, False, False, False]
    assert [row["score"] for row in rows[:2]] == scores[:2]
    assert [row["severity"] for row in rows] == [row["severity"] for row in known]
    assert "holds 'ERR', which is no number" in done.stderr


def test_a_table_that_is_not_as_said_is_refused(tmp_path: Path) -> None:
    bundle, table = write_bundle(tmp_path / "bundle", make_bundle(1)), _table(tmp_path / "a.csv")
    right = {"--decimal": ",", "--skip-rows": "1", "--channels": "ax,ay"}
    for wrong, code, why in (
        ({"--decimal": "."}, "source.malformed", "its columns are"),
        ({"--decimal": ".", "--delimiter": ";"}, "source.malformed", "decimal = ','"),
        ({"--skip-rows": "0"}, "source.malformed", "no column 'ax'"),
        ({"--channels": ""}, "source.malformed", "no column 'horizontal'"),
        ({"--channels": "ax"}, "update.input_mismatch", "in this order with --channels"),
        ({"--time-unit": "min"}, "recording.options", "time_unit"),
        ({"--scale": "a"}, "config.invalid", "list of numbers"),
    ):
        options = [word for pair in (right | wrong).items() for word in pair]
        done = _replay(bundle, table, *options)
        assert (done.returncode, done.stdout) == (2, ""), wrong
        assert f"[{code}]" in done.stderr, wrong
        assert why in done.stderr, wrong


@pytest.mark.parametrize(("rate_hz", "fits"), [(12_800.0, True), (12_800.4, True), (12_788.0, True), (12_750.0, False)])
def test_a_rate_that_a_header_rounds_fits_a_release(tmp_path: Path, rate_hz: float, fits: bool) -> None:
    bundle = write_bundle(tmp_path / "bundle", make_bundle(1))
    rows = score_recording(bundle, _recording(tmp_path / "r.npz", rate_hz))
    if fits:
        assert len(list(rows)) == 6
        return
    with pytest.raises(AgentError) as refused:
        next(rows)
    assert refused.value.code == "update.input_mismatch"

"""``wheeltapper-agent source try``: what it says of sources of each sort, and that it touches and keeps nothing."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.agent.source.broker import PlainBroker
from tests.agent.source.rig import pipeline_config
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.host import source_trial
from wheeltapper_agent.host.source_trial import choose_pipeline, try_source
from wheeltapper_agent.host.source_trial_text import spark_line, trial_lines
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_protocols.signal.recording import Recording, write_recording


def tried(folder: Path, source: str, seconds: float = 20.0) -> dict[str, Any]:
    return try_source(pipeline_config(folder, source), seconds, SystemClock())


def run(folder: Path, source: str, *options: str, given: str = "") -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command."""
    (folder / "agent.toml").write_text(f'[device]\nstate_dir = "state"\n[[pipelines]]\nname = "main"\n{source}')
    line = [sys.executable, "-m", "wheeltapper_agent", "source", "try", "--config", str(folder / "agent.toml")]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [*line, *options], input=given, capture_output=True, encoding="utf-8", check=False, timeout=60, env=environment
    )
    return done.returncode, done.stdout, done.stderr


def table(folder: Path, rows: list[str]) -> str:
    (folder / "log.csv").write_text("t,ax,ay\n" + "\n".join(rows) + "\n")
    return (
        "kind = 'replay'\npath = 'log.csv'\nsample_rate_hz = 50\nwindow_samples = 100\ntime_column = 't'\n"
        "units = ['g', 'g']\nrate_hz = 0.01\nhold_until_model = true\n"
    )


def test_a_table_is_read_at_full_speed(tmp_path: Path) -> None:
    rows = [f"{1_767_225_600 + i / 50:.3f},{np.sin(i / 16):.5f},{i}" for i in range(1000)]
    rows[150] = rows[150].rsplit(",", 1)[0] + ",ERR"
    del rows[420:430]
    report = tried(tmp_path, table(tmp_path, rows))
    assert report["state"] == "ended"
    assert report["error"] is None
    assert (report["windows"], report["window_samples"]) == (10, 100)
    assert report["rate_hz"]["by_times"] == pytest.approx(50)
    assert report["first_t_s"] == 1_767_225_600
    assert report["quality"]["missing"] == 21
    assert report["quality"]["malformed"] == 1
    assert [channel["name"] for channel in report["channels"]] == ["ax", "ay"]
    ax, ay = report["channels"]
    assert (ay["least"], ay["greatest"], ay["values"]) == (0, 999, 989)
    assert ay["first"] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert ax["rms"] == pytest.approx(0.7, abs=0.03)
    assert len(ax["plot"]) == source_trial.PLOT_POINTS
    assert any("line 152: column 'ay' holds 'ERR'" in text for text in report["said"])
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    lines = trial_lines(report)
    assert lines[0].startswith("pipeline main, replay: ended; 10 windows of 100 samples")
    assert "50 Hz declared, 50 Hz by the times" in lines[1]
    assert any("2026-01-01 00:00:00.000 UTC" in line for line in lines)
    assert sum(any(block in line for block in "▁█") for line in lines) == 2
    assert any(line.startswith("  data quality: missing 21") for line in lines)
    assert all(line.isascii() for line in trial_lines(report, plain=True))


def test_what_is_refused_is_said_with_its_code(tmp_path: Path) -> None:
    source = table(tmp_path, [f"{i * 20},0,0" for i in range(200)])
    began_s = time.monotonic()
    code, out, error = run(tmp_path, f"[pipelines.source]\n{source}", "--seconds", "50")
    assert time.monotonic() - began_s < 30  # it does not wait for a better file
    assert code == 2
    assert out.startswith("pipeline main, replay: source.mismatch; 0 windows")
    assert "set time_unit = 'ms'" in out
    assert error.count("\n") == 1
    assert error.endswith("set time_unit = 'ms' [source.mismatch]\n")
    assert error.count("source.mismatch") == 1
    code, out, error = run(tmp_path, "[pipelines.source]\nkind = 'replay'\npath = 'none.csv'\nwindow_samples = 1")
    assert (code, out) == (2, "")
    assert error.endswith("[source.unreadable]\n")


def test_lines_on_standard_input(tmp_path: Path) -> None:
    source = "[pipelines.source]\nkind = 'stdin'\nsample_rate_hz = 50\nwindow_samples = 3000\nchannels = ['x']\n"
    given = "".join(f'{{"samples": [{i}]}}\n' for i in range(200)) + "nonsense\n"
    code, out, _ = run(tmp_path, source, "--seconds", "20", "--json", given=given)
    report = json.loads(out)
    assert code == 0
    assert report["shortened_from"] == 3000
    assert report["windows"] == 200 // 125
    assert report["channels"][0]["first"] == list(range(8))
    assert report["quality"]["malformed"] == 1
    assert any("cannot be read" in text for text in report["said"])
    assert not (tmp_path / "state").exists()


def test_a_topic_that_says_nothing_and_one_that_speaks(tmp_path: Path) -> None:
    broker = PlainBroker(tmp_path)
    try:
        source = f"kind = 'mqtt'\nport = {broker.port}\ntopic = 'a'\nsample_rate_hz = 100\nwindow_samples = 100\n"
        silent = tried(tmp_path, source, seconds=1.0)
        assert silent["windows"] == 0
        assert silent["error"]["code"] == "source.no_window"
        client, ended = broker.client(), threading.Event()

        def speak() -> None:
            while not ended.wait(0.05):
                client.publish("a", json.dumps({"samples": [1, 2, None, 4, 5]}))

        thread = threading.Thread(target=speak)
        thread.start()
        try:
            report = tried(tmp_path, source, seconds=3.0)
        finally:
            ended.set()
            thread.join()
            client.loop_stop()
            client.disconnect()
    finally:
        broker.kill()
    assert report["windows"] >= 2
    assert report["error"] is None
    assert report["quality"]["missing"] > 0
    assert None in report["channels"][0]["first"]
    assert report["rate_hz"]["by_arrival"] > 0


def test_a_simulator_keeps_nothing(tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    report = tried(tmp_path, "kind = 'simulator'\ntime_scale = 6000\n", seconds=1.0)
    assert report["windows"] > 2
    assert report["window_every_s"] == pytest.approx(60)
    assert report["rate_hz"]["by_times"] is None  # its windows are not of one continuous signal
    assert [path for path in sorted(tmp_path.iterdir()) if path not in before and path.suffix != ".toml"] == []


def test_snapshots(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).normal(size=(5, 64, 1)).astype(np.float32)
    write_recording(
        Recording(samples, np.ones(1), 100.0, np.arange(0.0, 50.0, 10.0), ("x",), ("g",), {}), tmp_path / "r.npz"
    )
    report = tried(tmp_path, "kind = 'replay'\npath = 'r.npz'\nrate_hz = 0.01")
    assert (report["windows"], report["window_every_s"]) == (5, 10)


class _Raises:
    """A source of a plug-in that is broken."""

    spec = SourceSpec(100.0, 4, ("x",), ("",))
    state = "running"
    dropped = 0

    def windows(self, first: int) -> Iterator[Window]:
        yield Window(np.zeros((4, 1), np.float32), 0.0)
        raise RuntimeError("the driver is gone")

    def model_ready(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Hangs(_Raises):
    """A source that gives nothing and does not end."""

    def windows(self, first: int) -> Iterator[Window]:
        time.sleep(30)
        yield Window(np.zeros((4, 1), np.float32), 0.0)


def test_sources_that_raise_and_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = "kind = 'simulator'\n"
    monkeypatch.setattr(source_trial, "make_source", lambda *_given: _Raises())
    assert tried(tmp_path, config)["error"] == {"code": "source.failed", "message": "RuntimeError: the driver is gone"}
    monkeypatch.setattr(source_trial, "make_source", lambda *_given: _Hangs())
    monkeypatch.setattr(source_trial, "_JOIN_SECONDS", 0.1)
    report = tried(tmp_path, config, seconds=0.3)
    assert report["error"]["code"] == "source.no_window"
    assert report["channels"] == [{"name": "x", "unit": ""}]


def test_the_log_is_as_before(tmp_path: Path) -> None:
    log = logging.getLogger("wheeltapper_agent")
    handlers = list(log.handlers)
    tried(tmp_path, "kind = 'simulator'\ntime_scale = 6000\n", seconds=0.2)
    assert (log.handlers, log.propagate) == (handlers, True)


def test_which_pipeline(tmp_path: Path) -> None:
    one = pipeline_config(tmp_path, "kind = 'simulator'")
    assert choose_pipeline((one,), "") is one
    assert choose_pipeline((one,), "main") is one
    for pipelines, name in (((one,), "other"), ((one, one), ""), ((), "")):
        with pytest.raises(AgentError) as refused:
            choose_pipeline(pipelines, name)
        assert refused.value.code == "config.pipeline"


def test_a_plot_in_one_line() -> None:
    assert spark_line([0, 1, None, 7]) == "▁▂ █"
    assert spark_line([3.0, 3.0]) == "▄▄"
    assert spark_line([None]) == " "
    assert spark_line([0, 7], plain=True) == "_#"

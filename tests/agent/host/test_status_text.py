"""What ``wheeltapper-agent status`` prints, and where commands look for the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from wheeltapper_agent.cli import app
from wheeltapper_agent.cli_support import DEFAULT_CONFIG
from wheeltapper_agent.host.status_text import status_lines
from wheeltapper_agent.host.systemd_unit import CONFIG_FILE

_RUNS: dict[str, Any] = {
    "running": True, "device": "press-1", "at": 1000.0, "connected": True, "mqtt": "5.0", "agent_version": "0.1.0",
    "profile": "x86-gateway", "execution": "e-1", "execution_state": "WAITING",
    "execution_code": "update.waiting_window", "execution_detail": "opens at 22:00",
    "pipelines": {
        "main": {
            "model": "bearing", "release": 3, "windows": 12, "dropped_windows": 2, "source": "source.lost",
            "runtime": "onnxruntime/CPUExecutionProvider",
            "last": {"score": 1.23456, "severity": "warning", "alert": True, "label": None, "value": None, "zone": "C"},
            "quality": {"windows": 12, "values": 99, "missing": 7, "dropped": 2},
            "faults": [
                {"text": "register speed: the server is busy", "times": 7, "over": False},
                {"text": "the source failed", "times": 1, "over": True},
            ],
        },
        "other": {"model": None, "release": None, "windows": 0, "dropped_windows": 0, "source": "running"},
    },
    "seq": 40, "held": 2, "dropped": 5, "troubles": ["pipeline main hangs"],
}  # fmt: skip


def test_a_running_agent_in_a_few_lines() -> None:
    assert status_lines(_RUNS, 1000.0) == [
        "press-1: connected, MQTT 5.0; agent 0.1.0, profile x86-gateway",
        "  TROUBLE  pipeline main hangs",
        "pipeline main: bearing 3 on onnxruntime/CPUExecutionProvider; source SOURCE.LOST",
        "  last: score 1.23, warning, ISO 20816 zone C, ALERT",
        "  12 windows since the start, 2 DROPPED",
        "  data quality: missing 7",
        "  7 times: register speed: the server is busy",
        "  1 times, over: the source failed",
        "pipeline other: no model; source running",
        "  0 windows since the start",
        "update e-1: WAITING: opens at 22:00 [update.waiting_window]",
        "spool: 2 records wait, newest is 40, 5 DROPPED",
    ]


def test_recordings_are_shown_if_there_are_any() -> None:
    figures = {"waiting": 0, "dropped": 0, "ignored": 0, "unsaid": 0}
    assert status_lines(_RUNS | {"captures": figures}, 1000.0) == status_lines(_RUNS, 1000.0)
    lines = status_lines(_RUNS | {"captures": figures | {"waiting": 3}}, 1000.0)
    assert lines[-2] == "recordings: 3 wait for their upload"
    figures = {"waiting": 3, "dropped": 2, "ignored": 5, "unsaid": 1}
    (line,) = [line for line in status_lines(_RUNS | {"captures": figures}, 1000.0) if line.startswith("recordings")]
    assert line.endswith("upload, 2 DROPPED, 5 triggers ignored, 1 reports refused by the disk")


def test_classes_and_remaining_lives_are_shown() -> None:
    last = {"score": 0.5, "severity": "normal", "alert": False, "label": "inner race", "value": 41.25, "zone": None}
    body = _RUNS | {"pipelines": {"main": _RUNS["pipelines"]["main"] | {"last": last}}}
    assert "  last: score 0.5, normal, inner race, 41.25 left" in status_lines(body, 0.0)


def test_the_age_of_the_last_status_is_shown_if_the_agent_does_not_run() -> None:
    lines = status_lines(_RUNS | {"running": False}, 1000.0 + 3 * 3600)
    assert lines[:2] == [
        "press-1: DOES NOT RUN; agent 0.1.0, profile x86-gateway",
        "  last written 3 hours ago, 1970-01-01 00:16:40 UTC",
    ]
    assert "last written 0 s ago" in status_lines(_RUNS | {"running": False}, 0.0)[1]  # a clock that went back
    assert "at no time that a calendar has" in status_lines(_RUNS | {"running": False, "at": 1e300}, 0.0)[1]


def test_a_status_with_missing_keys_is_shown() -> None:
    assert status_lines({"device": "d", "connected": False}, 0.0) == ["d: DOES NOT RUN; agent ?, profile ?"]


def test_the_configuration_is_looked_for_where_install_puts_it(tmp_path: Path) -> None:
    assert Path(CONFIG_FILE) == DEFAULT_CONFIG
    if not DEFAULT_CONFIG.exists():
        for command in (["status"], ["doctor"]):
            done = CliRunner().invoke(app, command)
            assert done.exit_code != 0
            assert CONFIG_FILE in done.output
        enrol = ["enroll", "--server", "https://127.0.0.1:1", "--token-file", str(tmp_path / "none")]
        assert "enrol.token" in CliRunner().invoke(app, enrol).output


def test_a_score_that_is_not_of_now_is_not_shown_as_one() -> None:
    def lines(**figures: Any) -> list[str]:
        main = _RUNS["pipelines"]["main"] | figures
        return status_lines(_RUNS | {"pipelines": {"main": main}}, 1000.0)[2:5]

    assert lines(last=None, score_age_seconds=400.0, pace_seconds=1.0)[1] == "  NO SCORE for 7 minutes"
    assert lines(last=None, score_age_seconds=None)[1] == "  NO SCORE yet"
    assert lines(last=None, no_score=True, score_age_seconds=70.0)[1:] == [
        "  TROUBLE  the model gives complete windows no score",
        "  NO SCORE for 70 s",
    ]
    assert lines(score_age_seconds=3.0, pace_seconds=1.0)[1].startswith("  last: score 1.23")
    stopped = _RUNS | {"running": False}
    assert "  NO SCORE for 3 hours" in status_lines(stopped, 1000.0 + 3 * 3600.0)
    assert "  NO SCORE for 10 s" not in status_lines(stopped, 1010.0)

"""What ``wheeltapper device`` says of a device's model and score."""

from __future__ import annotations

import time

from typer.testing import CliRunner

from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet.cli.app import app


def said(server: AdminServer, *arguments: str) -> str:
    environment = {"WHEELTAPPER_URL": server.url, "WHEELTAPPER_API_TOKEN": server.token, "COLUMNS": "200"}
    done = CliRunner().invoke(app, ["device", *arguments], env=environment)
    assert done.exit_code == 0, done.output
    return done.output


def test_only_a_present_score_is_a_score(server: AdminServer) -> None:
    server.add_device("press-1")
    server.add_scores("press-1", [0.2, 0.4], "warning")
    server.add_device("press-2")
    server.add_scores("press-2", [1.5, 2.5], "critical", now=time.time() - 3600)
    server.add_device("press-3", status={"online": True, "pipelines": {"bearing": {"model": None, "release": None}}})
    server.add_scores("press-3", [3.5], "critical")
    lines = {line.split()[0]: line for line in said(server, "list").splitlines() if line.startswith("press")}
    assert "0.4" in lines["press-1"]
    assert "warning" in lines["press-1"]
    assert "bearing: no score since 20" in lines["press-2"]
    assert "no model" in lines["press-3"]
    for line in (lines["press-2"], lines["press-3"]):
        assert "critical" not in line
    assert "no model" in said(server, "show", "press-3")
    assert "no score since" in said(server, "show", "press-2")


def test_why_a_device_runs_what_it_runs(server: AdminServer) -> None:
    server.add_device("press-1")
    text = said(server, "why", "press-1")
    assert text.startswith("bearing\n")
    assert "bearing-anomaly release 1 runs here, but nothing that this fleet knows of brought it" in text
    assert "2026-09-21 14:13:20Z  The device said that it runs bearing-anomaly release 1." in text
    assert "has no pipeline 'other'" in said(server, "why", "press-1", "--pipeline", "other")
    assert '"device": "press-1"' in said(server, "why", "press-1", "--json")

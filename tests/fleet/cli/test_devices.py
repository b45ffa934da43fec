"""What ``wheeltapper device`` says of a device's model and score."""

from __future__ import annotations

import json
import time
from pathlib import Path

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


def refused(server: AdminServer, *arguments: str) -> str:
    environment = {"WHEELTAPPER_URL": server.url, "WHEELTAPPER_API_TOKEN": server.token, "COLUMNS": "200"}
    done = CliRunner().invoke(app, ["device", *arguments], env=environment)
    assert done.exit_code in (1, 2), done.output
    return done.output


def test_devices_are_found_tagged_and_moved(server: AdminServer) -> None:
    for number in range(3):
        server.add_device(f"press-{number}", tags={"site": "north", "line": str(number)})
    assert "press-2" in said(server, "list", "--q", "tag.line > 1")
    assert "press-0" not in said(server, "list", "--q", "tag.line > 1")
    assert len(said(server, "list", "--limit", "2").splitlines()) == 3
    assert "column 6" in refused(server, "list", "--q", "site ~ north")
    assert said(server, "tag", "press-0", "line=7", "-site", "--why", "moved") == "press-0: line=7\n"
    assert "[cli.tag]" in refused(server, "tag", "press-0", "line")
    assert said(server, "edit", "site = north", "--do", "quarantine", "--untag", "line").startswith(
        "2 devices match, 2 would be changed"
    )
    assert "press-1  online" in said(server, "list")
    assert "2 are changed" in said(server, "edit", "site = north", "--do", "quarantine", "--untag", "line", "--apply")
    assert "quarantined, online" in said(server, "list")
    assert "[device.bulk_count]" in refused(server, "edit", "site = north", "--tag", "a=b", "--apply", "--expect", "9")
    assert "[cli.no_change]" in refused(server, "edit", "site = north")
    assert "[cli.action]" in refused(server, "edit", "site = north", "--do", "explode")
    assert said(server, "reinstate", "press-1") == "press-1 is active again\n"
    assert said(server, "quarantine", "press-1") == "press-1 is in quarantine\n"
    assert said(server, "retire", "press-1", "--why", "scrapped") == "press-1 is retired\n"
    assert "scrapped" in said(server, "log", "press-1")
    counts = said(server, "counts")
    assert "retired" in counts
    assert "bearing: bearing-anomaly r1" in counts


def test_tokens_of_a_file(server: AdminServer, tmp_path: Path) -> None:
    server.add_device("press-1")
    source, out = tmp_path / "new.csv", tmp_path / "tokens.csv"
    source.write_text("id,site,tags\nnew-1,north,line=3;hall=2\n\nnew-2,,\n")
    assert "tokens of 2 devices" in said(server, "pre-enrol", str(source), "--out", str(out))
    assert out.stat().st_mode & 0o777 == 0o600
    rows = [line.split(",") for line in out.read_text().splitlines()]
    assert [row[0] for row in rows] == ["device", "new-1", "new-2"]
    assert rows[1][1].startswith("wt1.new-1.")
    assert "new-1" in said(server, "list", "--q", "state = pending and site = north and tag.line = 3")
    assert "[enrol.out]" in refused(server, "pre-enrol", str(source), "--out", str(out))
    cases = (
        ("id,site\nnew-3,north\npress-1,north\n", "line 3: press-1 is active already"),
        ("id,tags\nnew-3,line\nnew-4,a=1;a=2\n", "line 3: the tag a is there twice"),
        ("id\nnew-3,north\n", "line 2: 2 cells for 1 columns"),
        ("id\nNew 3\n", "line 2: "),
        ("name\nnew-3\n", "must name the columns"),
        ("id,color\nnew-3,red\n", "must name the columns"),
        ("id\n", "names no device"),
        ('id\n"new-3\n', "is not CSV"),
    )
    for text, says in cases:
        source.write_text(text)
        assert says in " ".join(refused(server, "pre-enrol", str(source), "--out", str(tmp_path / "other.csv")).split())
        assert sorted(path.name for path in tmp_path.glob("*.csv*")) == ["new.csv", "tokens.csv"]
    assert "new-3" not in said(server, "list")


def test_what_is_asked_of_a_device(server: AdminServer, tmp_path: Path) -> None:
    server.add_device("press-1")
    command = said(server, "command", "diagnostics", "press-1").strip()
    assert command.startswith("cmd-")
    assert said(server, "command", "restart-pipeline", "press-1", "--pipeline", "bearing").startswith("cmd-")
    assert said(server, "command", "reset-baseline", "press-1", "--pipeline", "bearing").startswith("cmd-")
    listed = said(server, "command", "list", "--device", "press-1")
    assert "restart-pipeline" in listed
    assert "reset-baseline" in listed
    assert "waiting" in said(server, "command", "show", command)
    assert "not yet" in said(server, "settings", "press-1", "log_level=DEBUG", "batch_seconds=30", "-status_seconds")
    assert "DEBUG" in said(server, "settings", "press-1")
    assert "[cli.setting]" in refused(server, "settings", "press-1", "log_level")
    assert "[setting.invalid]" in refused(server, "settings", "press-1", "log_level=LOUD")
    assert "it was never here" in said(server, "connections", "press-1")
    (tmp_path / "bundle.json").touch()
    assert "[command.out]" in refused(
        server, "command", "diagnostics", "press-1", "--out", str(tmp_path / "bundle.json")
    )


def test_records_and_history_of_a_device(server: AdminServer) -> None:
    server.add_device("press-1")
    server.add_scores("press-1", [0.2, 0.4, 0.6], "warning")
    lines = [line.split() for line in said(server, "records", "press-1", "--limit", "2").splitlines()]
    assert [line[line.index("telemetry") - 1] for line in lines[1:]] == ["3", "2"]  # the newest first
    assert "0.600" in lines[1]
    assert "no record of that time" in said(server, "records", "press-1", "--kind", "alert")
    found = json.loads(said(server, "history", "press-1", "--pipeline", "bearing", "--hours", "1", "--json"))
    assert sum(point["windows"] for point in found["points"]) == 3
    text = said(server, "history", "press-1", "--pipeline", "bearing", "--hours", "1", "--points", "1")
    assert "0.400" in text
    assert "no window of that time" in said(server, "history", "press-1", "--pipeline", "other")

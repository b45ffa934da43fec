"""Commands of campaigns and default releases against a real admin API: what people see, what programs read."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.fleet.api.harness import MODEL, AdminServer, TableCampaigns
from wheeltapper_fleet import tables
from wheeltapper_fleet.campaigns.creation import create_campaign
from wheeltapper_fleet.cli.app import app


@pytest.fixture
def fleet(server: AdminServer, monkeypatch: pytest.MonkeyPatch) -> AdminServer:
    """Two devices, of which one has the pipeline ``bearing``; release 3; the real rules of campaigns."""

    def create(self: TableCampaigns, spec: Mapping[str, Any], who: str) -> str:
        return create_campaign(self.engine, spec, who=who, now=time.time())

    monkeypatch.setattr(TableCampaigns, "create", create)
    monkeypatch.setenv("WHEELTAPPER_URL", server.url)
    monkeypatch.setenv("WHEELTAPPER_API_TOKEN", server.token)
    server.add_device("press-1")
    server.add_device("press-2", status={"online": True, "pipelines": {"camera": {}}})
    row: dict[str, Any] = {"model": MODEL, "release": 3, "path": f"releases/{MODEL}/3/manifest.json", "length": 1}
    server.insert(tables.releases, **row, sha256="0" * 64, manifest={}, published_at=0.0, published_by="t")
    return server


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_creating_a_campaign_prints_its_warnings_beside_its_result(fleet: AdminServer, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"model": MODEL, "release": 3, "pipelines": ["bearing"]}), encoding="utf-8")
    made = run("campaign", "create", "--spec", str(spec), "--json")
    assert made.exit_code == 0, made.output
    assert made.stderr.splitlines() == [
        "warning: 1 of 2 devices do not have a pipeline 'bearing', and will fail: press-2",
        "warning: wave 1 cannot pass: it needs 2 successes, and 1 devices are able to",
    ]
    shown = json.loads(made.stdout)
    assert len(shown["warnings"]) == 2
    executions = json.loads(run("campaign", "executions", shown["id"], "--json").stdout)
    assert {row["wave"] for row in executions} == {1}
    assert "warning" in run("campaign", "log", shown["id"]).stdout
    spec.write_text(json.dumps({"model": MODEL, "release": 3, "pipelines": ["lidar"]}), encoding="utf-8")
    refused = run("campaign", "create", "--spec", str(spec))
    assert refused.exit_code == 2
    assert "[campaign.pipeline_unknown]" in refused.stderr


def test_waves_are_counted_from_one_and_an_unreadable_campaign_is_shown(fleet: AdminServer) -> None:
    fleet.insert(
        tables.campaigns, id="c-1", version=1, state="RUNNING", spec={"from": "later"}, waves=[], created_at=1e9,
        updated_at=1e9,
    )  # fmt: skip
    for wave in (0, 1):
        row = {"id": f"e-{wave}", "campaign": "c-1", "device": f"press-{wave + 1}", "state": "PENDING"}
        fleet.insert(tables.executions, **row, wave=wave, updated_at=1e9)
    shown = run("campaign", "show", "c-1")
    assert shown.exit_code == 0, shown.output
    listed = run("campaign", "executions", "c-1").stdout.splitlines()
    assert [line.split()[:2] for line in listed[-2:]] == [["1", "press-1"], ["2", "press-2"]]
    assert "this version cannot carry it on" in shown.stdout
    assert "RUNNING (unreadable)" in run("campaign", "list").stdout


def test_default_releases_are_set_listed_and_cleared(fleet: AdminServer) -> None:
    assert "no default release is set" in run("release", "default", "list").stdout
    made = run("release", "default", "set", MODEL, "3", "--pipeline", "bearing", "--tag", "line=a", "--why", "it works")
    assert made.exit_code == 0, made.output
    listed = run("release", "default", "list").stdout
    assert all(text in listed for text in (MODEL, "bearing", "line=a", "it works"))
    refused = run("release", "default", "set", MODEL, "9")
    assert (refused.exit_code, "[release.not_found]" in refused.stderr) == (1, True)
    assert "[default.not_found]" in run("release", "default", "clear", MODEL, "--tag", "line=b").stderr
    cleared = run("release", "default", "clear", MODEL, "--tag", "line=a", "--json")
    assert [each["cleared_by"] is not None for each in json.loads(cleared.stdout)] == [True]
    assert json.loads(run("release", "default", "list", "--json").stdout) == []
    assert len(json.loads(run("release", "default", "list", "--cleared", "--json").stdout)) == 1


def test_a_dry_run_prints_who_would_get_what_and_makes_nothing(fleet: AdminServer, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"model": MODEL, "release": 3, "pipelines": ["bearing"]}), encoding="utf-8")
    said = run("campaign", "plan", str(spec))
    assert said.exit_code == 0, said.output
    assert said.stdout.splitlines()[0] == f"{MODEL} release 3 for 2 devices"
    assert "1        gets" in said.stdout
    assert "1        pipeline missing" in said.stdout
    assert "press-2" not in said.stdout
    assert "warning: 1 of 2 devices do not have a pipeline" in said.stderr
    assert "it has no pipeline 'bearing'" in run("campaign", "plan", str(spec), "--outcome", "pipeline_missing").stdout
    everyone = json.loads(run("campaign", "plan", str(spec), "--outcome", "all", "--json").stdout)
    assert [each["device"] for each in everyone["items"]] == ["press-1", "press-2"]
    assert run("campaign", "list").stdout == "no campaign yet\n"
    assert run("campaign", "plan", str(spec), "--outcome", "nonsense").exit_code == 2


def test_a_clone_is_made_with_changes_and_both_logs_say_so(fleet: AdminServer, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    first = {"model": MODEL, "release": 3, "pipelines": ["bearing"], "start_at": 1e9, "soak_seconds": 60}
    spec.write_text(json.dumps(first), encoding="utf-8")
    made = json.loads(run("campaign", "create", "--spec", str(spec), "--json").stdout)
    row: dict[str, Any] = {"model": MODEL, "release": 4, "path": f"releases/{MODEL}/4/manifest.json", "length": 1}
    fleet.insert(tables.releases, **row, sha256="0" * 64, manifest={}, published_at=0.0, published_by="t")
    changes = ["--release", "4", "--set", 'waves=[{"count": 1}, {}]', "--set", "soak_seconds=null"]
    done = run("campaign", "clone", made["id"], *changes, "--json")
    assert done.exit_code == 0, done.output
    clone = json.loads(done.stdout)
    assert clone["spec"] == {**made["spec"], "release": 4, "waves": clone["spec"]["waves"]} | {
        "start_at": 0.0,
        "soak_seconds": 0.0,
    }
    assert (clone["state"], len(clone["waves"])) == ("DRAFT", 2)
    assert f"cloned   from campaign {made['id']}" in run("campaign", "log", clone["id"]).stdout
    assert f"cloned   as campaign {clone['id']}" in run("campaign", "log", made["id"]).stdout
    assert "[campaign.spec_invalid]" in run("campaign", "clone", made["id"], "--set", "speed=1").stderr
    assert "[campaign.spec]" in run("campaign", "clone", made["id"], "--set", "speed").stderr
    assert "[campaign.not_found]" in run("campaign", "clone", "c-nothing").stderr

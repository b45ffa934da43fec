"""``wheeltapper top`` reads what a service has, and draws it; names cannot write on the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.fleet.alerts.world import Works
from tests.fleet.api.harness import MODEL, AdminServer
from wheeltapper_fleet.cli.app import app
from wheeltapper_protocols.wire.messages import Severity


@pytest.fixture(name="server")
def _server(tmp_path: Path) -> Iterator[AdminServer]:
    with AdminServer(tmp_path / "data") as server:
        yield server


def top(server: AdminServer, *options: str) -> str:
    """What the command prints."""
    environment = {"WHEELTAPPER_URL": server.url, "WHEELTAPPER_API_TOKEN": server.token, "COLUMNS": "140"}
    done = CliRunner().invoke(app, ["top", *options], env=environment)
    assert done.exit_code == 0, done.output
    return done.output


def test_an_empty_fleet(server: AdminServer) -> None:
    said = top(server, "--once")
    assert "0 of 0 devices online" in said
    assert "No case needs a person." in said
    assert "No campaign yet." in said


def test_devices_cases_and_campaigns(server: AdminServer) -> None:
    for number in range(3):
        server.add_device(f"press-{number}", online=number > 0)
    works = Works(server.engine)
    works.alert(1000.0, score=5.0, severity=Severity.CRITICAL)
    works.turn(1000.0)
    with server.http() as http:
        made = http.post("/api/v1/campaigns", json={"spec": {"model": MODEL, "release": 1}}).json()["id"]
    said = top(server)
    assert "Cases that need a person (1)" in said
    assert "critical" in said
    assert made in said
    assert "2 of 3 devices online" in said
    assert "1 away" in said
    found = json.loads(top(server, "--json"))
    assert found["devices"] == {"enrolled": 3, "online": 2}

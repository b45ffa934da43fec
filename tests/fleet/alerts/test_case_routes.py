"""Cases and silences over real HTTP, and ``wheeltapper case``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest
from typer.testing import CliRunner

from tests.fleet.alerts.world import Works
from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet.cli.app import app
from wheeltapper_protocols.wire.messages import Severity

API = "/api/v1"


@pytest.fixture
def works(server: AdminServer) -> Works:
    made = Works(server.engine)
    now = time.time()
    made.alert(now - 100, severity=Severity.CRITICAL)
    made.alert(now - 50, "gw-2")
    made.turn(now)
    return made


@pytest.fixture
def http(server: AdminServer, works: Works) -> Iterator[httpx.Client]:
    with server.http() as client:
        yield client


def run(server: AdminServer, *arguments: str, code: int = 0) -> str:
    environment = {"WHEELTAPPER_URL": server.url, "WHEELTAPPER_API_TOKEN": server.token, "COLUMNS": "200"}
    done = CliRunner().invoke(app, ["case", *arguments], env=environment)
    assert done.exit_code == code, done.output
    return done.output


def test_cases_are_ranked_filtered_and_paged(http: httpx.Client) -> None:
    first = http.get(f"{API}/cases?limit=1").json()
    second = http.get(f"{API}/cases", params={"limit": 1, "after": first["next"]}).json()
    assert [each["point"] for each in (*first["items"], *second["items"])] == ["front", "hub"]
    assert second["next"] is None
    for query, found in (
        ("severity=critical", ["front"]),
        ("within=fan", ["hub"]),
        ("within=works&order=newest", ["hub", "front"]),
        ("site=works&device=gw-2", ["hub"]),
        ("state=resolved", []),
        ("assignee=ann", []),
    ):
        assert [each["point"] for each in http.get(f"{API}/cases?{query}").json()["items"]] == found, query
    assert http.get(f"{API}/cases?within=nowhere").status_code == 404
    assert http.get(f"{API}/cases?state=odd").status_code == 422


def test_alerts_have_filters(http: httpx.Client) -> None:
    case = http.get(f"{API}/cases").json()["items"][0]
    for query, devices in (
        ("device=gw-2", ["gw-2"]),
        ("severity=critical", ["gw-1"]),
        (f"case={case['id']}", ["gw-1"]),
        ("point=hub&raised=true", ["gw-2"]),
        ("model=other", []),
    ):
        assert [each["device"] for each in http.get(f"{API}/alerts?{query}").json()["items"]] == devices, query


def test_an_action_needs_the_version_it_was_decided_on(http: httpx.Client) -> None:
    case = http.get(f"{API}/cases").json()["items"][0]
    path = f"{API}/cases/{case['id']}"
    assert http.post(f"{path}/acknowledge", json={}).status_code == 428
    seen = http.post(f"{path}/acknowledge", json={}, headers={"If-Match": f'"{case["version"]}"'})
    assert (seen.status_code, seen.json()["state"], seen.json()["assignee"]) == (200, "acknowledged", "first")
    assert seen.headers["ETag"] == f'"{case["version"] + 1}"'
    late = http.post(f"{path}/work", json={"expected_version": case["version"]})
    assert (late.status_code, late.json()["code"]) == (409, "case.conflict")
    assert late.json()["current"]["state"] == "acknowledged"
    again = http.post(f"{path}/acknowledge", json={"expected_version": case["version"] + 1})
    assert (again.status_code, again.json()["code"]) == (409, "case.illegal")
    assert http.post(f"{path}/resolve", json={"expected_version": 3, "verdict": "maybe"}).status_code == 422
    assert http.get(f"{API}/cases/999").json()["code"] == "case.not_found"
    assert http.get(f"{API}/cases/999/log").status_code == 404


def test_a_silence_needs_a_subject_a_reason_and_an_end(http: httpx.Client) -> None:
    later = time.time() + 3600
    for body, code in (
        ({"to_at": later, "reason": "r"}, "silence.invalid"),
        ({"asset": "press", "query": "online", "to_at": later, "reason": "r"}, "silence.invalid"),
        ({"asset": "press", "to_at": 5.0, "reason": "r"}, "silence.invalid"),
        ({"query": "online and", "to_at": later, "reason": "r"}, "query.invalid"),
        ({"asset": "nowhere", "to_at": later, "reason": "r"}, "asset.not_found"),
        ({"asset": "press", "to_at": later}, "api.invalid"),
    ):
        assert http.post(f"{API}/silences", json=body).json()["code"] == code
    made = http.post(f"{API}/silences", json={"query": 'site = "x"', "to_at": later, "reason": "r"})
    assert made.status_code == 201
    assert [each["active"] for each in http.get(f"{API}/silences").json()["items"]] == [True]
    assert http.post(f"{API}/silences/{made.json()['id']}/end").status_code == 204
    assert http.get(f"{API}/silences").json()["items"] == []
    assert len(http.get(f"{API}/silences?ended=true").json()["items"]) == 1


def test_the_command_line_takes_a_case_to_its_end(server: AdminServer, works: Works) -> None:
    listed = run(server, "list").splitlines()
    assert "front" in listed[1]
    assert "hub" in listed[2]
    number = listed[1].split()[0]
    assert f"case {number} is acknowledged" in run(server, "ack", number)
    assert "in work" in run(server, "work", number, "--work-order", "WO-7")
    assert "in work" in run(server, "assign", number, "--to", "ben")
    assert "in work" in run(server, "comment", number, "ordered a bearing")
    done = run(server, "resolve", number, "--verdict", "true_fault", "--part", "outer race")
    assert "resolved (true_fault)" in done
    shown = run(server, "show", number)
    for said in ("WO-7", "ben", "outer race", "first: comment ordered a bearing", "triage: opened"):
        assert said in shown
    assert number not in [line.split()[0] for line in run(server, "list").splitlines()]
    assert len(json.loads(run(server, "list", "--all", "--json"))) == 2
    assert "case.illegal" in run(server, "ack", number, code=1)


def test_the_command_line_silences(server: AdminServer, works: Works) -> None:
    assert "holds for 8h" in run(server, "silence", "create", "--asset", "press", "--for", "8h", "--reason", "overhaul")
    assert "overhaul" in run(server, "silence", "list")
    assert "has ended" in run(server, "silence", "end", "1")
    assert "nothing is silenced" in run(server, "silence", "list")
    assert "overhaul" in run(server, "silence", "list", "--ended")
    assert "cli.duration" in run(
        server, "silence", "create", "--asset", "press", "--for", "long", "--reason", "r", code=2
    )

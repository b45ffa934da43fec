"""Assets over real HTTP, and ``wheeltapper asset``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from tests.fleet.api.harness import AdminServer
from tests.fleet.assets.test_assets import TREE
from wheeltapper_fleet.assets import service
from wheeltapper_fleet.assets.files import from_csv
from wheeltapper_fleet.assets.schemas import ImportedAsset, MappingRequest
from wheeltapper_fleet.cli.app import app
from wheeltapper_fleet.tables import rollups

API = "/api/v1/assets"
YAML = """
- id: works
  kind: site
  children:
    - id: fan
      kind: machine
      attributes: {iso20816: {group: 2, foundation: rigid}}
      children:
        - {id: fan-front, kind: point, mapping: {device: gw-7}}
"""


@pytest.fixture
def http(server: AdminServer) -> Iterator[httpx.Client]:
    with server.http() as client:
        yield client


def run(server: AdminServer, *arguments: str, text: str | None = None) -> Result:
    environment = {"WHEELTAPPER_URL": server.url, "WHEELTAPPER_API_TOKEN": server.token, "COLUMNS": "200"}
    return CliRunner().invoke(app, ["asset", *arguments], env=environment, input=text)


def test_a_change_needs_the_version_that_it_was_decided_on(http: httpx.Client) -> None:
    made = http.post(API, json={"id": "works", "kind": "site"})
    assert (made.status_code, made.headers["ETag"]) == (201, '"1"')
    assert http.patch(f"{API}/works", json={"name": "A"}).status_code == 428
    changed = http.patch(f"{API}/works", json={"name": "A"}, headers={"If-Match": '"1"'})
    assert (changed.status_code, changed.json()["name"], changed.headers["ETag"]) == (200, "A", '"2"')
    late = http.patch(f"{API}/works", json={"name": "B", "expected_version": 1})
    assert (late.status_code, late.json()["code"], late.json()["current"]["version"]) == (409, "asset.conflict", 2)
    assert http.post(f"{API}/works/retire", json={"expected_version": 1}).status_code == 409
    assert http.post(f"{API}/works/delete", json={"expected_version": 2}).status_code == 204
    assert http.get(f"{API}/works").status_code == 404


def test_refusals_have_their_codes(http: httpx.Client) -> None:
    assert http.post(API, json={"id": "works", "kind": "site"}).status_code == 201
    answers = [
        http.post(API, json={"id": "works", "kind": "site"}),
        http.post(API, json={"id": "p", "kind": "point", "parent": "works"}),
        http.post(f"{API}/works/mappings", json={"device": "gw-1"}),
        http.post(f"{API}/import", json={"assets": [{"id": "x", "kind": "house"}]}),
        http.get(f"{API}?within=nowhere"),
        http.get(f"{API}?after=abc"),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [
        (409, "asset.exists"),
        (422, "asset.parent"),
        (422, "asset.not_a_point"),
        (422, "api.invalid"),
        (404, "asset.not_found"),
        (400, "cursor.invalid"),
    ]


def test_the_command_line_imports_lists_and_shows(server: AdminServer, tmp_path: Path) -> None:
    file = tmp_path / "assets.csv"
    file.write_text(TREE)
    assert "5 created" in run(server, "import", str(file), "--dry-run").output
    assert "no asset yet" in run(server, "list").output
    assert "5 created, 0 changed, 0 as they were, 2 mapped" in run(server, "import", str(file)).output
    (tmp_path / "more.yaml").write_text(YAML)
    assert "2 created, 1 changed" in run(server, "import", str(tmp_path / "more.yaml")).output
    listed = json.loads(run(server, "list", "--within", "works", "--kind", "point", "--json").output)
    assert [each["id"] for each in listed] == ["fan-front", "spindle-front", "spindle-rear"]
    shown = run(server, "show", "spindle-front").output
    assert "outer race" in shown
    assert "Hz" in shown
    assert "gw-1/main channel x" in shown
    assert run(server, "map", "fan-front", "gw-8", "--replace").exit_code == 0
    assert "gw-8/main channel *" in run(server, "show", "fan-front").output
    assert "asset.has_history" in run(server, "delete", "fan").output
    assert run(server, "retire", "fan").exit_code == 0
    assert "fan-front" not in run(server, "list").output
    assert "fan-front" in run(server, "list", "--retired").output


def test_a_file_comes_from_standard_input_too_and_a_wrong_one_is_bad_input(server: AdminServer) -> None:
    assert "1 created" in run(server, "import", "-", text="id,kind\nworks,site\n").output
    wrong = run(server, "import", "-", text="id,colour\nworks,red\n")
    assert (wrong.exit_code, "[asset.file]" in wrong.output) == (2, True)
    assert "asset.not_found" in run(server, "import", "-", text="id,kind,parent\nm,machine,nowhere\n").output


def test_the_history_of_a_point_goes_on_with_the_next_gateway(server: AdminServer, http: httpx.Client) -> None:
    now = time.time()
    service.import_assets(
        server.engine, [ImportedAsset.model_validate(each) for each in from_csv(TREE)], False, now - 7200
    )
    service.map_point(
        server.engine, "spindle-front", MappingRequest(device="gw-2", channel="x", replace=True), now - 3600
    )
    rollup = {"pipeline": "main", "span": 300, "model": "m", "release": 1, "windows": 9, "scored": 9, "missing": 0}
    rollup |= {"score_sum": 9.0, "score_sq_sum": 9.0, "latency_sum_ms": 0.0, "latency_count": 0, "warnings": 0}
    for device, at in (("gw-1", now - 5400), ("gw-1", now - 1800), ("gw-2", now - 1800)):
        bucket = int(at) // 300 * 300
        server.insert(rollups, **rollup, device=device, bucket=bucket, criticals=0, alerts=0)
    answer = http.get(f"{API}/spindle-front/history", params={"from": now - 7000, "to": now, "points": 20}).json()
    curves = [(each["device"], sum(point["windows"] for point in each["points"])) for each in answer["curves"]]
    assert curves == [("gw-1", 9), ("gw-2", 9)]
    assert http.get(f"{API}/spindle/history").json()["code"] == "asset.not_a_point"
    assert http.get(f"{API}/nothing/history").json()["code"] == "asset.not_found"
    assert http.get(f"{API}/spindle-front/history?from=5&to=4").json()["code"] == "history.range"

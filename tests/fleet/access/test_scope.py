"""Tokens that are limited to some devices or permissions: every route of the service, asked with one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, insert, select
from typer.testing import CliRunner

from tests.fleet.access.test_routes import API, ask, concrete, routes
from tests.fleet.alerts.world import Works
from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet import tables
from wheeltapper_fleet.access.permissions import WITHIN_SCOPE
from wheeltapper_fleet.access.tokens import create_api_token
from wheeltapper_fleet.cli.app import app
from wheeltapper_fleet.client.fleet_client import FleetClient
from wheeltapper_fleet.db import paging
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.devices.scope import in_scope, narrowed
from wheeltapper_fleet.ground.errors import FleetError

SCOPE = "site = north or tag.line = n"
MINE, FOREIGN = "gw-1", "gw-2"


@pytest.fixture
def fleet(server: AdminServer) -> AdminServer:
    """Two devices with everything that belongs to a device; one of them is in the scope."""
    works, now = Works(server.engine), time.time()
    for device, site in ((MINE, "north"), (FOREIGN, "south")):
        server.add_device(device, tags={"site": site})
        works.alert(now - 100, device)
        server.add_scores(device, [0.5], now=now)
        command = {
            "id": f"cmd-{device}",
            "device": device,
            "body": {"type": "capture", "pipeline": "p", "snapshots": 1},
        }
        server.insert(tables.commands, **command, created_at=now, expires_at=now + 60, answered_at=now)
        server.insert(tables.command_bundles, command=f"cmd-{device}", body=b"")
        capture = {"command": f"cap-{device}", "device": device, "pipeline": "p", "sha256": "0" * 64, "length": 1}
        server.insert(tables.captures, **capture, snapshots=1, received_at=now)
        same: dict[str, Any] = {"pipeline": "p", "model": "m", "release": 1, "verdict": "true_fault", "who": "ann"}
        times = {"from_at": 1.0, "to_at": 2.0, "from_t_s": 1.0, "to_t_s": 2.0, "resolved_at": now}
        server.insert(tables.labels, case_id=1, episode=1, device=device, **same, **times)
    works.turn(now)
    return server


@pytest.fixture
def mine(fleet: AdminServer) -> Iterator[httpx.Client]:
    """A client with an admin's token that is limited to one of the devices."""
    made = create_api_token(fleet.engine, "north", ["admin"], expires_at=None, who="test", now=time.time(), scope=SCOPE)
    with fleet.http(made.token) as http:
        yield http


def cases_of(server: AdminServer) -> dict[str, str]:
    with server.http() as http:
        return {each["device"]: str(each["id"]) for each in http.get(f"{API}/cases").json()["items"]}


def test_no_route_shows_or_changes_another_device(fleet: AdminServer, mine: httpx.Client) -> None:
    """Every route: refused as one of the whole fleet, or it knows nothing of a device outside."""
    cases = cases_of(fleet)
    assert set(cases) == {MINE, FOREIGN}
    with fleet.engine.connect() as connection:
        before = connection.execute(select(tables.devices).order_by(tables.devices.c.id)).all()
    shown = set()
    for method, path in routes(fleet):
        if not path.startswith(API):
            continue
        name = f"{method} {path.removeprefix(API)}"
        foreign = path.replace("{device}", FOREIGN).replace("{case}", cases[FOREIGN])
        first = "cap" if "/captures/" in path else "cmd"
        answer = ask(mine, method, concrete(foreign.replace("{command}", f"{first}-{FOREIGN}")))
        if name.replace("HEAD", "GET") not in WITHIN_SCOPE:
            code = "api.out_of_scope"
            if method != "HEAD" and not path.endswith("/events"):
                code = answer.json()["code"]
            assert (answer.status_code, code) == (403, "api.out_of_scope"), name
            continue
        if any(each in path for each in ("{device}", "{case}", "{command}")):
            assert answer.status_code == 404, f"{name}: {answer.status_code} {answer.text}"
            own = path.replace("{device}", MINE).replace("{case}", cases[MINE])
            if method == "GET":
                found = ask(mine, method, concrete(own.replace("{command}", f"{first}-{MINE}")))
                # a bundle and a recording whose files are not there, and a curve that needs a pipeline
                assert (
                    found.status_code == 200
                    or "/bundle" in own
                    or "/recording" in own
                    or own.endswith(("/history", "/features"))
                ), name
            continue
        if method == "GET":
            assert FOREIGN not in answer.text, name
            shown |= {name} if MINE in answer.text else set()
    lists = {"GET /devices", "GET /device-commands", "GET /captures", "GET /alerts", "GET /cases", "GET /labels"}
    assert shown == lists | {"GET /lineage/recordings/{sha256}"}  # both devices captured the same bytes
    with fleet.engine.connect() as connection:
        after = connection.execute(select(tables.devices).order_by(tables.devices.c.id)).all()
    assert after == before


def test_filters_do_not_lead_out(mine: httpx.Client) -> None:
    for path in ("device-commands", "captures", "alerts", "cases", "labels"):
        assert mine.get(f"{API}/{path}", params={"device": FOREIGN}).json()["items"] == [], path
        assert mine.get(f"{API}/{path}", params={"device": MINE}).json()["items"], path
    for q in (f"id = {FOREIGN}", "site = south or online", "not site = north", "has id"):
        answer = mine.get(f"{API}/devices", params={"q": q})
        assert FOREIGN not in answer.text, q
    assert mine.get(f"{API}/device-counts").json()["devices"] == 1
    assert mine.get(f"{API}/devices", params={"q": "online)"}).json()["code"] == "query.invalid"
    assert mine.get(f"{API}/devices", params={"q": "online) or (has id"}).json()["code"] == "query.invalid"
    assert mine.get(f"{API}/who").json()["scope"] == SCOPE


def test_devices_come_and_stay_within(fleet: AdminServer, mine: httpx.Client) -> None:
    """What is enrolled carries the tags that make it one's own, and no change gives a device away."""

    def code(method: str, path: str, body: dict[str, Any]) -> Any:
        answer = mine.request(method, API + path, json=body)
        return answer.status_code if answer.is_success else answer.json()["code"]

    assert code("POST", "/tokens", {"device": "new-1", "tags": {"site": "north"}}) == 201
    assert code("POST", "/tokens", {"device": "new-2", "tags": {"site": "south"}}) == "api.out_of_scope"
    assert code("POST", "/tokens", {"device": "new-2"}) == "api.out_of_scope"
    assert code("POST", "/tokens", {"device": FOREIGN, "tags": {"site": "north"}}) == "api.out_of_scope"
    several = [{"device": "new-3", "tags": {"line": "n"}}, {"device": "new-4"}]
    assert code("POST", "/device-tokens", {"devices": several}) == "api.out_of_scope"
    assert code("POST", "/device-tokens", {"devices": several[:1]}) == 201
    assert code("PATCH", f"/devices/{MINE}", {"tags": {"site": "south"}}) == "api.out_of_scope"
    assert code("PATCH", f"/devices/{MINE}", {"tags": {"site": "south", "line": "n"}}) == 200
    assert code("POST", "/device-edits", {"q": "has id", "tags": {"line": None}}) == "api.out_of_scope"
    assert code("POST", "/device-edits", {"q": "has id", "tags": {"hall": "2"}}) == 200
    with fleet.http() as http:
        found = {each["id"]: each["tags"] for each in http.get(f"{API}/devices").json()["items"]}
    assert found == {
        MINE: {"site": "south", "line": "n", "hall": "2"},
        FOREIGN: {"site": "south"},
        "new-1": {"site": "north", "hall": "2"},
        "new-3": {"line": "n", "hall": "2"},
    }


def test_a_token_may_be_limited_to_permissions(server: AdminServer) -> None:
    with FleetClient(server.url, server.token) as client:
        made = client.create_api_token("reader", ["admin"], None, ["read", "device.enrol"])
        assert client.api_tokens()[0]["permissions"] == ["device.enrol", "read"]
        for wrong, code in (
            ({"permissions": ["campaign.start"]}, "access.permission"),
            ({"scope": "site ="}, "query.invalid"),
            ({"scope": "x" * 3000}, "query.invalid"),
        ):
            with pytest.raises(FleetError, match=rf"\[{code}\]"):
                client.call("POST", "/api-tokens", {"name": "a", "roles": ["operator"], **wrong})
    with FleetClient(server.url, made["token"]) as client:
        assert client.who()["permissions"] == ["device.enrol", "read"]
        client.create_token("press-1")
        with pytest.raises(FleetError, match=r"\[api\.forbidden\]"):
            client.move_device("press-1", "retire")
    page = httpx.post(server.url + "/sign-in", data={"token": made["token"]}, trust_env=False)
    with server.http() as http:
        http.headers.pop("Authorization")
        http.cookies = page.cookies
        assert http.get(f"{API}/who").json()["permissions"] == ["device.enrol", "read"]


def test_the_page_refuses_a_token_of_some_devices(server: AdminServer, tmp_path: Path) -> None:
    environment = {"WHEELTAPPER_URL": server.url, "WHEELTAPPER_API_TOKEN": server.token, "COLUMNS": "200"}
    asked = ["token", "create", "north", "--role", "viewer", "--scope", SCOPE]
    made = CliRunner().invoke(app, asked, env=environment)
    assert made.exit_code == 0, made.output
    listed = CliRunner().invoke(app, ["token", "list"], env=environment).output
    assert f"devices: {SCOPE}" in listed
    token = made.output.strip()
    seen = CliRunner().invoke(app, ["who"], env=environment | {"WHEELTAPPER_API_TOKEN": token}).output
    assert f"only devices: {SCOPE}" in seen
    answer = httpx.post(server.url + "/sign-in", data={"token": token}, trust_env=False)
    assert answer.status_code == 403
    assert not answer.cookies


@pytest.mark.parametrize("descending", [False, True])
def test_a_narrowed_list_is_whole_and_a_page_looks_at_few_rows(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, descending: bool
) -> None:
    monkeypatch.setattr(paging, "LOOKED_AT", 7)
    now, own = 1.79e9, {3, 4, 31, 48, 49}
    row = {"who": "ann", "event": "tags", "state": "active", "detail": "", "why": "", "at": now}
    with engine.begin() as connection:
        for device, site in ((MINE, "north"), (FOREIGN, "south")):
            values = {"id": device, "tags": {}, "site": site, "online": True, "counter": 0}
            connection.execute(insert(tables.devices).values(values))
        rows = [{"id": n, "device": MINE if n in own else FOREIGN, **row} for n in range(1, 51)]
        connection.execute(insert(tables.device_log), rows)
    mine = in_scope(narrowed("", "site = north"), tables.device_log.c.device, now)
    assert mine is not None
    found: list[int] = []
    pages, after = 0, None
    with reading(engine) as connection:
        while True:
            some, after = page_of(
                connection,
                select(tables.device_log),
                (tables.device_log.c.id,),
                limit=2,
                after=after,
                descending=descending,
                within=mine,
            )
            assert len(some) <= 2
            found, pages = [*found, *(each.id for each in some)], pages + 1
            if after is None:
                break
    assert found == sorted(own, reverse=descending)
    assert pages >= 50 / 7

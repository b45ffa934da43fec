"""Requests that are repeated, on both databases and over HTTP: done once, answered the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, func, select

from tests.fleet.api.harness import MODEL, AdminServer, TableCampaigns
from wheeltapper_fleet import tables
from wheeltapper_fleet.access import repeats
from wheeltapper_fleet.access.permissions import ROUTES
from wheeltapper_fleet.access.repeats import Answer
from wheeltapper_fleet.api.limits import RateLimits
from wheeltapper_fleet.client.fleet_client import FleetClient
from wheeltapper_fleet.ground.errors import FleetError

API = "/api/v1"
NOW = 1.79e9


def refusal(engine: Engine, who: str, key: str, digest: str, now: float = NOW) -> str:
    with pytest.raises(FleetError) as caught:
        repeats.begin(engine, who, key, digest, now)
    return caught.value.code


def test_a_request_is_begun_once(engine: Engine) -> None:
    assert repeats.begin(engine, "ann", "k", "a" * 64, NOW) is None
    assert refusal(engine, "ann", "k", "a" * 64) == "api.in_progress"
    assert refusal(engine, "ann", "k", "a" * 64, NOW + 61) == "api.outcome_unknown"
    assert repeats.begin(engine, "bob", "k", "a" * 64, NOW) is None
    repeats.keep(engine, "ann", "k", Answer(201, "application/json", b"{}"))
    assert repeats.begin(engine, "ann", "k", "a" * 64, NOW) == Answer(201, "application/json", b"{}")
    assert refusal(engine, "ann", "k", "b" * 64) == "api.idempotency"
    repeats.drop(engine, "bob", "k")
    assert repeats.begin(engine, "bob", "k", "b" * 64, NOW) is None
    assert repeats.begin(engine, "ann", "k", "b" * 64, NOW + 86_401) is None, "answers are kept for a day"


def post(http: httpx.Client, path: str, body: object, key: str) -> httpx.Response:
    return http.post(API + path, json=body, headers={"Idempotency-Key": key})


def campaigns(server: AdminServer) -> int:
    with server.engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(tables.campaigns)).scalar_one())


def test_a_campaign_that_is_asked_for_twice_is_made_once(server: AdminServer) -> None:
    body = {"spec": {"model": MODEL, "release": 1}}
    with server.http() as http, server.http(server.token_of("admin", name="bob")) as other:
        first = post(http, "/campaigns", body, "order-4711")
        again = post(http, "/campaigns", body, "order-4711")
        assert first.status_code == again.status_code == 201
        assert first.json() == again.json()
        assert (first.headers.get("Idempotency-Replayed"), again.headers["Idempotency-Replayed"]) == (None, "true")
        assert campaigns(server) == 1
        changed = post(http, "/campaigns", {"spec": {"model": MODEL, "release": 2}}, "order-4711")
        assert (changed.status_code, changed.json()["code"]) == (409, "api.idempotency")
        assert post(other, "/campaigns", body, "order-4711").json()["id"] != first.json()["id"]
        assert len(http.get(f"{API}/audit").json()["items"]) == 2, "what is answered again changed nothing"
        for wrong in ("", "a b", "x" * 101, "é".encode().decode("latin-1")):
            answer = http.post(f"{API}/campaigns", json=body, headers={b"Idempotency-Key": wrong.encode("latin-1")})
            assert answer.status_code in (400, 422), wrong
    assert campaigns(server) == 2


def test_what_only_asks_is_no_change(server: AdminServer) -> None:
    asking = [path.partition(" ")[2] for path, needed in ROUTES.items() if path.startswith("POST") and needed == "read"]
    assert asking
    with server.http() as http:
        for path in asking:
            http.post(API + path, json={"spec": {"model": MODEL, "release": 1}})
        assert http.get(f"{API}/audit").json()["items"] == []


def test_what_was_refused_may_be_asked_again_with_the_same_key(server: AdminServer) -> None:
    with server.http() as http:
        assert post(http, "/campaigns", {"spec": {}}, "k").json()["code"] == "campaign.invalid"
        assert post(http, "/campaigns", {"spec": {"model": MODEL, "release": 1}}, "k").status_code == 201


def test_a_secret_is_not_kept(server: AdminServer) -> None:
    with server.http() as http:
        made = post(http, "/api-tokens", {"name": "ann", "roles": ["viewer"]}, "k").json()
        again = post(http, "/api-tokens", {"name": "ann", "roles": ["viewer"]}, "k")
        assert (again.status_code, again.json()["code"]) == (409, "api.already_done")
        assert len(http.get(f"{API}/api-tokens").json()["items"]) == 2
    with server.engine.connect() as connection:
        assert made["token"] not in str(connection.execute(select(tables.repeats)).all())


def test_a_key_is_no_way_in(server: AdminServer) -> None:
    body = {"spec": {"model": MODEL, "release": 1}}
    token = server.token_of("admin", name="ann")
    with server.http(token) as ann, server.http() as admin:
        made = post(ann, "/campaigns", body, "k")
        (listed,) = [each for each in admin.get(f"{API}/api-tokens").json()["items"] if each["name"] == "ann"]
        admin.post(f"{API}/api-tokens/{listed['id']}/revoke")
        again = post(ann, "/campaigns", body, "k")
        assert (again.status_code, again.json()["code"]) == (401, "api.unauthorized")
        assert made.json()["id"] not in again.text


def test_many_at_once_make_one(server: AdminServer) -> None:
    body, found = {"spec": {"model": MODEL, "release": 1}}, []

    def ask() -> None:
        with server.http() as http:
            found.append(post(http, "/campaigns", body, "k"))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in found} <= {201, 409}
    assert campaigns(server) == 1


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[AdminServer]:
    limits = RateLimits(per_second=0.001, burst=5, failures_per_second=0.001, failures_burst=3)
    with AdminServer(tmp_path / "data", limits=limits) as running:
        yield running


def test_who_asks_too_fast_waits_and_nobody_else(limited: AdminServer) -> None:
    with limited.http() as fast, limited.http(limited.token_of("viewer")) as other:
        assert [fast.get(f"{API}/who").status_code for _ in range(7)] == [200] * 5 + [429] * 2
        refused = fast.get(f"{API}/who")
        assert refused.json()["code"] == "api.rate_limited"
        assert int(refused.headers["Retry-After"]) > 1
        assert other.get(f"{API}/who").status_code == 200


def test_who_guesses_tokens_is_stopped_and_who_has_one_is_not(limited: AdminServer) -> None:
    with limited.http() as right:
        assert right.get(f"{API}/who").status_code == 200
        statuses = []
        for number in range(6):
            with limited.http(f"wta_{number}") as guessing:
                statuses.append(guessing.get(f"{API}/who").status_code)
        assert statuses == [401] * 3 + [429] * 3
        assert right.get(f"{API}/who").status_code == 200


def test_what_failed_within_is_not_done_again_and_is_on_record(
    server: AdminServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"spec": {"model": MODEL, "release": 1}}
    real = TableCampaigns.create

    def create_and_fail(campaigns: TableCampaigns, spec: Mapping[str, Any], who: str) -> str:
        real(campaigns, spec, who)
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(TableCampaigns, "create", create_and_fail)
    with server.http() as http:
        assert post(http, "/campaigns", body, "k").status_code == 500
    monkeypatch.setattr(TableCampaigns, "create", real)
    with server.http() as http:
        assert post(http, "/campaigns", body, "k").json()["code"] == "api.in_progress"
        (change,) = http.get(f"{API}/audit").json()["items"]
        assert (change["route"], change["status"]) == ("POST /campaigns", 500)
    assert campaigns(server) == 1


def test_a_client_that_is_too_fast_waits_and_goes_on(tmp_path: Path) -> None:
    limits = RateLimits(per_second=4.0, burst=2)
    with AdminServer(tmp_path / "data", limits=limits) as server, FleetClient(server.url, server.token) as client:
        assert {client.who()["name"] for _ in range(4)} == {"first"}

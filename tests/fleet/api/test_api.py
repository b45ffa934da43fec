"""The admin API over real HTTP."""

from __future__ import annotations

import hashlib
import json
import socket
import sqlite3
import stat
import time

import httpx
import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from tests.fleet.api.harness import MODEL, AdminServer
from wheeltapper_fleet import tables
from wheeltapper_fleet.access import repeats
from wheeltapper_fleet.access.sessions import COOKIE
from wheeltapper_fleet.client.fleet_client import FleetClient
from wheeltapper_fleet.ground.errors import FleetError


def raw(server: AdminServer, request: bytes) -> bytes:
    """Send bytes that no HTTP client would send; gives the first bytes of the answer."""
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=10) as connection:
        connection.sendall(request)
        return connection.recv(4096)


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", "Basic abc", "Bearer " + "x" * 5000, "Bearer é"])
def test_a_missing_or_wrong_token_is_refused(server: AdminServer, header: str | None) -> None:
    headers = {} if header is None else {b"Authorization": header.encode("latin-1")}
    for method, path in (("GET", "/devices"), ("GET", "/summary"), ("POST", "/tokens"), ("PUT", "/blobs/" + "0" * 64)):
        answer = httpx.request(method, f"{server.url}/api/v1{path}", headers=headers, trust_env=False)
        assert (answer.status_code, answer.json()["code"]) == (401, "api.unauthorized")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RuntimeError("secret 123"), 500, "api.internal"),
        (OperationalError("SELECT secret", {}, sqlite3.OperationalError("disk I/O error")), 503, "api.database"),
        (IntegrityError("SELECT secret", {}, sqlite3.IntegrityError("UNIQUE constraint")), 500, "api.internal"),
    ],
)
def test_what_fails_within_is_answered_as_everything_else(
    server: AdminServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    code: str,
) -> None:
    """A route that breaks, and a middleware in front of it: problem details, secure headers, a request id."""

    def broken() -> None:
        raise error

    server.app.add_api_route("/api/v1/broken", broken, methods=["GET", "POST"])
    with server.http() as http:
        good = http.get("/api/v1/who")
        for answer in (http.get("/api/v1/broken"), http.post("/api/v1/broken")):
            assert (answer.status_code, answer.json()["code"]) == (status, code)
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-request-id"]
            assert set(good.headers) - {"content-length"} <= set(answer.headers)
            assert "secret" not in answer.text
        monkeypatch.setattr(repeats, "begin", lambda *_: broken())
        answer = http.post("/api/v1/tokens", json={}, headers={"Idempotency-Key": "one"})
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.headers["content-security-policy"] == good.headers["content-security-policy"]
    assert (f"a request failed: {type(error).__name__}" in caplog.text) == (status == 500)


def test_token_file_is_private_and_not_in_the_database(server: AdminServer) -> None:
    assert stat.S_IMODE((server.data_dir / "api-token").stat().st_mode) == 0o600
    assert server.token.encode() not in (server.data_dir / "fleet.db").read_bytes()


def test_a_cookie_may_read_but_not_write(server: AdminServer) -> None:
    cookies = {COOKIE: server.sign_in()}
    with httpx.Client(base_url=server.url, cookies=cookies, trust_env=False) as browser:
        assert browser.get("/api/v1/devices").status_code == 200
        assert browser.post("/api/v1/tokens", json={"device": "a"}).status_code == 401
        assert browser.post("/sign-out").status_code == 303
        assert browser.get("/api/v1/devices", cookies=cookies).status_code == 401


def test_signing_in_and_out(server: AdminServer) -> None:
    bad = httpx.post(server.url + "/sign-in", data={"token": "<b>no"}, trust_env=False)
    assert bad.status_code == 401
    assert "<b>" not in bad.text
    assert COOKIE not in bad.cookies
    good = httpx.post(server.url + "/sign-in", data={"token": server.token}, trust_env=False)
    cookie = good.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert server.token not in cookie
    foreign = httpx.post(
        server.url + "/sign-in",
        data={"token": server.token},
        headers={"Origin": "http://evil.example"},
        trust_env=False,
    )
    assert (foreign.status_code, foreign.json()["code"]) == (403, "api.forbidden")


def test_another_host_name_is_refused(server: AdminServer) -> None:
    with server.http() as http:
        for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", ""):
            answer = http.get("/api/v1/devices", headers={"Host": host})
            assert answer.status_code in (400, 421), host
    answer2 = raw(server, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil\r\n\r\n")
    assert answer2.split()[1] in (b"400", b"421")


def test_healthz_needs_no_token(server: AdminServer) -> None:
    answer = httpx.get(server.url + "/healthz", trust_env=False)
    assert answer.json() == {"ok": True, "failing": []}
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_bodies_over_the_limit_are_refused(server: AdminServer) -> None:
    with server.http() as http:
        told = http.post("/api/v1/tokens", content=b"x" * 300_000)
        assert (told.status_code, told.json()["code"]) == (413, "api.too_large")

        def endless() -> object:
            for _ in range(40):
                yield b"x" * 10_000

        counted = http.post("/api/v1/tokens", content=endless())  # type: ignore[arg-type]  # a generator is one
        assert (counted.status_code, counted.json()["code"]) == (413, "api.too_large")
    head = f"PUT /api/v1/blobs/{'0' * 64} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {server.token}\r\n"
    assert b" 413 " in raw(server, (head + f"Content-Length: {10**12}\r\n\r\n").encode())[:20]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"[" * 100_000, b'{"device":"a","x":1}', b'{"device":"../x"}', b'{"device":"A"}', b"\xff\xfe"],
)
def test_malformed_bodies_are_refused(server: AdminServer, body: bytes) -> None:
    with server.http() as http:
        answer = http.post("/api/v1/tokens", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert set(answer.json()) == {"type", "title", "status", "detail", "code"}


@pytest.mark.parametrize("device", ["A", "%2e%2e%2f", "a.b", "%00", "a" * 64, "%2e%2e%2fkeys", "é"])
def test_malformed_device_ids_are_refused(server: AdminServer, device: str) -> None:
    with server.http() as http:
        for path in (f"/api/v1/devices/{device}", f"/api/v1/models/{device}/targets", f"/static/{device}"):
            answer = http.get(path)
            assert answer.status_code in (404, 422), path
            assert set(answer.json()) == {"type", "title", "status", "detail", "code"}


def test_routes_of_tokens_devices_and_captures(server: AdminServer) -> None:
    server.add_device("press-1")
    server.add_scores("press-1", [0.2, 0.4, 0.3])
    with FleetClient(server.url, server.token) as client:
        made = client.create_token("press-2", 60, {"site": "hall-2"})
        assert made["token"].startswith("wt1.press-2.")
        found = client.device("press-1")
        assert (found["score"], found["severity"], found["pipelines"][0]["release"]) == (0.3, "normal", 1)
        assert [point["score"] for point in found["scores"]] == [0.2, 0.4, 0.3]
        command = client.request_capture("press-1", "bearing", 5)
        assert client.captures("press-1")[0] | {"state": "waiting", "snapshots": 5} == client.captures()[0]
        with pytest.raises(FleetError, match=r"\[capture\.not_found\]"):
            client.fetch_capture(command, server.data_dir / "x.npz")
        content = b"recording"
        sha256 = hashlib.sha256(content).hexdigest()
        (server.data_dir / "captures" / f"{sha256}.npz").write_bytes(content)
        row = {"command": command, "device": "press-1", "pipeline": "bearing", "sha256": sha256, "length": 9}
        server.insert(tables.captures, **row, snapshots=5, received_at=1e9)
        assert client.fetch_capture(command, server.data_dir / "x.npz") == 9
        assert (server.data_dir / "x.npz").read_bytes() == content
        assert client.revoke("press-1")["revoked"] is True
        with pytest.raises(FleetError, match=r"\[device\.revoked\]"):
            client.request_capture("press-1", "bearing", 5)
        with pytest.raises(FleetError, match=r"\[device\.not_found\]"):
            client.device("nobody")
        summary = client.summary()
        assert summary["devices_enrolled"] == 1
        assert summary["records"]["stored"] == client.delivery("press-1")["stored"] == 3
        client.forget("press-1")
        for again in (client.forget, client.device):
            with pytest.raises(FleetError, match=r"\[device\.not_found\]"):
                again("press-1")


def test_uploading_blobs(server: AdminServer) -> None:
    content = b"weights" * 500_000
    sha256 = hashlib.sha256(content).hexdigest()
    with FleetClient(server.url, server.token) as client:
        assert not client.has_blob(sha256)
        with pytest.raises(FleetError, match=r"\[blob\.hash\]"):
            client.put_blob(sha256, content[:-1])
        assert not client.has_blob(sha256)
        client.put_blob(sha256, content)
        client.put_blob(sha256, content)
        assert client.has_blob(sha256)
        _, number = client.role_metadata(MODEL)
        assert number == 1
        with pytest.raises(FleetError, match=r"\[manifest\.malformed\]"):
            client.publish(MODEL, b"{}", b"{}")
    assert not [path for path in (server.data_dir / "blobs").iterdir() if path.name.startswith(".")]


def test_a_campaign_conflict_is_answered_with_the_current_state(server: AdminServer) -> None:
    with FleetClient(server.url, server.token) as client, server.http() as http:
        made = client.create_campaign({"model": MODEL, "release": 1})
        path = f"/api/v1/campaigns/{made['id']}"
        assert http.post(f"{path}/start").json()["code"] == "campaign.version_required"
        assert client.act(made["id"], "start", 1)["state"] == "RUNNING"
        conflict = http.post(f"{path}/pause", headers={"If-Match": '"1"'})
        assert (conflict.status_code, conflict.json()["code"]) == (412, "campaign.conflict")
        assert conflict.json()["current"]["version"] == 2
        in_body = http.post(f"{path}/pause", json={"expected_version": 1})
        assert (in_body.status_code, in_body.json()["current"]["version"]) == (409, 2)
        assert http.post(f"{path}/pause", headers={"If-Match": http.get(path).headers["ETag"]}).status_code == 200
        assert http.post(f"{path}/explode", headers={"If-Match": "3"}).status_code == 404
        assert http.post(f"{path}/pause", headers={"If-Match": "x"}).status_code == 428
        with pytest.raises(FleetError, match=r"\[campaign\.not_found\]"):
            client.act("nothing", "start", 1)


def test_events_start_with_the_whole_state_and_continue_with_changes(server: AdminServer) -> None:
    server.add_device("press-1")
    with FleetClient(server.url, server.token) as client:
        events = client.events()
        assert next(events)[0] == "reset"
        kind, value = next(events)
        assert (kind, value["id"]) == ("device", "press-1")
        server.add_alert("press-1", [{"feature": "rms", "value": 2.0, "usual": 1.0, "share": 0.9}])
        kind, value = next(events)
        assert (kind, value["device"]) == ("alert", "press-1")
        assert json.dumps(value)


def test_a_score_that_is_not_of_now_is_shown_as_none(server: AdminServer) -> None:
    now = time.time()
    server.add_device("press-1")
    server.add_scores("press-1", [0.2, 0.4, 0.3], now=now - 3600)
    server.add_device("press-2", status={"online": True, "pipelines": {"bearing": {"model": None, "release": None}}})
    server.add_scores("press-2", [2.5], "critical")
    server.add_alert("press-1", [], label="model.no_score", score=0.0, severity="warning")
    with server.http() as http:
        gone, without = http.get("/api/v1/devices").json()["items"]
        assert (gone["score"], gone["severity"]) == (None, None)
        assert gone["no_score_since"] == pytest.approx(now - 3601, abs=5)
        assert (without["score"], without["no_score_since"], without["scores"]) == (None, None, [])
        assert http.get("/api/v1/alerts").json()["items"][0]["score"] is None
        cookies = {COOKIE: server.sign_in()}
    cards = httpx.get(server.url + "/fragments/devices", cookies=cookies, trust_env=False).text
    assert 'no score since <time datetime="20' in cards
    assert cards.count("no model") == 2
    assert 'data-severity="critical"' not in cards
    assert "no score" in httpx.get(server.url + "/fragments/alerts", cookies=cookies, trust_env=False).text
    with FleetClient(server.url, server.token) as client:
        assert client.devices()[0]["pipelines"][0]["score"] is None

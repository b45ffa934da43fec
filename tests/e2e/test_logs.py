"""What the processes log: nothing loud in health, and no traceback for what is to be expected from clients."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from pathlib import Path

import httpx
import pytest

from tests.agent.servers import Authority
from wheeltapper_fleet.demo.stage import Stage, wait_for
from wheeltapper_fleet.demo.story import Story

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

LOUD = re.compile(r"^\S+ \S+ (WARNING|ERROR|CRITICAL) |^Traceback|^\s+raise |^[\w.]*(Error|Exception|Warning)\b")


def lines(stage: Stage, name: str) -> list[str]:
    return (stage.folder / "logs" / f"{name}.log").read_text(encoding="utf-8").splitlines()


def loud(stage: Stage, name: str) -> list[str]:
    """The lines of a process's log that a person would look into."""
    return [line for line in lines(stage, name) if LOUD.search(line)]


def test_health_is_quiet(stage: Stage, bundle: Path) -> None:
    """Enrolment, a capture, a release, an alert-free while, a restart of each process."""
    story = Story(stage, devices=1)
    story.enrol()
    story.capture(20)
    made = stage.client.create_campaign({"model": stage.model, "release": story.publish(bundle)})
    stage.client.act(made["id"], "start", made["version"])
    wait_for("the release to run", lambda: stage.client.campaign(made["id"])["state"] == "COMPLETED", 120)
    info = (stage.data_dir / "serve.json").read_bytes()
    stage.end("press-1")
    stage.end("fleet")
    (stage.data_dir / "serve.json").write_bytes(info)  # the same ports again
    stage.start_fleet()
    stage.start_agent("press-1")
    wait_for("the device to be online", lambda: stage.client.device("press-1")["online"], 30)
    time.sleep(3.0)
    stage.close()
    assert [loud(stage, name) for name in ("fleet", "press-1")] == [[], []]
    assert any("ready" in line for line in lines(stage, "fleet"))
    assert any("connected" in line for line in lines(stage, "press-1"))


def test_what_clients_may_get_wrong_leaves_no_traceback(stage: Stage, tmp_path: Path) -> None:
    stage.start_fleet()
    info = stage.serve_info()
    token = stage.client.create_token("press-1", ttl_seconds=600, tags={})["token"]
    config = {"device": {"state_dir": "state"}, "delivery": {"reconnect_max_seconds": 0.5}}
    stage.enrol("press-2", config)
    stage.start_agent("press-2")
    wait_for("the device to be online", lambda: stage.client.device("press-2")["online"], 30)
    before = len(loud(stage, "fleet"))
    hostile_http(stage.url, (stage.data_dir / "api-token").read_text(encoding="utf-8").strip())
    hostile_tls(int(info["device_port"]), tmp_path)
    hostile_tls(int(info["mqtt_port"]), tmp_path)
    hostile_devices_api(f"https://127.0.0.1:{info['device_port']}", token)
    stage.client.revoke("press-2")
    wait_for("the refusal", lambda: [line for line in lines(stage, "press-2") if "mqtt.refused" in line], 30)
    time.sleep(4.0)
    stage.close()
    assert loud(stage, "fleet")[before:] == []
    codes = [code[1] if (code := re.search(r" (mqtt\.\w+): ", line)) else line for line in loud(stage, "press-2")]
    assert codes in (["mqtt.lost", "mqtt.refused"], ["mqtt.refused"])  # once each
    refusals = [line for line in lines(stage, "fleet") if "a connection was refused" in line]
    assert 1 <= len(refusals) <= 2


def hostile_http(url: str, token: str) -> None:
    """The admin listener: no token, a wrong one, no HTTP, bodies that break off, paths and methods that are none."""
    good = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, trust_env=False) as client:
        assert client.get("/api/v1/devices").status_code == 401
        assert client.get("/api/v1/devices", headers={"Authorization": "Bearer x"}).status_code == 401
        assert client.get("/api/v1/devices/nobody", headers=good).status_code == 404
        assert client.post("/api/v1/tokens", headers=good, content=b"{").status_code == 422
        assert client.delete("/api/v1/summary", headers=good).status_code == 405
        assert client.get("/nothing").status_code in (404, 303)
        with client.stream("GET", "/api/v1/events", headers=good) as stream:
            assert stream.status_code == 200  # and is left
    address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
    for content in (
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        f"POST /api/v1/tokens HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{".encode(),
        f"PUT /api/v1/blobs/{'a' * 64} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        "Content-Length: 100000\r\n\r\nabc".encode(),
        b"GET /api/v1/devices HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
    ):
        with socket.create_connection(address, timeout=5) as connection:
            connection.sendall(content)
            time.sleep(0.2)


def hostile_tls(port: int, folder: Path) -> None:
    """A listener with TLS: no TLS, TLS without a certificate, one of a stranger, one that breaks off."""
    stranger = Authority(folder / "stranger").pair("press-9")
    for content in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\x10\x00"):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(content)
            time.sleep(0.2)
    for certificate in (None, stranger):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if certificate is not None:
            context.load_cert_chain(*certificate)
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), timeout=5) as connection,
            context.wrap_socket(connection) as encrypted,
        ):
            encrypted.sendall(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04evil")
            encrypted.recv(100)
    context = ssl.create_default_context()  # it does not trust this fleet
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        context.wrap_socket(connection, server_hostname="127.0.0.1")


def hostile_devices_api(url: str, token: str) -> None:
    """The devices' API: tokens that are none, bodies that are none, no certificate where one is needed."""
    with httpx.Client(base_url=url, trust_env=False, verify=False) as client:  # a stranger trusts anybody
        assert client.post("/v1/enrol", json={"token": "wt1.x.y.z", "csr": "none"}).status_code in (400, 403, 422)
        assert client.post("/v1/enrol", json={"token": token, "csr": "none"}).status_code in (400, 403, 422)
        assert client.post("/v1/enrol", content=b"\xff").status_code in (400, 422)
        assert client.get("/v1/nothing").status_code == 404
        assert client.get("/v1/tuf/timestamp.json").status_code in (401, 403, 404)
        assert client.put("/v1/captures/c-1", content=b"x").status_code in (400, 401, 403, 411)
    port = int(url.rsplit(":", 1)[1])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        encrypted = context.wrap_socket(connection)
        encrypted.sendall(b"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nab")
        time.sleep(0.2)

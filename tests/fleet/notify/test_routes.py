"""Targets and notifications over real HTTP, and ``wheeltapper notify``."""

from __future__ import annotations

import time

from typer.testing import CliRunner

from tests.fleet.api.harness import AdminServer
from tests.fleet.notify.servers import receiving
from wheeltapper_fleet.cli.app import app
from wheeltapper_fleet.notify.delivery import Delivery
from wheeltapper_fleet.notify.settings import NotifySettings

API = "/api/v1"


def run(server: AdminServer, *arguments: str, code: int = 0) -> str:
    environment = {"WHEELTAPPER_URL": server.url, "WHEELTAPPER_API_TOKEN": server.token, "COLUMNS": "200"}
    done = CliRunner().invoke(app, ["notify", *arguments], env=environment)
    assert done.exit_code == code, done.output
    return done.output


def test_a_secret_is_given_out_once_and_a_path_never(server: AdminServer) -> None:
    body = {"id": "ops", "kind": "webhook", "address": "https://hooks.example/T0/secret-path"}
    with server.http() as http:
        made = http.post(f"{API}/notify-targets", json=body)
        assert made.status_code == 201
        secret = made.json()["secret"]
        assert secret.startswith("whsec_")
        for answer in (made, http.get(f"{API}/notify-targets"), http.get(f"{API}/notify-targets/ops")):
            assert "secret-path" not in answer.text
        assert secret not in http.get(f"{API}/notify-targets/ops").text
        for asked, code in (
            (body, "notify.exists"),
            ({**body, "id": "b", "address": "ftp://x/"}, "notify.url"),
            ({**body, "id": "b", "kind": "mail"}, "notify.mail"),
            ({**body, "id": "b", "query": "online and"}, "query.invalid"),
            ({**body, "id": "b", "colour": "red"}, "api.invalid"),
        ):
            assert http.post(f"{API}/notify-targets", json=asked).json()["code"] == code
        changed = http.patch(f"{API}/notify-targets/ops", json={"min_severity": "critical", "enabled": False})
        assert (changed.json()["min_severity"], changed.json()["enabled"]) == ("critical", False)
        assert http.get(f"{API}/notify-targets/nobody").json()["code"] == "notify.not_found"
        assert http.post(f"{API}/notifications/9/resend").json()["code"] == "notify.not_found"


def test_the_command_line_adds_tests_and_resends(server: AdminServer) -> None:
    with receiving() as receiver:
        receiver.answers = [400]
        assert "whsec_" in run(server, "add", "ops", receiver.url, "--min-severity", "critical")
        assert "is told" in run(server, "add", "ann", "ann@works.example", "--site", "works")
        listed = run(server, "list")
        assert "critical or worse" in listed
        assert "whsec_" not in listed
        run(server, "test", "ops")
        delivery = Delivery(server.engine, NotifySettings(allow_private=("127.0.0.0/8",)))
        delivery.turn(time.time())
        delivery.wait()
        assert "status 400" in run(server, "sent", "--target", "ops", "--state", "dead")
        assert "is sent again" in run(server, "resend", "1")
        delivery.turn(time.time() + 1)
        delivery.wait()
        delivery.stop()
        assert len(receiver.got) == 2
        assert "sent" in run(server, "sent")
        assert "told no more" in run(server, "remove", "ops")
        assert "notify.not_found" in run(server, "test", "ops", code=1)

"""Every device that a query means is asked, or none; on both databases, over the API and by the command."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from sqlalchemy import Engine, insert

from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet import tables
from wheeltapper_fleet.cli.app import main
from wheeltapper_fleet.devices import many_commands
from wheeltapper_fleet.devices.commands import list_commands
from wheeltapper_fleet.devices.many_commands import ask_many
from wheeltapper_fleet.ground.errors import FleetError

AT = 1.79e9
RESTART = {"type": "restart-pipeline", "pipeline": "main"}
STATES = ("active", "active", "quarantined", "revoked", "pending")


@pytest.fixture
def five(engine: Engine) -> Engine:
    """Five devices, of which three may connect."""
    rows = [
        {"id": f"press-{number}", "tags": {}, "state": state, "online": False} for number, state in enumerate(STATES)
    ]
    with engine.begin() as connection:
        connection.execute(insert(tables.devices), rows)
    return engine


def asked(engine: Engine) -> set[str]:
    return {each.device for each in list_commands(engine, None, AT).items}


def test_who_may_connect_is_asked_and_the_others_are_counted(five: Engine) -> None:
    dry = ask_many(five, "has id", RESTART, who="ann", now=AT, dry=True)
    assert asked(five) == set()
    done = ask_many(five, "has id", RESTART, who="ann", now=AT, expected=5)
    assert done == dry
    assert (done.matched, done.changed, done.refused) == (5, 3, {"command.state": 2})
    assert asked(five) == {"press-0", "press-1", "press-2"}
    found = list_commands(five, None, AT).items
    assert {(each.type, each.body["pipeline"], each.who) for each in found} == {("restart-pipeline", "main", "ann")}
    assert len({each.command for each in found}) == 3
    assert ask_many(five, "has id", RESTART, who="ann", now=AT, scope='id = "press-1"').changed == 1


def test_what_is_refused_asks_nobody(five: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def code(query: str = "has id", body: dict[str, str] = RESTART, **more: Any) -> str:
        with pytest.raises(FleetError) as caught:
            ask_many(five, query, body, who="ann", now=AT, **more)
        return caught.value.code

    assert code(query="") == "query.everything"
    assert code(query="id = = 3") == "query.invalid"
    assert code(body={"type": "restart-pipeline"}) == "command.invalid"
    assert code(body={"type": "format-disk"}) == "command.invalid"
    assert code(expected=4) == "device.bulk_count"
    assert code(expires_seconds=0) == "command.invalid"
    monkeypatch.setattr(many_commands, "MOST_ASKED", 2)
    assert code() == "command.too_many"
    assert asked(five) == set()


def test_over_the_api_and_by_the_command(
    server: AdminServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        server.add_device(f"press-{number}")
    with server.http(server.token_of("viewer")) as http:
        assert http.post("/api/v1/device-commands", json={"q": "online", "type": "diagnostics"}).status_code == 403
    monkeypatch.setenv("WHEELTAPPER_URL", server.url)
    monkeypatch.setenv("WHEELTAPPER_API_TOKEN", server.token)

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["wheeltapper", "device", "command", "many", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().out

    assert run("online", "diagnostics") == (0, "3 devices match, 3 would be asked; --apply does it\n")
    assert asked(server.engine) == set()
    code, out = run("online", "restart-pipeline", "--pipeline", "main", "--expect", "3", "--apply", "--json")
    assert (code, json.loads(out)) == (0, {"matched": 3, "changed": 3, "refused": {}})
    assert asked(server.engine) == {f"press-{number}" for number in range(3)}
    assert run("online", "dance")[0] == 2
    assert run("online", "diagnostics", "--expect", "9", "--apply")[0] == 1

"""Devices over HTTP: pages of what a query means, their life, tags of one and of many, tokens of many."""

from __future__ import annotations

import pytest
from sqlalchemy import event

from tests.fleet.api.harness import MODEL, AdminServer
from wheeltapper_fleet.client.fleet_client import FleetClient
from wheeltapper_fleet.ground.errors import FleetError


def test_pages_of_a_query(server: AdminServer) -> None:
    for number in range(7):
        server.add_device(f"press-{number}", tags={"site": "north" if number % 2 else "south", "line": str(number)})
    with server.http() as http:
        first = http.get("/api/v1/devices", params={"q": "site = south", "limit": 2}).json()
        assert [each["id"] for each in first["items"]] == ["press-0", "press-2"]
        rest = http.get("/api/v1/devices", params={"q": "site = south", "limit": 2, "after": first["next"]}).json()
        assert ([each["id"] for each in rest["items"]], rest["next"]) == (["press-4", "press-6"], None)
        bad = http.get("/api/v1/devices", params={"q": "site = south und line = 3"})
        assert (bad.status_code, bad.json()["code"]) == (422, "query.invalid")
        assert "column 14" in bad.json()["detail"]
        counts = http.get("/api/v1/device-counts", params={"q": f'model(bearing) = "{MODEL}" and tag.line > 2'}).json()
        assert (counts["devices"], counts["sites"]) == (4, {"south": 2, "north": 2})
        assert counts["releases"] == [{"pipeline": "bearing", "model": MODEL, "release": 1, "devices": 4}]


@pytest.mark.parametrize("q", ["", "site = south", "not online"])
def test_a_page_costs_as_many_statements_however_long_it_is(server: AdminServer, q: str) -> None:
    for number in range(40):
        server.add_device(f"press-{number:02}", tags={"site": "south"}, online=False, status=None)
    statements: list[str] = []
    event.listen(
        server.engine.get_execution_options()["wheeltapper_readers"],
        "before_cursor_execute",
        lambda *given: statements.append(given[2]),
    )
    with server.http() as http:
        counted = []
        for limit in (5, 40):
            statements.clear()
            assert len(http.get("/api/v1/devices", params={"limit": limit, "q": q}).json()["items"]) == limit
            counted.append(len(statements))
        assert counted[0] == counted[1], statements


def test_the_life_of_a_device(server: AdminServer) -> None:
    server.add_device("press-1")
    with FleetClient(server.url, server.token) as client:
        assert client.move_device("press-1", "quarantine", "strange")["state"] == "quarantined"
        with pytest.raises(FleetError, match=r"\[device\.transition\]") as caught:
            client.move_device("press-1", "quarantine")
        assert caught.value.status == 409
        assert client.move_device("press-1", "reinstate")["state"] == "active"
        assert client.tag_device("press-1", {"site": None, "line": "3"})["tags"] == {"line": "3"}
        with pytest.raises(FleetError, match=r"\[api\.invalid\]"):
            client.tag_device("press-1", {"line": ""})
        assert client.move_device("press-1", "retire", "scrapped")["state"] == "retired"
        assert [(each["event"], each["why"]) for each in client.device_log("press-1")] == [
            ("retire", "scrapped"), ("tags", ""), ("reinstate", ""), ("quarantine", "strange")
        ]  # fmt: skip
        with pytest.raises(FleetError, match=r"\[device\.not_found\]"):
            client.move_device("nobody", "retire")


def test_many_devices_at_once(server: AdminServer) -> None:
    for number in range(3):
        server.add_device(f"press-{number}")
    with FleetClient(server.url, server.token) as client:
        change = {"tags": {"line": "3"}, "action": "quarantine"}
        assert client.edit_devices("site = hall-1", dry=True, **change)["changed"] == 3
        assert client.devices("state = active and not has tag.line")
        with pytest.raises(FleetError, match=r"\[device\.bulk_count\]"):
            client.edit_devices("site = hall-1", expected=2, **change)
        assert client.edit_devices("site = hall-1", expected=3, **change) == {
            "matched": 3, "changed": 3, "refused": {}
        }  # fmt: skip
        assert len(client.devices("state = quarantined and tag.line = 3")) == 3
        made = client.create_tokens([{"device": f"new-{number}", "tags": {"site": "south"}} for number in range(3000)])
        assert made[0]["token"].startswith("wt1.new-0.")
        assert client.device_counts()["states"] == {"quarantined": 3, "pending": 3000}
        with pytest.raises(FleetError, match=r"line 9: press-1 is quarantined already.*\[enrol\.rows\]"):
            client.create_tokens([{"device": "other"}, {"device": "press-1", "row": 9}])
        assert client.devices("id = other") == []


def test_what_is_asked_of_a_device(server: AdminServer) -> None:
    server.add_device("press-1")
    with FleetClient(server.url, server.token) as client:
        made = client.ask_device("press-1", "diagnostics", log_lines=10, expires_seconds=60)
        assert (made["state"], made["type"], made["body"]["log_lines"]) == ("waiting", "diagnostics", 10)
        other = client.ask_device("press-1", "restart-pipeline", pipeline="bearing")
        assert [each["command"] for each in client.commands("press-1")] == [other["command"], made["command"]]
        assert client.command(made["command"])["who"]
        with pytest.raises(FleetError, match=r"\[command\.no_bundle\]"):
            client.bundle(made["command"])
        with pytest.raises(FleetError, match=r"\[command\.invalid\]"):
            client.ask_device("press-1", "restart-pipeline")
        with pytest.raises(FleetError, match=r"\[command\.not_found\]"):
            client.command("cmd-none")
        assert client.change_settings("press-1", {"log_level": "DEBUG"})["delta"] == ["log_level"]
        assert client.settings("press-1")["version"] == 1
        with pytest.raises(FleetError, match=r"\[setting\.invalid\]"):
            client.change_settings("press-1", {"log_level": "LOUD"})
        assert list(client.connections("press-1")) == []

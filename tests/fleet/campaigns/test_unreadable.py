"""One stored row that this version cannot read stops nothing else: it is named once, shown, and can be aborted."""

from __future__ import annotations

import logging
import re
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, text, update

from tests.fleet.api.harness import AdminServer
from tests.fleet.campaigns.world import World, create
from wheeltapper_fleet import tables
from wheeltapper_fleet.alerts.views import list_alerts
from wheeltapper_fleet.campaigns import service as campaigns
from wheeltapper_fleet.campaigns.views import list_campaigns
from wheeltapper_fleet.devices import commands
from wheeltapper_fleet.devices.views import get_device, list_devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.messages import ExecutionState
from wheeltapper_protocols.wire.topics import Down, down_topic

WHOLE: dict[str, Any] = {"model": "bearing", "release": 1}
DAMAGED: list[dict[str, Any]] = [
    {"spec": {**WHOLE, "from_a_newer_version": 1}},
    {"spec": {**WHOLE, "abort": [{"states": ["MELTED"], "count": 1}]}},
    {"spec": {**WHOLE, "on_abort": "ROLLBACK_TO"}},
    {"spec": {}},
    {"spec": [1]},
    {"spec": None},
    {"waves": [{"state": "HALTED", "since": 0.0}]},
    {"waves": [{"state": "RUNNING"}]},
    {"waves": "none"},
    {"waves": None},
    {"state": "HALTED"},
]


def damage(database: Engine, campaign: str, values: dict[str, Any]) -> None:
    row = tables.campaigns.c.id == campaign
    with database.begin() as connection:
        connection.execute(update(tables.campaigns).where(row).values(values))


@pytest.mark.parametrize("values", DAMAGED, ids=str)
def test_a_campaign_that_cannot_be_read_stops_no_other(
    world: World, values: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    bad = create(world, audience={"devices": ["dev-0"]}, waves=[{}])
    good = create(world, audience={"devices": ["dev-1"]}, waves=[{}])
    assert sorted(world.tick()) == ["dev-0", "dev-1"]
    damage(world.database, bad, values)
    with caplog.at_level(logging.WARNING):
        world.end("dev-1", ExecutionState.COMMITTED)
        for _ in range(3):
            world.tick()
        world.now += 100.0
        world.tick()
    assert world.campaign(good).state == "COMPLETED"
    assert sum(bad in record.getMessage() for record in caplog.records) == 1
    shown = {each.id: each for each in list_campaigns(world.database).items}
    assert (bool(shown[bad].unreadable), bool(shown[good].unreadable)) == (True, False)
    assert world.states(bad) == {"dev-0": "FAILED"}  # its deadline counts all the same


def test_text_that_is_no_json_is_one_rows_trouble(world: World) -> None:
    if world.database.dialect.name != "sqlite":
        pytest.skip("PostgreSQL refuses such text itself")
    bad, good = create(world), create(world, pipelines=["other"])
    command = commands.create_capture(world.database, device="dev-0", pipeline="main", snapshots=1, now=world.now)
    other = commands.create_capture(world.database, device="dev-1", pipeline="main", snapshots=1, now=world.now)
    fields: dict[str, Any] = {"epoch": "0" * 16, "pipeline": "main", "window": 1, "t_s": 1.0, "at": 1.0, "model": "m"}
    fields |= {"release": 1, "score": 2.0, "severity": "warning", "raised": True, "reasons": []}
    with world.database.begin() as connection:
        for seq in (1, 2):
            connection.execute(tables.alerts.insert().values(device="dev-0", seq=seq, **fields))
        connection.execute(text("UPDATE campaigns SET spec = '{', waves = 'x' WHERE id = :id"), {"id": bad})
        connection.execute(text("UPDATE devices SET tags = '{', status = '}' WHERE id = 'dev-2'"))
        connection.execute(text("UPDATE commands SET body = '[' WHERE id = :id"), {"id": command})
        connection.execute(text("UPDATE alerts SET reasons = '[' WHERE seq = 1"))
    world.connect_all()
    topics = [each.topic for each in world.engine.tick(world.now)]
    assert down_topic("dev-1", Down.COMMAND) in topics
    assert down_topic("dev-0", Down.COMMAND) not in topics
    assert other
    assert {each.id: bool(each.unreadable) for each in list_campaigns(world.database).items} == {bad: True, good: False}
    assert len(list_devices(world.database).items) == 5
    assert get_device(world.database, "dev-2").tags == {}
    assert [each.reasons for each in list_alerts(world.database).items] == [[], []]
    assert world.states(good)["dev-0"] == "ASSIGNED"


@pytest.mark.parametrize("body", [{"type": "reboot"}, {"type": "capture"}, {}, [], None], ids=str)
def test_a_command_that_cannot_be_read_stops_no_other(
    world: World, body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bad = commands.create_capture(world.database, device="dev-0", pipeline="main", snapshots=1, now=world.now)
    commands.create_capture(world.database, device="dev-1", pipeline="main", snapshots=1, now=world.now)
    with world.database.begin() as connection:
        connection.execute(update(tables.commands).where(tables.commands.c.id == bad).values(body=body))
    world.connect_all()
    with caplog.at_level(logging.WARNING):
        for seconds in (0.0, 10.0, 20.0):
            topics = [each.topic for each in world.engine.tick(world.now + seconds)]
            assert topics == [down_topic("dev-1", Down.COMMAND)]
    assert sum(bad in record.getMessage() for record in caplog.records) == 1


def test_an_unreadable_campaign_can_be_aborted_and_nothing_else(world: World) -> None:
    bad = create(world)
    world.tick()
    damage(world.database, bad, {"spec": {**WHOLE, "from_a_newer_version": 1}})
    version = world.campaign(bad).version
    with pytest.raises(FleetError) as caught:
        campaigns.pause_campaign(world.database, bad, version=version, who="ann", now=world.now)
    assert (caught.value.code, caught.value.status) == ("campaign.unreadable", 409)
    with pytest.raises(FleetError) as caught:
        campaigns.abort_campaign(world.database, bad, version=version + 1, who="ann", now=world.now)
    assert caught.value.code == "campaign.conflict"
    campaigns.abort_campaign(world.database, bad, version=version, who="ann", now=world.now)
    assert world.campaign(bad).state == "ABORTED"
    assert [each.state for each in world.campaign(bad).execution_list][2:] == ["CANCELLED"] * 3
    world.now += 100.0
    world.tick()
    assert set(world.states(bad).values()) == {"FAILED", "CANCELLED"}


def test_what_is_missing_is_named(world: World) -> None:
    bad = create(world)
    damage(world.database, bad, {"waves": [{"state": "PASSED", "since": 1.0}, {"state": "RUNNING"}]})
    assert world.campaign(bad).unreadable == "wave 2 has no 'since'"


def test_the_api_shows_an_unreadable_campaign_beside_the_others(server: AdminServer) -> None:
    row = {"version": 1, "state": "RUNNING", "reason": "", "created_at": 1e9, "updated_at": 1e9}
    server.insert(tables.campaigns, id="c-good", spec=WHOLE, waves=[], **row)
    server.insert(tables.campaigns, id="c-bad", spec={"unheard": "of"}, waves={"no": "list"}, **row)
    with server.http() as http:
        answer = http.get("/api/v1/campaigns")
        assert answer.status_code == 200
        assert {each["id"]: bool(each["unreadable"]) for each in answer.json()["items"]} == {
            "c-good": False,
            "c-bad": True,
        }
        assert http.get("/api/v1/campaigns/c-bad").status_code == 200
    cookies = {"wheeltapper_session": server.sign_in()}
    page = httpx.get(server.url + "/fragments/campaigns", cookies=cookies, trust_env=False).text
    assert re.findall(r'class="pill state">(\w+)<', page).count("unreadable") == 1

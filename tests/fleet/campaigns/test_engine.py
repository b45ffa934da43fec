"""Campaigns over a real database: engine, services and ingest on SQLite and PostgreSQL, devices simulated."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from sqlalchemy import func, select

from tests.fleet.campaigns.world import EPOCH, World, create
from tests.fleet.records import stored_records
from wheeltapper_fleet.campaigns import service as campaigns
from wheeltapper_fleet.campaigns.engine import CampaignEngine
from wheeltapper_fleet.campaigns.views import list_campaigns
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices import commands
from wheeltapper_fleet.devices.views import list_devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.tables import alerts, assignments, refused, spools
from wheeltapper_fleet.telemetry.views import record_totals
from wheeltapper_protocols.wire.assignment import Assignment
from wheeltapper_protocols.wire.codec import decode_down, encode
from wheeltapper_protocols.wire.messages import (
    Ack,
    Alert,
    AssignmentRefused,
    CaptureReport,
    ExecutionReport,
    ExecutionState,
    Report,
    Severity,
    Status,
    Telemetry,
    TelemetryRecord,
)
from wheeltapper_protocols.wire.topics import Down, Up, down_topic, up_topic


def test_a_campaign_completes_in_two_waves(world: World) -> None:
    campaign = create(world)
    assert world.tick() == ["dev-0", "dev-1"]
    assert world.tick() == []
    for device in ("dev-0", "dev-1"):
        world.end(device, ExecutionState.COMMITTED)
    assert world.tick() == ["dev-2", "dev-3", "dev-4"]
    for device in ("dev-2", "dev-3", "dev-4"):
        world.end(device, ExecutionState.COMMITTED)
    world.tick()
    shown = world.campaign(campaign)
    assert shown.state == "COMPLETED"
    assert {line.who for line in shown.log} == {"ann", "engine"}
    assert list_campaigns(world.database).items[0].executions == {"1": {"COMMITTED": 2}, "2": {"COMMITTED": 3}}


def test_a_bad_release_stops_at_the_first_wave_and_the_next_campaign_supersedes_it(world: World) -> None:
    bad = create(world)
    world.tick()
    for device in ("dev-0", "dev-1"):
        world.end(device, ExecutionState.FAILED, "selftest.output")
    assert world.tick() == []
    assert world.campaign(bad).state == "PAUSED"
    assert "dev-4" not in world.assigned
    good = create(world, release=2, waves=[{}])
    assert len(world.tick()) == 5
    assert set(list(world.states(bad).values())[2:]) == {"SUPERSEDED"}
    assert world.assigned["dev-0"].counter == 3  # the one between ended the failed execution
    assert world.states(good)["dev-0"] == "ASSIGNED"


def test_a_refusal_and_a_deadline_end_executions(world: World) -> None:
    campaign = create(world)
    world.tick()
    given = world.assigned["dev-1"]
    assert given.executions[0].deadline == given.expires_at  # the device gives up when the fleet does
    refusal = AssignmentRefused(code="assignment.expired", execution=world.assigned["dev-0"].executions[0].execution)
    world.report("dev-0", refusal)
    world.now += 100
    world.tick()
    states = world.states(campaign)
    assert (states["dev-0"], states["dev-1"]) == ("REJECTED", "FAILED")
    world.end("dev-1", ExecutionState.COMMITTED)
    assert world.states(campaign)["dev-1"] == "FAILED"


def test_a_campaign_shows_what_a_device_waits_for(world: World) -> None:
    campaign = create(world)
    world.tick()

    def shown() -> tuple[str, str]:
        (row,) = [each for each in world.campaign(campaign).execution_list if each.device == "dev-0"]
        return row.state, row.code

    world.end("dev-0", ExecutionState.WAITING)
    assert shown() == ("WAITING", "")
    for code in ("update.waiting_window", "update.waiting_disk"):
        world.end("dev-0", ExecutionState.WAITING, code)
        assert shown() == ("WAITING", code)
    world.end("dev-0", ExecutionState.FETCHING)
    world.end("dev-0", ExecutionState.WAITING, "update.waiting_mains")  # late: it is past that
    assert shown() == ("FETCHING", "")
    world.end("dev-0", ExecutionState.FAILED, "fetch.failed")
    world.end("dev-0", ExecutionState.FAILED, "update.internal")
    assert shown() == ("FAILED", "fetch.failed")


def test_one_device_cannot_report_for_another(world: World) -> None:
    campaign = create(world)
    world.tick()
    stolen = ExecutionReport(execution=world.assigned["dev-0"].executions[0].execution, state=ExecutionState.COMMITTED)
    world.report("dev-1", stolen)
    assert world.states(campaign)["dev-0"] == "ASSIGNED"


def test_an_assignment_that_was_stored_but_not_published_is_published_again(world: World) -> None:
    create(world)
    world.tick()  # the fleet dies here, before publishing
    again = CampaignEngine(world.database, lambda assignment: "").republish(world.now)
    assert sorted(each.topic for each in again) == [down_topic(f"dev-{i}", Down.ASSIGNMENT) for i in range(2)]
    world.send("dev-0", Up.STATUS, encode(Status(online=True, counter=0)))
    assert world.published[-1][0] == down_topic("dev-0", Down.ASSIGNMENT)
    world.published.clear()
    world.send("dev-0", Up.STATUS, encode(Status(online=True, counter=1)))
    assert world.published == []


def test_a_failing_director_loses_no_assignment_and_is_logged_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    campaign = create(world)

    def fail(_assignment: Assignment) -> str:
        raise RuntimeError("no key")

    failing = CampaignEngine(world.database, fail)
    with caplog.at_level(logging.WARNING):
        for seconds in (0.0, 1.0, 11.0):
            assert failing.tick(world.now + seconds) == []
    assert sum("no key" in record.getMessage() for record in caplog.records) == 1
    assert set(world.states(campaign).values()) == {"ASSIGNED", "PENDING"}
    assert world.tick(30.0) == ["dev-0", "dev-1"]


def test_the_counter_rises_past_what_the_device_has_seen(world: World) -> None:
    world.send("dev-0", Up.STATUS, encode(Status(online=True, counter=41)))
    create(world)
    world.tick()
    assert world.assigned["dev-0"].counter == 42
    with reading(world.database) as connection:
        assert (
            connection.execute(select(assignments.c.counter).where(assignments.c.device == "dev-0")).scalar_one() == 42
        )


def test_a_conflict_is_answered_with_the_state(world: World) -> None:
    campaign = create(world)
    version = world.campaign(campaign).version
    world.tick()
    with pytest.raises(FleetError) as caught:
        campaigns.pause_campaign(world.database, campaign, version=version, who="bob", now=world.now)
    assert (caught.value.code, caught.value.status) == ("campaign.conflict", 409)
    assert "RUNNING" in caught.value.message
    version = world.campaign(campaign).version
    campaigns.pause_campaign(world.database, campaign, version=version, who="bob", now=world.now)
    paused = world.campaign(campaign)
    assert paused.state == "PAUSED"
    campaigns.resume_campaign(world.database, campaign, version=paused.version, who="bob", now=world.now)
    resumed = world.campaign(campaign)
    campaigns.abort_campaign(world.database, campaign, version=resumed.version, who="bob", now=world.now)
    assert world.campaign(campaign).state == "ABORTED"
    assert world.wanted("dev-0") == {"main": 1}
    world.tick()
    assert (world.wanted("dev-0"), world.wanted("dev-1")) == ({}, {})  # withdrawn, though nobody is online
    world.end("dev-0", ExecutionState.CANCELLED, "update.withdrawn")
    assert world.states(campaign)["dev-0"] == "CANCELLED"


def test_audiences_by_tag_and_what_is_refused(world: World) -> None:
    campaign = create(world, audience={"tags": {"site": "b"}}, waves=[{}])
    assert sorted(world.states(campaign)) == ["dev-2", "dev-3", "dev-4"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"release": 9}, "release.not_found"),
        ({"audience": {"devices": ["nobody"]}}, "device.not_found"),
    ]
    cases.append(({"audience": {"tags": {"site": "z"}}}, "campaign.audience_empty"))
    for fields, code in cases:
        with pytest.raises(FleetError) as caught:
            create(world, **fields)
        assert caught.value.code == code


def test_a_command_is_repeated_until_answered(world: World) -> None:
    command = commands.create_capture(world.database, device="dev-0", pipeline="main", snapshots=3, now=world.now)
    assert world.engine.tick(world.now) == [], "it is offline"
    world.connect_all()
    topics = [each.topic for each in world.engine.tick(world.now)]
    assert topics == [down_topic("dev-0", Down.COMMAND)]
    assert world.engine.tick(world.now + 1) == []
    assert len(world.engine.tick(world.now + 6)) == 1
    world.report("dev-1", CaptureReport(command=command, pipeline="main"))
    assert len(world.engine.tick(world.now + 12)) == 1
    world.report("dev-0", CaptureReport(command=command, pipeline="main", sha256="2" * 64, length=1, snapshots=3))
    assert world.engine.tick(world.now + 18) == []
    (answered,) = world.commands()
    assert (answered.id, answered.answer["snapshots"]) == (command, 3)


def batch(first: int, count: int, oldest: int = 1) -> bytes:
    each = [TelemetryRecord(seq=first + i, pipeline="main", window=i, t_s=0.0, score=0.5) for i in range(count)]
    return encode(Telemetry(epoch=EPOCH, oldest=oldest, records=each))


def last_ack(world: World) -> int:
    topic, payload, _ = world.published[-1]
    assert topic == down_topic("dev-0", Down.ACK)
    ack = decode_down(Down.ACK, payload)
    assert isinstance(ack, Ack)
    return ack.seq


def test_acks_are_contiguous_whatever_the_order_and_what_was_dropped_is_counted(world: World) -> None:
    for first, count, oldest, expected in ((1, 3, 1, 3), (7, 2, 1, 3), (1, 3, 1, 3), (4, 3, 1, 8), (20, 1, 15, 14)):
        world.send("dev-0", Up.TELEMETRY, batch(first, count, oldest))
        assert last_ack(world) == expected
    world.send("dev-0", Up.TELEMETRY, batch(15, 5, 15))
    assert last_ack(world) == 20
    with reading(world.database) as connection:
        assert connection.execute(select(spools.c.dropped)).scalar_one() == 6
    assert len(stored_records(world.database)) == 14
    world.published.clear()
    world.send("dev-0", Up.STATUS, encode(Status(online=True, epoch=EPOCH, seq=20)))
    assert last_ack(world) == 20
    with reading(world.database) as connection:
        assert record_totals(connection, ["dev-0"])["dev-0"].stored == 14
    assert [each.online for each in list_devices(world.database).items] == [True, False, False, False, False]


def test_an_alert_is_stored_once_and_a_poisoned_batch_keeps_the_rest(world: World) -> None:
    fields: dict[str, Any] = {"epoch": EPOCH, "oldest": 1, "pipeline": "main", "window": 1, "t_s": 1.0, "at": 1.0}
    fields |= {"model": "m", "release": 1, "score": 2.0, "severity": Severity.WARNING}
    alert = encode(Alert(seq=1, **fields))
    code = "bad\0code"
    poison = encode(Report(epoch=EPOCH, oldest=1, seq=2, at=0.0, body=AssignmentRefused(code=code)))
    topic = up_topic("dev-0", Up.ALERT)
    world.ingest.process([(topic, alert), (up_topic("dev-0", Up.REPORT), poison), (topic, b"nonsense"), (topic, alert)])
    with reading(world.database) as connection:
        assert connection.execute(select(func.count()).select_from(alerts)).scalar_one() == 1
        codes = set(connection.execute(select(refused.c.code)).scalars())
    assert "wire.malformed" in codes
    assert codes <= {"wire.malformed", "ingest.unstorable"}

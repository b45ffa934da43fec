"""Why a device runs what it runs: the story of a device in each of the ways that it can come to its release."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.fleet.api.harness import AdminServer
from tests.fleet.campaigns.world import World, create
from wheeltapper_fleet.access.sessions import COOKIE
from wheeltapper_fleet.campaigns import service
from wheeltapper_fleet.campaigns.default_releases import set_default
from wheeltapper_fleet.campaigns.schemas import PipelineReasons
from wheeltapper_fleet.campaigns.why import MOST_ATTEMPTS_READ, why
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.tables import assignments, devices, executions
from wheeltapper_protocols.wire.assignment import encode_assignment
from wheeltapper_protocols.wire.messages import ExecutionState

ALL: dict[str, Any] = {"waves": [{}]}


def asked(world: World, device: str = "dev-0", pipeline: str = "main") -> PipelineReasons:
    found = why(world.database, device, pipeline)
    assert [each.pipeline for each in found.pipelines] == [pipeline]
    reasons = found.pipelines[0]
    times = [each.at for each in reasons.happenings]
    assert times == sorted(times)
    return reasons


def committed(world: World, device: str = "dev-0", **fields: Any) -> str:
    """A campaign whose release ``device`` committed and shows."""
    campaign = create(world, **ALL, **fields)
    world.tick()
    world.end(device, ExecutionState.COMMITTED)
    world.online(device, main=("bearing", fields.get("release", 1)))
    return campaign


def test_a_device_that_said_nothing_yet(world: World) -> None:
    reasons = asked(world)
    assert reasons.runs == "The device has not said yet what it runs."
    assert reasons.asked == "Nothing else is asked of it."
    assert (reasons.model, reasons.failed, reasons.beaten, reasons.happenings) == (None, "", [], [])
    assert why(world.database, "dev-0").pipelines == []


def test_a_campaign_brought_it(world: World) -> None:
    campaign = committed(world)
    reasons = asked(world)
    assert reasons.runs == (
        f"bearing release 1 runs here because campaign {campaign} brought it in wave 1, and the device committed it."
    )
    assert reasons.asked == "Nothing else is asked of it."
    assert [each.kind for each in reasons.happenings] == ["assigned", "ended", "seen"]
    assert [each.pipeline for each in why(world.database, "dev-0").pipelines] == ["main"]


def test_what_is_asked_of_it_in_each_state_of_a_campaign(world: World) -> None:
    committed(world)
    world.now += 10
    campaign = create(world, release=2, waves=[{"devices": ["dev-1"]}, {}], success={"count": 1})
    world.tick()
    assert asked(world).asked == (
        f"Campaign {campaign} plans bearing release 2 in wave 2: the wave has not reached this device."
    )
    world.end("dev-1", ExecutionState.COMMITTED)
    world.tick()
    world.tick()
    assert asked(world).asked.endswith("asks for bearing release 2 in wave 2: the device is ASSIGNED.")
    world.act(campaign, service.pause_campaign)
    assert asked(world).asked.endswith("but is paused: nothing is handed out.")
    world.act(campaign, service.resume_campaign)
    world.end("dev-0", ExecutionState.FETCHING)
    world.act(campaign, service.abort_campaign)
    assert asked(world).asked == f"Campaign {campaign} was called off: the device is told to give bearing release 2 up."


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (ExecutionState.REJECTED, "The device refused bearing release 2 of campaign {} [bad.thing]."),
        (ExecutionState.ROLLED_BACK, "The device rolled back bearing release 2 of campaign {} [bad.thing]."),
        (ExecutionState.FAILED, "The device failed at bearing release 2 of campaign {} [bad.thing]."),
    ],
)
def test_a_failure_is_told_beside_what_runs(world: World, state: ExecutionState, sentence: str) -> None:
    first = committed(world)
    world.now += 10
    second = create(world, **ALL, release=2)
    world.tick()
    world.end("dev-0", state, "bad.thing")
    world.online("dev-0", main=("bearing", 1))
    reasons = asked(world)
    assert reasons.failed == sentence.format(second)
    assert f"because campaign {first} brought it" in reasons.runs
    assert f"It kept it when campaign {second} failed ({state} [bad.thing])." in reasons.runs
    assert (reasons.model, reasons.release) == ("bearing", 1)


def test_what_beat_what_and_by_which_rule(world: World) -> None:
    weak = create(world, **ALL)
    world.tick()
    strong = create(world, **ALL, release=2, priority=5)
    world.tick()
    world.tick()
    reasons = asked(world)
    assert reasons.beaten == [
        f"Campaign {weak} (bearing release 1) lost the device to campaign {strong} (bearing release 2):"
        " its priority is higher (5 over 0)."
    ]
    assert reasons.asked.startswith(f"Campaign {strong} asks for bearing release 2")
    late = create(world, **ALL, release=1)
    world.tick()
    assert any(f"({'bearing release 1'}) lost the device to campaign {strong}" in each for each in asked(world).beaten)
    assert late != weak
    newer = create(world, **ALL, release=1, priority=5)
    world.tick()
    assert (
        asked(world).beaten[-1].startswith(f"Campaign {strong} (bearing release 2) lost the device to campaign {newer}")
    )
    assert asked(world).beaten[-1].endswith("it is the newer one.")


def test_a_default_release_asks_brings_and_gives_up(world: World) -> None:
    world.online("dev-0", main=("bearing", 1))
    default = set_default(world.database, "bearing", 2, pipeline="main", tags={}, who="ann", why="", now=world.now)
    assert asked(world).asked.startswith(f"Default release {default} asks for bearing release 2")
    assert "nothing that this fleet knows of brought it" in asked(world).runs
    world.tick()
    world.tick()
    assert asked(world).asked == f"Default release {default} asks for bearing release 2: the device is ASSIGNED."
    world.end("dev-0", ExecutionState.COMMITTED)
    world.online("dev-0", main=("bearing", 2))
    assert f"because default release {default} brought it, and the device committed it." in asked(world).runs
    assert asked(world).asked == "Nothing else is asked of it."


def test_a_default_release_that_failed_too_often(world: World) -> None:
    world.online("dev-0", main=("bearing", 1))
    set_default(world.database, "bearing", 2, pipeline="main", tags={}, who="ann", why="", now=world.now)
    for _ in range(5):
        world.tick()
        world.tick()
        world.end("dev-0", ExecutionState.FAILED, "bad.thing")
        world.now += 300_000
        world.online("dev-0", main=("bearing", 1))
    assert "but 5 attempts have failed" in asked(world).asked


def test_what_the_newest_assignment_says(world: World) -> None:
    committed(world)
    envelope = json.dumps({"payload": base64.b64encode(encode_assignment(world.retained["dev-0"])).decode()})
    with world.database.begin() as connection:
        connection.execute(assignments.update().values(envelope=envelope))
    signed = [each for each in asked(world).happenings if each.kind == "signed"]
    assert [each.sentence for each in signed] == [
        "Assignment 1 was signed: main runs bearing release 1; the device does not have it yet."
    ]
    world.online("dev-0", counter=1, main=("bearing", 1))
    assert any(each.sentence.endswith("the device has it.") for each in asked(world).happenings)
    with world.database.begin() as connection:
        connection.execute(assignments.update().values(envelope="{}"))
    assert not [each for each in asked(world).happenings if each.kind == "signed"]


def test_a_revoked_device_and_pipelines_that_are_not_there(world: World) -> None:
    world.online("dev-0", main=("bearing", 1), side=None)
    assert asked(world, pipeline="other").runs == "The device has no pipeline 'other'; it has main, side."
    assert asked(world, pipeline="side").runs.startswith("Nothing runs here")
    with world.database.begin() as connection:
        connection.execute(devices.update().values(state="revoked"))
    assert asked(world).asked.startswith("Nothing is asked of it: the device may not connect")
    with world.database.begin() as connection:
        connection.execute(devices.update().values(state="retired"))
    assert asked(world).asked.startswith("Nothing is asked of it: the device may not connect")
    with world.database.begin() as connection:
        connection.execute(devices.update().values(state="quarantined"))
    assert asked(world).asked.startswith("Nothing is asked of it: the device is in quarantine")
    with pytest.raises(FleetError, match="there is no device 'nobody'"):
        why(world.database, "nobody")


def test_a_campaign_over_all_pipelines_counts_on_each(world: World) -> None:
    world.online("dev-0", main=None, side=None)
    create(world, **ALL, pipelines=["*"])
    assert asked(world, pipeline="side").asked.startswith("Campaign ")
    world.tick()
    for pipeline in ("main", "side"):
        assert "asks for bearing release 1 in wave 1" in asked(world, pipeline=pipeline).asked


def test_a_long_life_reads_a_bounded_number_of_attempts(world: World) -> None:
    committed(world)
    default = set_default(world.database, "bearing", 2, pipeline="main", tags={}, who="ann", why="", now=1.0)
    with world.database.begin() as connection:
        for index in range(MOST_ATTEMPTS_READ + 50):
            row = {"id": f"new-{index}", "default_release": default, "device": "dev-0", "wave": 0, "state": "FAILED"}
            at = {"assigned_at": 2.0, "updated_at": world.now + 1 + index, "ended_at": world.now + 1 + index}
            connection.execute(executions.insert().values({**row, **at}))
    reasons = asked(world)
    assert "runs here because campaign" in reasons.runs
    assert len(reasons.happenings) <= 2 * MOST_ATTEMPTS_READ + 5


def test_the_api_and_the_page_say_it(server: AdminServer) -> None:
    server.add_device("press-1", status={"pipelines": {"<b>": {"model": "bearing-anomaly", "release": 3}}})
    with server.http() as http:
        found = http.get("/api/v1/devices/press-1/why").json()
        assert [each["pipeline"] for each in found["pipelines"]] == ["<b>"]
        assert http.get("/api/v1/devices/press-1/why", params={"pipeline": "No!"}).status_code == 422
        missing = http.get("/api/v1/devices/press-9/why")
        assert (missing.status_code, missing.json()["code"]) == (404, "device.not_found")
        assert "Sign in" in http.get("/why/press-1").text
        http.cookies.set(COOKIE, server.sign_in())
        page = http.get("/why/press-1").text
    assert "Why press-1 runs what it runs" in page
    assert "bearing-anomaly release 3 runs here" in page
    assert '<h2 id="pipeline-1">&lt;b&gt;' in page

"""A dry run says what would come of each device, and leaves no trace."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from sqlalchemy import event, func, select

from tests.fleet.api.harness import MODEL, AdminServer
from tests.fleet.campaigns.world import SPEC, World, create
from wheeltapper_fleet.campaigns.dry_run import SLICE, plan_campaign
from wheeltapper_fleet.campaigns.rules.forecast import Outcome, timetable
from wheeltapper_fleet.campaigns.rules.spec import read_spec
from wheeltapper_fleet.campaigns.schemas import CampaignPlan
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.tables import campaigns, devices, executions, releases
from wheeltapper_protocols.wire.messages import ExecutionState


def plan(world: World, outcome: Outcome | None = None, limit: int = 100, **fields: Any) -> CampaignPlan:
    spec = {**SPEC, "waves": [{}], **fields}
    return plan_campaign(world.database, spec, now=world.now, outcome=outcome, limit=limit)


def outcomes(found: CampaignPlan) -> dict[str, str]:
    return {each.device: each.outcome for each in found.items}


def test_each_device_has_the_outcome_that_it_would_have(world: World) -> None:
    world.online("dev-0", main=None)
    world.online("dev-1", main=("bearing", 1))
    world.online("dev-2", side=None)
    world.online("dev-3", main=("bearing", 2))
    world.offline("dev-3")
    found = plan(world)
    assert outcomes(found) == {
        "dev-0": "gets",
        "dev-1": "runs_already",
        "dev-2": "pipeline_missing",
        "dev-3": "offline",
        "dev-4": "silent",
    }
    assert found.outcomes == dict.fromkeys(("gets", "runs_already", "pipeline_missing", "offline", "silent"), 1)
    assert found.items[3].offline_since == world.now
    assert "it has no pipeline 'main'" in found.items[2].sentence
    assert len(found.warnings) == 3
    assert outcomes(plan(world, Outcome.OFFLINE)) == {"dev-3": "offline"}


def test_what_it_says_is_what_happens(world: World) -> None:
    for number in range(5):
        world.online(f"dev-{number}", main=None)
    strong = create(world, waves=[{}], audience={"devices": ["dev-0", "dev-1"]}, priority=5, release=2)
    weak = create(world, waves=[{}], audience={"devices": ["dev-1", "dev-2", "dev-3"]}, release=2)
    world.tick()
    world.tick()
    found = plan(world)
    expected = {"dev-0": "held", "dev-1": "held", "dev-2": "gets", "dev-3": "gets", "dev-4": "gets"}
    assert outcomes(found) == expected
    assert found.takes_from == {weak: 2}
    assert found.items[0].sentence == f"campaign {strong} keeps it: its priority is higher than 0"
    assert found.items[2].sentence.endswith(f"and is taken from {weak}")
    mine = create(world, waves=[{}])
    world.tick()
    world.tick()
    told = {device for device, state in world.states(mine).items() if state == "ASSIGNED"}
    assert told == {device for device, outcome in expected.items() if outcome == "gets"}
    assert [state for device, state in sorted(world.states(weak).items()) if device in told] == ["SUPERSEDED"] * 2


def test_what_a_stronger_campaign_committed_is_kept_until_it_ends(world: World) -> None:
    world.online("dev-0", main=None)
    create(world, waves=[{"devices": ["dev-0"]}, {}], priority=5, release=2)
    world.tick()
    world.end("dev-0", ExecutionState.COMMITTED)
    assert outcomes(plan(world))["dev-0"] == "held"
    assert outcomes(plan(world, priority=5))["dev-0"] == "gets"


def test_nothing_is_stored(world: World) -> None:
    world.online("dev-0", main=None)
    plan(world)
    with world.database.begin() as connection:
        for table in (campaigns, executions):
            assert connection.execute(select(func.count()).select_from(table)).scalar_one() == 0


def test_devices_that_are_not_active_are_counted_outside(world: World) -> None:
    with world.database.begin() as connection:
        for device, state in (("dev-2", "revoked"), ("dev-3", "retired")):
            connection.execute(devices.update().where(devices.c.id == device).values(state=state))
    found = plan(world)
    assert (found.devices, found.outside) == (3, {"revoked": 1, "retired": 1})
    assert plan(world, audience={"devices": ["dev-0"]}).outside == {}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"release": 9}, "release.not_found"),
        ({"audience": {"devices": ["nobody"]}}, "device.not_found"),
        ({"audience": {"tags": {"no": "such"}}}, "campaign.audience_empty"),
        ({"waves": [{"count": 9}, {}]}, "campaign.waves_invalid"),
        ({"speed": 1}, "campaign.spec_invalid"),
        ({"success": {"count": 6}}, "campaign.rule_unreachable"),
        ({"pipelines": ["other"]}, "campaign.pipeline_unknown"),
        ({"on_abort": "ROLLBACK_TO", "rollback_to": 9}, "release.not_found"),
        ({"on_abort": "ROLLBACK_TO", "rollback_to": 1}, "campaign.spec_invalid"),
        ({"time_zone": "Moon/Sea"}, "campaign.time_zone_unknown"),
        ({"audience": {"query": "id ="}}, "query.invalid"),
    ],
)
def test_what_creation_refuses_it_refuses_alike(world: World, fields: dict[str, Any], code: str) -> None:
    for number in range(5):
        world.online(f"dev-{number}", main=None)
    with pytest.raises(FleetError) as planned:
        plan(world, **fields)
    with pytest.raises(FleetError) as created:
        create(world, **{"waves": [{}], **fields})
    assert (planned.value.code, planned.value.status) == (created.value.code, created.value.status)
    assert planned.value.code == code


def test_pages_follow_the_waves_and_no_device_is_missing(world: World) -> None:
    found = plan(world, limit=2, waves=[{"devices": ["dev-3"]}, {}])
    assert [(each.device, each.wave) for each in found.items] == [("dev-3", 1), ("dev-0", 2)]
    seen = [each.device for each in found.items]
    while found.next is not None:
        spec = {**SPEC, "waves": [{"devices": ["dev-3"]}, {}]}
        found = plan_campaign(world.database, spec, now=world.now, limit=2, after=found.next)
        assert found.outcomes is None
        seen += [each.device for each in found.items]
    assert seen == ["dev-3", "dev-0", "dev-1", "dev-2", "dev-4"]
    with pytest.raises(FleetError, match="no cursor"):
        plan_campaign(world.database, SPEC, now=world.now, after="x")


def test_a_page_reads_only_its_own_slice(world: World) -> None:
    with world.database.begin() as connection:
        rows = [
            {
                "id": f"more-{n}",
                "tags": {},
                "enrolled_at": 0.0,
                "certificate_sha256": "0",
                "certificate_expires_at": 1e10,
            }
            for n in range(3 * SLICE)
        ]
        connection.execute(devices.insert(), rows)
    first = plan(world, limit=10)
    statements: list[str] = []
    readers = world.database.get_execution_options()["wheeltapper_readers"]
    event.listen(readers, "before_cursor_execute", lambda *a: statements.append(a[2]))
    plan_campaign(world.database, {**SPEC, "waves": [{}]}, now=world.now, limit=10, after=first.next)
    assert 1 < len(statements) < 10
    assert first.outcomes == {"silent": 5 + 3 * SLICE}


def test_times_of_waves() -> None:
    spec = read_spec({**SPEC, "soak_seconds": 10.0, "waves": [{"count": 1}, {}], "start_at": 5000.0})
    first, second = timetable(spec, (1, 4), 100.0)
    assert (first.opens_earliest, first.opens_latest, first.ends_earliest, first.ends_latest) == (
        5000,
        5000,
        5010,
        5070,
    )
    assert (second.opens_earliest, second.opens_latest) == (5010, 5070)
    assert (second.ends_earliest, second.ends_latest) == (5020, 5140)


def test_times_of_waves_with_rates_gates_and_windows() -> None:
    growing = {"per_minute": 1, "factor": 2, "every_successes": 2, "maximum_per_minute": 4}
    waves = [{"count": 5, "rate": {"per_minute": 2}}, {"rate": growing}]
    spec = read_spec({**SPEC, "waves": waves, "gates": [{"kind": "latency"}], "gate_wait_seconds": 1000.0})
    first, second = timetable(spec, (5, 9), 0.0, lambda at: max(at, 500.0))
    assert (first.opens_earliest, first.ends_earliest) == (0, 500 + 4 * 30)
    assert first.ends_latest == 500 + 4 * 30 + 60 + 1000
    assert second.ends_earliest - second.opens_earliest == 2 * 60 + 2 * 30 + 4 * 15
    assert second.ends_latest - second.opens_latest == 8 * 60 + 60 + 1000


def test_an_audience_by_query_counts_who_is_outside_by_it_too(world: World) -> None:
    with world.database.begin() as connection:
        for device, state in (("dev-2", "revoked"), ("dev-0", "retired")):
            connection.execute(devices.update().where(devices.c.id == device).values(state=state))
    found = plan(world, audience={"query": "id in (dev-1, dev-2)"})
    assert (found.devices, found.outside) == (1, {"revoked": 1})


def test_the_api_plans_and_pages(server: AdminServer) -> None:
    for number in range(3):
        server.add_device(f"press-{number}")
    row: dict[str, Any] = {"model": MODEL, "release": 3, "path": f"releases/{MODEL}/3/manifest.json", "length": 1}
    server.insert(releases, **row, sha256="0" * 64, manifest={}, published_at=0.0, published_by="t")
    body = {"spec": {"model": MODEL, "release": 3, "pipelines": ["bearing"]}}

    def ask(http: httpx.Client, **params: Any) -> httpx.Response:
        return http.post("/api/v1/campaigns/plan", json=body, params=params)

    with server.http() as http:
        found = ask(http, limit=2).json()
        assert found["outcomes"] == {"gets": 3}
        assert [each["device"] for each in found["items"]] == ["press-0", "press-1"]
        rest = ask(http, limit=2, after=found["next"]).json()
        assert ([each["device"] for each in rest["items"]], rest["next"]) == (["press-2"], None)
        assert ask(http, outcome="held").json()["items"] == []
        assert ask(http, outcome="nonsense").status_code == 422
        assert http.get("/api/v1/campaigns").json()["items"] == []
        body["spec"]["nonsense"] = 1
        assert ask(http).json()["code"] == "campaign.spec_invalid"
        assert (
            http.post("/api/v1/campaigns/plan", content=json.dumps(body), headers={"Authorization": ""}).status_code
            == 401
        )

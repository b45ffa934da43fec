"""A default release reaches whoever lacks it, yields to campaigns, gives up on who fails, and leaves a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import func, select

from tests.fleet.api.harness import MODEL, AdminServer
from tests.fleet.campaigns.world import World, create
from wheeltapper_fleet import tables
from wheeltapper_fleet.campaigns import engine as engine_module
from wheeltapper_fleet.campaigns.default_releases import clear_default, list_defaults, set_default
from wheeltapper_fleet.campaigns.rules.default_release import (
    MOST_ATTEMPTS,
    Attempt,
    DefaultRelease,
    choose_default_releases,
    next_attempt_at,
)
from wheeltapper_fleet.campaigns.service import abort_campaign
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.messages import ExecutionState

ONE, TWO = ("bearing", 1), ("bearing", 2)


def default(world: World, release: int, pipeline: str = "main", **tags: str) -> str:
    return set_default(
        world.database, "bearing", release, pipeline=pipeline, tags=tags, who="ann", why="tried", now=world.now
    )


def attempts(world: World) -> list[tuple[str, str]]:
    query = select(tables.executions).where(tables.executions.c.default_release.is_not(None))
    with reading(world.database) as connection:
        rows = connection.execute(query.order_by(tables.executions.c.assigned_at)).all()
    return [(row.device, row.state) for row in rows]


def commit(world: World, device: str, **shown: tuple[str, int]) -> None:
    """The device carries out what it was told, and shows it."""
    world.end(device, ExecutionState.COMMITTED)
    world.online(device, world.retained[device].counter, **shown)


def test_a_device_that_enrols_or_comes_back_without_its_model_is_brought_to_it(world: World) -> None:
    done = create(world, audience={"devices": ["dev-1"]}, waves=[{}])
    world.tick()
    world.end("dev-1", ExecutionState.COMMITTED)
    world.tick()
    assert world.campaign(done).state == "COMPLETED"
    default(world, 1)
    assert world.tick() == []  # nobody is online
    world.online("dev-0", main=None)
    assert world.tick() == ["dev-0"]
    assert world.wanted("dev-0") == {"main": 1}
    commit(world, "dev-0", main=ONE)
    assert world.tick() == []
    assert world.wanted("dev-0") == {}
    world.tick(3600.0)
    world.offline("dev-0")
    world.online("dev-0", main=None)  # its card was replaced
    assert world.tick() == ["dev-0"]
    assert attempts(world) == [("dev-0", "COMMITTED"), ("dev-0", "ASSIGNED")]


def test_setting_one_reaches_the_devices_that_are_online_in_slices(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "SLICE", 2)
    for index in range(4):
        world.online(f"dev-{index}", main=ONE if index == 1 else None)
    world.tick()
    default(world, 1)
    given = [world.tick() for _ in range(4)]
    assert sorted(device for each in given for device in each) == ["dev-0", "dev-2", "dev-3"]
    assert all(len(each) <= 2 for each in given)


def test_it_is_for_its_audience_and_pipeline_only(world: World) -> None:
    default(world, 1, site="a")
    default(world, 2, pipeline="aux")
    world.online("dev-0", main=None)
    world.online("dev-2", main=None, aux=None)
    world.online("dev-3", other=None)
    world.tick()
    assert [world.wanted(f"dev-{i}") for i in (0, 2, 3)] == [{"main": 1}, {"aux": 2}, {}]


def test_a_campaign_decides_before_a_default_release(world: World) -> None:
    default(world, 1)
    campaign = create(world, release=2, audience={"devices": ["dev-0"]}, waves=[{}])
    world.tick()
    world.online("dev-0", main=None)
    world.tick()
    assert world.wanted("dev-0") == {"main": 2}
    commit(world, "dev-0", main=TWO)
    world.tick()
    world.tick()
    assert world.campaign(campaign).state == "COMPLETED"
    world.online("dev-0", world.retained["dev-0"].counter, main=TWO)
    world.tick(3600.0)
    assert attempts(world) == []  # it keeps what the campaign brought after the default release was set
    default(world, 1)  # somebody says so again
    assert world.tick(60.0) == ["dev-0"]
    assert world.wanted("dev-0") == {"main": 1}


def test_a_campaign_takes_over_an_attempt_that_is_under_way(world: World) -> None:
    default(world, 1)
    world.online("dev-0", main=None)
    world.tick()
    create(world, release=2, audience={"devices": ["dev-0"]}, waves=[{}])
    world.tick()
    assert world.wanted("dev-0") == {"main": 2}
    assert attempts(world) == [("dev-0", "SUPERSEDED")]


def test_a_device_that_was_taken_back_by_an_abort_gets_its_default_release(world: World) -> None:
    campaign = create(world, release=2, audience={"devices": ["dev-0"]}, waves=[{}])
    default(world, 1)
    world.online("dev-0", main=None)
    world.tick()
    world.act(campaign, abort_campaign)
    world.end("dev-0", ExecutionState.CANCELLED, "update.withdrawn")
    world.tick()
    assert world.wanted("dev-0") == {"main": 1}


def test_a_device_where_it_fails_is_not_tried_for_ever(world: World) -> None:
    default(world, 1)
    world.online("dev-0", main=None)
    days = 0
    while days < 40:
        if world.tick(3600.0):
            world.end("dev-0", ExecutionState.REJECTED, "self_test.golden")
        days += 1
    assert attempts(world) == [("dev-0", "REJECTED")] * MOST_ATTEMPTS
    (shown,) = list_defaults(world.database).items
    assert (shown.executions, shown.given_up) == ({"REJECTED": MOST_ATTEMPTS}, 1)
    world.offline("dev-0")
    world.online("dev-0", main=None)
    assert world.tick() == []
    default(world, 2)
    assert world.tick() == ["dev-0"]


def test_an_attempt_that_is_never_answered_ends_by_its_deadline(world: World) -> None:
    default(world, 1)
    world.online("dev-0", main=None)
    world.tick()
    world.offline("dev-0")
    world.tick(86_400.0)
    assert attempts(world) == [("dev-0", "FAILED")]
    assert world.wanted("dev-0") == {}
    world.tick(10 * 86_400.0)
    assert len(attempts(world)) == 1  # nobody is there
    world.online("dev-0", main=None)
    assert world.tick() == ["dev-0"]


def test_clearing_one_withdraws_what_is_under_way_and_changes_nothing_else(world: World) -> None:
    made = default(world, 1)
    world.online("dev-0", main=None)
    world.online("dev-1", main=None)
    world.tick()
    commit(world, "dev-1", main=ONE)
    cleared = clear_default(
        world.database, "bearing", pipeline=None, tags=None, who="bob", why="wrong one", now=world.now
    )
    assert cleared == [made]
    world.tick()
    assert (world.wanted("dev-0"), world.wanted("dev-1")) == ({}, {})
    world.end("dev-0", ExecutionState.CANCELLED, "update.withdrawn")
    world.tick(7200.0)
    assert dict(attempts(world)) == {"dev-0": "CANCELLED", "dev-1": "COMMITTED"}
    with pytest.raises(FleetError) as caught:
        clear_default(world.database, "bearing", pipeline=None, tags=None, who="bob", why="", now=world.now)
    assert caught.value.code == "default.not_found"


def test_every_change_is_kept_with_who_when_and_why(world: World) -> None:
    first, second = default(world, 1), default(world, 2)
    default(world, 1, site="a")
    kept = {each.id: each for each in list_defaults(world.database, cleared=True).items}
    assert len(list_defaults(world.database).items) == 2
    assert (kept[first].cleared_by, kept[first].cleared_why) == ("ann", f"replaced by {second}")
    assert (kept[second].set_by, kept[second].why, kept[second].set_at) == ("ann", "tried", world.now)
    assert kept[second].cleared_at is None


def test_a_completed_campaign_makes_its_release_the_default(world: World) -> None:
    default(world, 1, site="a")
    create(world, release=2, audience={"tags": {"site": "a"}}, waves=[{}], make_default=True)
    world.tick()
    assert list_defaults(world.database).items[0].release == 1
    for device in ("dev-0", "dev-1"):
        world.end(device, ExecutionState.COMMITTED)
    world.tick()
    world.tick()
    (now,) = list_defaults(world.database).items
    assert (now.release, now.audience["tags"], now.set_by) == (2, {"site": "a"}, "engine")
    with pytest.raises(FleetError) as caught:
        create(world, pipelines=["*"], make_default=True)
    assert caught.value.code == "campaign.spec_invalid"


@pytest.mark.parametrize(
    ("release", "pipeline", "code"), [(9, "main", "release.not_found"), (1, "A B", "default.invalid")]
)
def test_what_cannot_be_a_default_release_is_refused(world: World, release: int, pipeline: str, code: str) -> None:
    with pytest.raises(FleetError) as caught:
        default(world, release, pipeline)
    assert caught.value.code == code
    assert list_defaults(world.database, cleared=True).items == []


def test_one_that_cannot_be_read_stops_no_other(world: World) -> None:
    bad = default(world, 1)
    default(world, 2, pipeline="aux")
    with world.database.begin() as connection:
        row = tables.default_releases.c.id == bad
        connection.execute(tables.default_releases.update().where(row).values(audience={"moon": True}))
    world.online("dev-0", main=None, aux=None)
    world.tick()
    assert world.wanted("dev-0") == {"aux": 2}
    assert len(list_defaults(world.database).items) == 2


def test_nothing_is_done_for_devices_that_have_it(world: World) -> None:
    default(world, 1)
    for index in range(5):
        world.online(f"dev-{index}", main=ONE)
    world.tick()
    for _ in range(3):
        world.online("dev-0", main=ONE)
    with reading(world.database) as connection:
        assert connection.execute(select(func.count()).select_from(tables.assignments_due)).scalar_one() == 0
    assert attempts(world) == []


def of(release: int, set_at: float, devices: Sequence[str] = (), **tags: str) -> DefaultRelease:
    return DefaultRelease(f"d-{release}", "bearing", release, "main", frozenset(devices), tags, set_at)


@pytest.mark.parametrize(
    ("defaults", "wanted"),
    [
        ([of(1, 1.0), of(2, 2.0)], 2),
        ([of(1, 1.0, site="a"), of(2, 2.0)], 1),
        ([of(1, 1.0, site="a"), of(2, 2.0, site="b")], 1),
        ([of(1, 1.0, site="a", line="x"), of(2, 2.0, site="a")], 1),
        ([of(1, 1.0, ["dev-0"]), of(2, 2.0, site="a", line="x")], 1),
        ([of(1, 1.0, ["dev-9"]), of(2, 2.0)], 2),
        ([of(1, 1.0, site="c")], None),
    ],
)
def test_the_narrower_audience_counts_then_the_newer_one(defaults: list[DefaultRelease], wanted: int | None) -> None:
    for order in (defaults, defaults[::-1]):
        chosen = choose_default_releases(order, "dev-0", {"site": "a", "line": "x"})
        assert (chosen["main"].release if chosen else None) == wanted


def test_pauses_between_attempts_grow(world: World) -> None:
    failed: list[Attempt] = []
    pauses = []
    for _ in range(MOST_ATTEMPTS - 1):
        failed.append(Attempt("FAILED", 1e6))
        pauses.append(next_attempt_at(failed) - 1e6)
    assert pauses == [900.0, 3600.0, 14400.0, 57600.0]
    assert next_attempt_at([*failed, Attempt("FAILED", 1e6)]) == float("inf")
    assert next_attempt_at([*failed, Attempt("SUPERSEDED", 1e6)]) == 1e6 + 57600.0
    lost = [Attempt("COMMITTED", 1e6 + index) for index in range(5)]
    assert [next_attempt_at(lost[: n + 1]) - lost[n].at for n in range(5)] == [60.0, 240.0, 960.0, 3840.0, 15360.0]


def test_over_the_api(server: AdminServer) -> None:
    row: dict[str, Any] = {"model": MODEL, "release": 3, "path": f"releases/{MODEL}/3/manifest.json", "length": 1}
    server.insert(tables.releases, **row, sha256="0" * 64, manifest={}, published_at=0.0, published_by="t")
    with server.http() as http:
        body = {"model": MODEL, "release": 3, "tags": {"site": "hall-1"}, "why": "proved itself"}
        made = http.post("/api/v1/default-releases", json=body)
        assert (made.status_code, made.json()["pipeline"], made.json()["why"]) == (201, "main", "proved itself")
        assert made.json()["set_by"]
        assert [each["id"] for each in http.get("/api/v1/default-releases").json()["items"]] == [made.json()["id"]]
        unknown = http.post("/api/v1/default-releases", json={**body, "release": 4})
        assert (unknown.status_code, unknown.json()["code"]) == (404, "release.not_found")
        for wrong in ({**body, "pipline": "x"}, {**body, "release": 0}, {"model": MODEL}):
            assert http.post("/api/v1/default-releases", json=wrong).status_code == 422
        none = http.post("/api/v1/default-releases/clear", json={"model": MODEL, "tags": {}})
        assert (none.status_code, none.json()["code"]) == (404, "default.not_found")
        cleared = http.post("/api/v1/default-releases/clear", json={"model": MODEL, "why": "done"})
        assert [each["cleared_why"] for each in cleared.json()] == ["done"]
        assert http.get("/api/v1/default-releases").json()["items"] == []
        assert len(http.get("/api/v1/default-releases", params={"cleared": True}).json()["items"]) == 1
    assert server.http(token="wrong").get("/api/v1/default-releases").status_code == 401

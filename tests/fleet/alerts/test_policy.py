"""The limits of triage are settings: bounded, in force at the next turn, taken back to their defaults."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import Engine, insert
from typer.testing import CliRunner

from tests.fleet.alerts.world import Works
from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet.alerts.case import Policy
from wheeltapper_fleet.alerts.policy import change_policy, list_limits, read_policy
from wheeltapper_fleet.alerts.service import Feedback
from wheeltapper_fleet.alerts.tables import triage_limits
from wheeltapper_fleet.cli.app import app
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError


def in_force(engine: Engine) -> Policy:
    with reading(engine) as connection:
        return read_policy(connection)


def test_a_limit_holds_from_the_next_turn_on(engine: Engine) -> None:
    works = Works(engine)
    works.alert(1000.0)
    works.turn(1060.0)
    assert [case.attention for case in works.open()] == ["waiting"]
    change_policy(engine, {"settle_seconds": 30.0}, "ann", 1070.0)
    works.alert(1080.0, device="gw-9")
    works.turn(1120.0)
    assert [(case.device, case.attention) for case in works.open()] == [("gw-9", "person"), ("gw-1", "waiting")]
    works.turn(1601.0)
    assert {case.attention for case in works.open()} == {"person"}
    change_policy(engine, {"quiet_seconds": 60.0}, "ann", 1700.0)
    case = works.open()[0]
    works.cases.resolve(case.id, case.version, "ben", 1700.0, Feedback(verdict="unclear"))
    works.turn(1755.0)
    assert len(works.open()) == 1
    works.turn(1761.0)
    assert len(works.open()) == 2, "still raised after its quiet time"


def test_what_is_set_is_shown_and_taken_back(engine: Engine) -> None:
    change_policy(engine, {"burst_points": 9.0, "burst_share": 0.5}, "ann", 5.0)
    assert in_force(engine) == Policy(burst_points=9, burst_share=0.5)
    shown = {each.name: each for each in list_limits(engine)}
    assert (shown["burst_points"].value, shown["burst_points"].default, shown["burst_points"].set_by) == (9, 5, "ann")
    change_policy(engine, {"burst_points": None}, "ann", 6.0)
    assert in_force(engine) == Policy(burst_share=0.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"settle_seconds": -1.0},
        {"settle_seconds": 1e9},
        {"burst_points": 2.5},
        {"burst_share": float("nan")},
        {"slack": 1.0},
        {"quiet_seconds": 5.0, "burst_share": 2.0},
    ],
)
def test_what_is_out_of_bounds_changes_nothing(engine: Engine, changes: dict[str, float]) -> None:
    with pytest.raises(FleetError) as caught:
        change_policy(engine, changes, "ann", 5.0)
    assert caught.value.code == "triage.limit"
    assert in_force(engine) == Policy()


def test_what_another_version_stored_is_left_at_its_default(engine: Engine) -> None:
    with engine.begin() as connection:
        for name, value in (("burst_share", 7.0), ("slack", 1.0)):
            connection.execute(insert(triage_limits).values(name=name, value=value, set_at=0.0, set_by="x"))
    assert in_force(engine) == Policy()
    assert {each.name: each.value for each in list_limits(engine)}["burst_share"] == 0.8


def test_the_command_and_the_route(server: AdminServer) -> None:
    def run(*arguments: str) -> Any:
        where = ["--url", server.url, "--token-file", str(server.data_dir / "api-token"), "--json"]
        return CliRunner().invoke(app, ["alerts", "limits", *arguments, *where])

    assert run().exit_code == 0
    done = run("--set", "settle_seconds=900", "--set", "burst_points=7")
    assert done.exit_code == 0, done.output
    assert {each["name"]: each["value"] for each in json.loads(done.stdout)}["settle_seconds"] == 900
    assert in_force(server.engine) == Policy(settle_seconds=900.0, burst_points=7)
    assert run("--reset", "settle_seconds").exit_code == 0
    assert in_force(server.engine) == Policy(burst_points=7)
    refused = run("--set", "settle_seconds=-5")
    assert refused.exit_code == 2
    assert "triage.limit" in refused.stderr
    with server.http(server.token_of("operator")) as http:
        assert http.patch("/api/v1/triage-limits", json={"limits": {"burst_points": 3}}).status_code == 403
        assert http.patch("/api/v1/triage-limits", json={"limits": {}}).status_code == 403
        assert http.get("/api/v1/triage-limits").status_code == 200

"""A failure that is asked again: by its kind, after growing pauses, so often and no more, under another id."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fleet.campaigns.world import World, create
from wheeltapper_fleet.campaigns.rules.execution import RETRYING, Execution, retried
from wheeltapper_fleet.campaigns.rules.spec import read_spec
from wheeltapper_fleet.campaigns.schemas import ExecutionView
from wheeltapper_fleet.campaigns.service import abort_campaign, pause_campaign, resume_campaign
from wheeltapper_protocols.wire.messages import ExecutionReport, ExecutionState

S = ExecutionState
RETRY: dict[str, Any] = {"waves": [{}], "retry": [{"codes": ["fetch.*"], "times": 2, "backoff_seconds": 20}]}


def shown(world: World, campaign: str, device: str = "dev-0") -> ExecutionView:
    return next(each for each in world.campaign(campaign).execution_list if each.device == device)


def fails(world: World, campaign: str, code: str = "fetch.failed") -> str:
    """The device reports that what it was told last has failed; gives the execution's id."""
    execution = shown(world, campaign).id
    world.report("dev-0", ExecutionReport(execution=execution, state=S.FAILED, code=code))
    return execution


@pytest.mark.parametrize(
    ("state", "code", "attempt", "waits"),
    [
        ("FAILED", "fetch.failed", 1, 20.0),
        ("FAILED", "fetch.failed", 2, 40.0),
        ("FAILED", "fetch.failed", 3, None),
        ("FAILED", "selftest.output", 1, None),
        ("ROLLED_BACK", "probation.latency", 1, 7.0),
        ("ROLLED_BACK", "probation.latency", 2, None),
        ("REJECTED", "probation.latency", 1, None),
        ("COMMITTED", "", 1, None),
        ("SUPERSEDED", "execution.superseded", 1, None),
        ("CANCELLED", "execution.cancelled", 1, None),
    ],
)
def test_the_first_rule_that_is_about_a_failure_decides(
    state: str, code: str, attempt: int, waits: float | None
) -> None:
    rules = [*RETRY["retry"], {"states": ["ROLLED_BACK"], "backoff_seconds": 7}]
    spec = read_spec({"model": "m", "release": 1, "retry": rules})
    ended = Execution("e", "d", 0, state=state, code=code, attempt=attempt, deadline_at=5.0)
    after = retried(ended, spec.retry, 100.0)
    assert (after.state, after.deadline_at) == ((state, 5.0) if waits is None else (RETRYING, 100.0 + waits))


def test_a_device_is_asked_again_until_it_succeeds(world: World) -> None:
    campaign = create(world, **RETRY, abort=[{"count": 1}])
    world.tick()
    first = fails(world, campaign)
    world.tick()
    assert (shown(world, campaign).state, world.wanted("dev-0")) == ("RETRYING", {})
    assert world.campaign(campaign).state == "RUNNING", "it counts as a failure before its last attempt"
    assert world.tick(10.0) == []
    assert world.tick(12.0) == ["dev-0"]
    again = shown(world, campaign)
    assert (again.state, again.attempt, again.id != first) == ("ASSIGNED", 2, True)
    assert again.deadline_at == pytest.approx(world.now + 60.0)
    world.report("dev-0", ExecutionReport(execution=first, state=S.COMMITTED))  # late, of the attempt before
    assert shown(world, campaign).state == "ASSIGNED"
    world.report("dev-0", ExecutionReport(execution=again.id, state=S.COMMITTED))
    assert shown(world, campaign).state == "COMMITTED"


def test_after_the_last_attempt_it_has_failed(world: World) -> None:
    campaign = create(world, **RETRY, audience={"devices": ["dev-0"]})
    for waits in (21.0, 41.0):
        world.tick()
        fails(world, campaign)
        world.tick()
        assert world.tick(waits) == ["dev-0"]
    fails(world, campaign)
    world.tick()
    assert (shown(world, campaign).state, shown(world, campaign).attempt) == ("FAILED", 3)
    assert world.campaign(campaign).state == "PAUSED"


def test_what_an_abort_finds_waiting_is_cancelled_and_what_a_pause_finds_is_held(world: World) -> None:
    campaign = create(world, **RETRY)
    world.tick()
    fails(world, campaign)
    world.act(campaign, pause_campaign)
    assert world.tick(25.0) == []
    assert (shown(world, campaign).state, world.wanted("dev-0")) == ("ASSIGNED", {})
    world.act(campaign, resume_campaign)
    assert world.tick() == ["dev-0"]
    fails(world, campaign)
    world.act(campaign, abort_campaign)
    world.tick(100.0)
    assert shown(world, campaign).state == "CANCELLED"
    assert world.campaign(campaign).executions["1"].get("RETRYING") is None


def test_a_deadline_is_a_failure_like_another(world: World) -> None:
    again: dict[str, Any] = {"waves": [{}], "retry": [{"codes": ["execution.deadline"], "backoff_seconds": 0}]}
    campaign = create(world, **again, audience={"devices": ["dev-0"]})
    world.tick()
    world.tick(61.0)
    world.tick()
    assert (shown(world, campaign).state, shown(world, campaign).attempt) == ("ASSIGNED", 2)
    world.tick(61.0)
    assert (shown(world, campaign).state, shown(world, campaign).code) == ("FAILED", "execution.deadline")


def test_what_the_fleet_gives_up_is_not_asked_again(world: World) -> None:
    campaign = create(world, waves=[{}], pipelines=["*"], retry=[{}])
    world.tick()
    assert shown(world, campaign).state == "FAILED"
    assert shown(world, campaign).code == "execution.no_pipeline"

"""Broker, fleet service and agent, killed with SIGKILL at random moments: no record is lost or stored twice."""

from __future__ import annotations

import random
import time
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from tests.e2e.database import rows, windows_by_device
from wheeltapper_fleet import tables
from wheeltapper_fleet.demo.stage import Stage, wait_for
from wheeltapper_fleet.demo.story import TERMINAL, Story

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

KILLS = 3


def stored(stage: Stage) -> dict[str, int]:
    """{device: number of its records in the fleet}."""
    return {device["id"]: stage.client.delivery(device["id"])["stored"] for device in stage.client.devices()}


def broker(stage: Stage) -> psutil.Process:
    """The process of the broker, a child of the fleet service."""

    def child() -> psutil.Process | None:
        children = psutil.Process(int(stage.serve_info()["pid"])).children()
        return next((process for process in children if "nats-server" in process.name()), None)

    return wait_for("the broker to run", child, 30.0)


def kill_fleet(stage: Stage, story: Story, chance: random.Random) -> None:
    stage.kill("fleet")
    time.sleep(chance.uniform(0.0, 1.5))
    stage.start_fleet()


def kill_broker(stage: Stage, story: Story, chance: random.Random) -> None:
    old = broker(stage)
    old.kill()
    wait_for("the broker to come back", lambda: broker(stage).pid != old.pid, 30.0)


def kill_agent(stage: Stage, story: Story, chance: random.Random) -> None:
    device = chance.choice(story.device_ids)
    stage.kill(device)
    time.sleep(chance.uniform(0.0, 1.0))
    stage.start_agent(device)


def test_killed_at_random_moments(stage: Stage, bundle: Path) -> None:
    """Of each kind three kills during a campaign and one after it, one kind after the other in the same fleet."""
    story = Story(stage)
    story.enrol()
    for kill, seed in ((kill_broker, 11), (kill_fleet, 22), (kill_agent, 33)):
        chance = random.Random(seed)
        campaign = story.campaign(story.publish(bundle))
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.2, 2.0))
            kill(stage, story, chance)
        story.await_campaign(campaign, "COMPLETED")
        kill(stage, story, chance)
        telemetry_flows(stage)
    result = story.finish()

    assert result["records_missing"] == 0
    assert result["releases"] == [1, 2, 3]
    executions = rows(stage, sa.select(tables.executions.c.state))
    assert len(executions) == 3 * len(story.device_ids)
    assert {state for (state,) in executions} <= set(TERMINAL)
    for device, windows in windows_by_device(stage).items():
        indices = [index for index, _ in windows]
        assert len(indices) == len(set(indices)), f"{device}: a window is stored twice"


def telemetry_flows(stage: Stage) -> None:
    before = stored(stage)
    wait_for(
        "telemetry to flow again from every device",
        lambda: all(count > before[device] + 10 for device, count in stored(stage).items()),
        60.0,
    )

"""A release that was called off while a device was away never comes to run there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wheeltapper_fleet.demo.stage import Stage, wait_for
from wheeltapper_fleet.demo.story import PIPELINE, TERMINAL, Story

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def start(stage: Stage, release: int) -> str:
    spec = {"model": stage.model, "release": release, "pipelines": [PIPELINE], "waves": [{}]}
    created = stage.client.create_campaign({**spec, "execution_deadline_seconds": 600.0})
    stage.client.act(created["id"], "start", created["version"])
    return str(created["id"])


def execution(stage: Stage, campaign: str) -> dict[str, Any]:
    [found] = stage.client.executions(campaign)
    return dict(found)


def test_a_device_that_was_away_does_not_run_what_was_aborted(stage: Stage, bundle: Path) -> None:
    story = Story(stage, devices=1)
    story.enrol()
    [device] = story.device_ids
    story.publish(bundle)
    story.await_campaign(start(stage, 1), "COMPLETED")
    story.publish(bundle)

    stage.terminate(device)
    wait_for("the device to be away", lambda: not stage.client.device(device)["online"], 30.0)
    aborted = start(stage, 2)
    wait_for("the assignment", lambda: execution(stage, aborted)["state"] == "ASSIGNED", 30.0)
    stage.client.act(aborted, "abort", stage.client.campaign(aborted)["version"])
    stage.start_agent(device)

    def told() -> dict[str, Any] | None:
        found = stage.client.device(device)
        return found if found["online"] and found["pipelines"][0]["windows"] > 30 else None

    found = wait_for("windows after the return", told, 60.0)
    assert found["pipelines"][0]["release"] == 1
    assert execution(stage, aborted)["state"] != "COMMITTED"

    # What follows is not held up by what was called off.
    story.await_campaign(start(stage, 2), "COMPLETED")
    wait_for("release 2", lambda: stage.client.device(device)["pipelines"][0]["release"] == 2, 30.0)
    assert execution(stage, aborted)["state"] in TERMINAL

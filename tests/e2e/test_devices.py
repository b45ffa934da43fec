"""A device and a fleet as real processes: what is asked of it, set on it, and told of it; and its life."""

from __future__ import annotations

import pytest

from wheeltapper_fleet.demo.stage import Stage, wait_for
from wheeltapper_fleet.demo.story import Story

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_a_device_from_pending_to_retired(stage: Stage) -> None:
    story = Story(stage, devices=1)
    story.enrol()
    client = stage.client
    (device,) = client.devices('state = active and online and attr.os like("Linux*") and has attr.config')
    name = device["id"]
    wait_for("windows", lambda: client.device(name)["pipelines"][0]["windows"] > 1, 60)
    pipeline = client.device(name)["pipelines"][0]["name"]

    asked = client.ask_device(name, "diagnostics")["command"]
    restarted = client.ask_device(name, "restart-pipeline", pipeline=pipeline)["command"]
    unknown = client.ask_device(name, "restart-pipeline", pipeline="other")["command"]
    wait_for("the answers", lambda: all(each["state"] != "waiting" for each in client.commands(name)), 60)
    assert client.command(asked)["state"] == "done"
    assert client.bundle(asked)["status"]["device"] == name
    assert client.command(restarted)["state"] == "done", client.command(restarted)
    assert client.command(unknown)["code"] == "pipeline.unknown"
    windows = client.device(name)["pipelines"][0]["windows"]
    wait_for("windows after it", lambda: client.device(name)["pipelines"][0]["windows"] != windows, 60)

    client.change_settings(name, {"log_level": "DEBUG", "status_seconds": 1.0})
    wait_for("the settings in force", lambda: client.settings(name)["delta"] == [], 60)
    stage.end(name)
    wait_for("the device to be gone", lambda: not client.device(name)["online"], 30)
    client.change_settings(name, {"log_level": None})
    assert client.settings(name)["delta"] == ["log_level"]
    stage.start_agent(name)
    wait_for("what it missed", lambda: client.settings(name)["delta"] == [], 60)
    assert [each["reason"] for each in client.connections(name)][-2:] == ["ended", "connected"]

    client.move_device(name, "quarantine", "strange")
    assert client.devices("state = quarantined and online"), "it stays connected"
    client.move_device(name, "retire", "scrapped")
    wait_for("its end", lambda: not client.device(name)["online"], 30)
    events = [each["event"] for each in client.device_log(name)]
    assert events == ["retire", "quarantine", "settings", "settings", "enrol", "expect"]

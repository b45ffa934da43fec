"""A whole agent with a real local broker: what it reports when the sensor's data are bad or the broker dies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.agent.bundles import RUNTIME, SMALL, make_bundle
from tests.agent.end_to_end.test_agent import World
from tests.agent.servers import until
from tests.agent.source.broker import PlainBroker
from wheeltapper_agent.source.simulator import Machine
from wheeltapper_protocols.signal.recording import Recording, write_recording
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.messages import (
    Alert,
    CaptureCommand,
    CaptureReport,
    Command,
    ExecutionReport,
    PipelineStatus,
    Report,
    TelemetryRecord,
)
from wheeltapper_protocols.wire.topics import Down


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def test_bad_data_and_a_dead_broker_are_reported(tmp_path: Path, world: World) -> None:
    (tmp_path / "plain").mkdir()
    broker = PlainBroker(tmp_path / "plain")
    head = world.config.read_text().split("[[pipelines]]")[0].replace("[delivery]", "status_seconds = 0.3\n[delivery]")
    world.config.write_text(
        f'{head}[[pipelines]]\nname = "press"\nquality = {{ stuck_samples = 5 }}\n[pipelines.source]\nkind = "mqtt"\n'
        f'port = {broker.port}\ntopic = "press"\nsample_rate_hz = 100\nwindow_samples = 10\nfull_scale = [16.0]\n'
        "retry_first_seconds = 0.1\nretry_max_seconds = 0.3\n"
    )

    def press() -> PipelineStatus:
        return (
            world.fleet.statuses[-1].pipelines.get("press", PipelineStatus())
            if world.fleet.statuses
            else PipelineStatus()
        )

    try:
        done = world.command("enroll", "--server", world.server.url, "--config", str(world.config), "--json")
        assert done.returncode == 0, done.stderr
        world.start()
        client = broker.client()
        values: list[float | None] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        until(
            lambda: bool(client.publish("press", json.dumps({"samples": values}))) and press().windows > 2,
            30,
            "windows",
        )
        assert press().source == "running"
        for bad in ([None, *values[1:]], [1.5] * 10, [*values[:9], 16.5]):
            client.publish("press", json.dumps({"samples": bad}), qos=1).wait_for_publish(10)

        def counted() -> bool:
            found = press().quality
            return found is not None and (found.missing, found.incomplete, found.stuck, found.clipped) == (1, 1, 10, 1)

        until(counted, 20, "the counts")
        broker.kill()
        until(lambda: press().source == "source.unreachable", 20, "the dead broker")
        broker.start()
        until(lambda: press().source in ("waiting", "running"), 20, "the broker again")
        client.loop_stop()
        assert world.stop() == 0
        shown = json.loads(world.command("status", "--config", str(world.config), "--json").stdout)
        assert shown["pipelines"]["press"]["quality"]["stuck"] == 10
        windows = world.fleet.windows()
        assert [record.window for record in windows] == list(range(len(windows)))
    finally:
        broker.kill()


@pytest.mark.skipif(RUNTIME != "onnx", reason="needs ONNX Runtime beside LiteRT")
def test_one_device_runs_pipelines_of_every_kind(tmp_path: Path, world: World) -> None:
    """Three sources, three tasks, two runtimes, one assignment: each pipeline has its own source, window and model."""
    from tests.agent.task_bundles import raw_classifier

    (tmp_path / "plain").mkdir()
    broker = PlainBroker(tmp_path / "plain")
    machine = Machine(SMALL)
    samples = np.stack([machine.window(index, index * 10.0) for index in range(400)])
    times_s, channels = np.arange(400, dtype=np.float64), ("horizontal", "vertical")
    recorded = Recording(samples, np.ones(2), SMALL.sample_rate_hz, times_s, channels, ("g", "g"))
    write_recording(recorded, tmp_path / "hall.npz")
    head = world.config.read_text().split("[[pipelines]]")[0].replace("[delivery]", "status_seconds = 0.3\n[delivery]")
    world.config.write_text(
        f"""{head}
[[pipelines]]
name = "motor"
source = {{ kind = "simulator", window_samples = 1024, interval_seconds = 1.0, time_scale = 20.0 }}
[[pipelines]]
name = "hall"
source = {{ kind = "replay", path = "hall.npz", rate_hz = 20, hold_until_model = true }}
[[pipelines]]
name = "press"
[pipelines.source]
kind = "mqtt"
port = {broker.port}
topic = "press"
sample_rate_hz = 1000
window_samples = 16
channels = ["x"]
units = ["g"]
"""
    )
    repository, fleet = world.repository, world.fleet
    targets = {
        "motor": repository.publish(1, make_bundle(1, runtime="onnx")),
        "press": repository.publish(2, raw_classifier(model="bearing", release=2)),
        "hall": repository.publish(3, make_bundle(3, runtime="tflite")),
    }
    try:
        done = world.command("enroll", "--server", world.server.url, "--config", str(world.config), "--json")
        assert done.returncode == 0, done.stderr
        world.start()
        client = broker.client()
        level = [-1.0]

        def pressed() -> bool:
            return bool(client.publish("press", json.dumps({"samples": [level[0]] * 16})))

        def committed() -> bool:
            pressed()
            return "COMMITTED" in fleet.states("e1")

        until(lambda: pressed() and {each.pipeline for each in fleet.windows()} >= {"motor", "press"}, 20, "windows")
        fleet.down(Down.ASSIGNMENT, repository.assign(targets["motor"], 1, pipelines=targets))
        until(committed, 60, "the releases")

        def found(pipeline: str) -> list[TelemetryRecord]:
            return [each for each in fleet.windows() if each.pipeline == pipeline]

        level[0] = 1.0  # of which the classifier says that it is bad

        def alerts() -> list[Alert]:
            return [each for each in fleet.records.values() if isinstance(each, Alert) and each.pipeline == "press"]

        until(lambda: pressed() and bool(alerts()), 30, "the alert")
        alert = alerts()[0]
        assert (alert.label, alert.release, alert.raised) == ("bad", 2, True)
        until(lambda: all(found(name)[-1].score is not None for name in targets), 20, "scores of all three")
        for name, target in targets.items():
            assert {each.release for each in found(name)} <= {None, target.release}
        until(lambda: len(fleet.statuses[-1].pipelines) == 3, 10, "a status")
        runtimes = {name: each.runtime.split("/")[0] for name, each in fleet.statuses[-1].pipelines.items()}
        assert runtimes == {"motor": "onnxruntime", "press": "onnxruntime", "hall": "ai-edge-litert"}
        second = repository.publish(4, make_bundle(4, gain=0.6, runtime="onnx"))
        fleet.down(Down.ASSIGNMENT, repository.assign(second, 2, pipelines={"motor": second}))
        until(lambda: pressed() and "COMMITTED" in fleet.states("e2"), 60, "the release for one of them")
        client.loop_stop()
        assert world.stop() == 0
        assert {name: found(name)[-1].release for name in targets} == {"motor": 4, "press": 2, "hall": 3}
        for name in targets:
            assert [each.window for each in found(name)] == list(range(len(found(name))))
    finally:
        broker.kill()


def test_a_recording_that_is_missing_at_the_start_stops_no_other_pipeline(tmp_path: Path, world: World) -> None:
    text = world.config.read_text().replace("[delivery]", "status_seconds = 0.3\n[delivery]")
    world.config.write_text(
        f'{text}[[pipelines]]\nname = "stick"\nsource = {{ kind = "replay", path = "stick/run.npz", rate_hz = 10 }}\n'
        '[[capture.rules]]\npipeline = "stick"\nrandom_share = 1.0\nrandom_windows = 2\n'
    )
    repository, fleet = world.repository, world.fleet

    def stick() -> PipelineStatus:
        return fleet.statuses[-1].pipelines.get("stick", PipelineStatus()) if fleet.statuses else PipelineStatus()

    def bodies(kind: type[Any]) -> list[Any]:
        return [
            each.body for each in fleet.records.values() if isinstance(each, Report) and isinstance(each.body, kind)
        ]

    done = world.command("enroll", "--server", world.server.url, "--config", str(world.config), "--json")
    assert done.returncode == 0, done.stderr
    world.start()
    until(lambda: len(fleet.windows()) > 3 and stick().source == "source.unreadable", 20, "the other pipeline")
    target = repository.publish(1, make_bundle(1))
    fleet.down(Down.ASSIGNMENT, repository.assign(target, 1, pipelines={"stick": target}))
    until(lambda: fleet.states("e1")[-1:] == ["FAILED"], 20, "the end of release 1")
    assert bodies(ExecutionReport)[-1].code == "source.unreadable"
    command = Command(id="capture-1", expires_at=1e11, body=CaptureCommand(pipeline="stick", snapshots=5))
    fleet.down(Down.COMMAND, encode(command))
    until(lambda: bool(bodies(CaptureReport)), 20, "the answer")
    assert (bodies(CaptureReport)[0].command, bodies(CaptureReport)[0].code) == ("capture-1", "source.unreadable")
    fleet.down(Down.ASSIGNMENT, repository.assign(target, 2))
    until(lambda: "COMMITTED" in fleet.states("e2"), 60, "the release for the other pipeline")
    machine = Machine(SMALL)
    samples = np.stack([machine.window(index, index * 10.0) for index in range(400)])
    times_s, channels = np.arange(400, dtype=np.float64), ("horizontal", "vertical")
    (tmp_path / "stick").mkdir()
    write_recording(
        Recording(samples, np.ones(2), SMALL.sample_rate_hz, times_s, channels, ("g", "g")), tmp_path / "stick/run.npz"
    )
    until(lambda: stick().source == "running" and stick().windows > 2, 60, "the recording")
    fleet.down(Down.ASSIGNMENT, repository.assign(target, 3, pipelines={"stick": target}))
    until(lambda: "COMMITTED" in fleet.states("e3"), 60, "the release for it")
    assert list((world.folder / "state/captures").glob("auto-*"))  # what its rule recorded
    assert world.stop() == 0

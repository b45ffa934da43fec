"""The agent as a process against a real Mosquitto and a real HTTPS server; the fleet's acks come from the test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.agent.bundles import make_bundle
from tests.agent.repository import Repository
from tests.agent.servers import Authority, DeviceServer, Mosquitto, until
from wheeltapper_agent.link.mqtt import tls_context
from wheeltapper_protocols.wire.codec import decode, encode
from wheeltapper_protocols.wire.messages import (
    Ack,
    Alert,
    CaptureCommand,
    CaptureReport,
    Command,
    ExecutionReport,
    Report,
    Status,
    Telemetry,
)
from wheeltapper_protocols.wire.topics import ALL_UP_FILTER, Down, Up, down_topic, parse_up_topic

DEVICE = "device-1"


class FakeFleet:
    """Keeps every message of the device; acks the contiguous prefix, as the fleet does after its commit."""

    def __init__(self, authority: Authority, port: int) -> None:
        self.records: dict[tuple[str, int], Any] = {}
        self.copies = 0
        self.statuses: list[Status] = []
        self.lock = threading.Lock()
        certificate, key = authority.pair("fleet.ingest")
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id="fleet", protocol=paho.MQTTv5)
        self.client.tls_set_context(tls_context(authority.path, certificate, key))
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe(ALL_UP_FILTER, qos=1)
        self.client.on_message = self._message
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def _message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        _, kind = parse_up_topic(message.topic)
        body = decode(kind, bytes(message.payload))
        if isinstance(body, Status):
            self.statuses.append(body)
            return
        assert isinstance(body, Telemetry | Alert | Report)
        items = body.records if isinstance(body, Telemetry) else [body]
        with self.lock:
            for item in items:
                self.copies += (body.epoch, item.seq) in self.records
                self.records.setdefault((body.epoch, item.seq), item)
            acked = body.oldest - 1
            while (body.epoch, acked + 1) in self.records:
                acked += 1
        self.down(Down.ACK, encode(Ack(epoch=body.epoch, seq=acked)))

    def down(self, kind: Down, payload: bytes) -> None:
        self.client.publish(down_topic(DEVICE, kind), payload, qos=0, retain=kind is Down.ASSIGNMENT)

    def states(self, execution: str) -> list[str]:
        with self.lock:
            found = [item.body for _, item in sorted(self.records.items()) if isinstance(item, Report)]
        return [body.state.value for body in found if isinstance(body, ExecutionReport) and body.execution == execution]

    def windows(self) -> list[Any]:
        with self.lock:
            return [item for _, item in sorted(self.records.items()) if not isinstance(item, Report | Alert)]


class World:
    """One agent with its fleet: CA, repository, broker, HTTPS server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "ca")
        self.repository = Repository()
        self.broker = Mosquitto(self.authority, folder / "broker")
        self.server = DeviceServer(self.authority, self.repository, self.broker.port)
        self.fleet = FakeFleet(self.authority, self.broker.port)
        self.config = folder / "agent.toml"
        self.config.write_text(
            '[device]\nstate_dir = "state"\n[delivery]\nbatch_seconds = 0.2\nresend_seconds = 1.0\n'
            "reconnect_max_seconds = 1.0\n[update]\nfetch_attempts = 2\nfetch_retry_seconds = 0.1\n"
            'metadata_retry_seconds = 0.2\n[[pipelines]]\nname = "main"\n[pipelines.source]\nkind = "simulator"\n'
            "window_samples = 1024\ninterval_seconds = 1.0\ntime_scale = 20.0\n"
        )
        self.agent: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "wheeltapper_agent", *arguments]
        return subprocess.run(
            line, text=True, capture_output=True, timeout=60, check=False, env=self._environment(), **options
        )

    def _environment(self) -> dict[str, str]:
        token = f"wt1.{DEVICE}.{'s' * 43}.{self.authority.sha256}"
        return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "WHEELTAPPER_TOKEN": token}

    def start(self) -> None:
        with (self.folder / "agent.log").open("ab") as log:
            line = [sys.executable, "-m", "wheeltapper_agent", "run", "--config", str(self.config)]
            self.agent = subprocess.Popen(line, stderr=log, stdout=log, env=self._environment())

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.agent is not None
        self.agent.send_signal(number)
        return self.agent.wait(timeout=20)

    def close(self) -> None:
        if self.agent is not None and self.agent.poll() is None:
            self.agent.kill()
            self.agent.wait()
        self.fleet.client.loop_stop()
        self.server.close()
        self.broker.kill()


@pytest.fixture
def world(tmp_path: Path) -> Any:
    made = World(tmp_path)
    yield made
    made.close()


def test_an_agent_from_enrolment_to_three_releases(world: World) -> None:
    """Enrol, commit a release, reject a broken one, capture, kill agent and broker: no record is lost or doubled."""
    done = world.command("enroll", "--server", world.server.url, "--config", str(world.config), "--json")
    assert done.returncode == 0, done.stderr
    key = world.folder / "state/identity/device.key"
    assert key.stat().st_mode & 0o777 == 0o600
    world.start()
    fleet = world.fleet
    until(lambda: len(fleet.windows()) > 5, 20, "unscored windows")
    target = world.repository.publish(1, make_bundle(1))
    fleet.down(Down.ASSIGNMENT, world.repository.assign(target, 1))
    until(lambda: "COMMITTED" in fleet.states("e1"), 20, "release 1")
    broken = world.repository.publish(2, make_bundle(2, golden_error=1.0))
    fleet.down(Down.ASSIGNMENT, world.repository.assign(broken, 2))
    until(lambda: "REJECTED" in fleet.states("e2"), 20, "the refusal of release 2")
    assert fleet.states("e2")[-2:] == ["SELF_TEST", "REJECTED"]
    world.stop(signal.SIGKILL)
    world.start()
    body = CaptureCommand(pipeline="main", snapshots=5)
    command = encode(Command(id="capture-1", expires_at=1e11, body=body))

    def captured() -> bool:
        fleet.down(Down.COMMAND, command)
        return bool(world.server.captures)

    until(captured, 20, "the capture")
    world.broker.kill()
    third = world.repository.publish(3, make_bundle(3, gain=0.6))
    world.broker.start()
    until(lambda: fleet.client.is_connected(), 20, "the fleet's connection")
    fleet.down(Down.ASSIGNMENT, world.repository.assign(third, 3))
    until(lambda: "COMMITTED" in fleet.states("e3"), 20, "release 3")
    assert world.stop() == 0
    shown = json.loads(world.command("status", "--config", str(world.config), "--json").stdout)
    assert shown["held"] == 0
    assert shown["acked"] == shown["seq"] == len(fleet.records)
    assert {seq for _, seq in fleet.records} == set(range(1, shown["seq"] + 1))
    windows = fleet.windows()
    assert [record.window for record in windows] == list(range(len(windows)))
    assert {record.release for record in windows} == {None, 1, 3}
    reports = [item.body for item in fleet.records.values() if isinstance(item, Report)]
    captures = [body for body in reports if isinstance(body, CaptureReport)]
    assert [(capture.command, capture.snapshots) for capture in captures] == [("capture-1", 5)]
    assert fleet.statuses[-1].online is False
    assert shown["mqtt"] == "5"
    assert "s" * 43 not in (world.folder / "agent.log").read_text()
    decode(Up.STATUS, encode(fleet.statuses[-1]))

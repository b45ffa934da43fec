"""The agent's captures against the real devices' API: by rule, with killed servers and restarted agents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.agent.captures.test_rules import SPEC, seen
from tests.agent.spool_kit import Clock
from tests.fleet.broker.rig import until
from tests.fleet.captures.test_captures import ask
from tests.fleet.device_api.client import Listener
from tests.fleet.device_api.test_resumable import Process
from tests.fleet.trust.world import World
from wheeltapper_agent.captures.captures import Captures
from wheeltapper_agent.captures.config import CaptureConfig, CaptureRule
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.link.https import HttpsClient
from wheeltapper_agent.pipeline.pipeline import WindowCapture
from wheeltapper_agent.records.spool import Spool
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_protocols.signal.recording import read_recording
from wheeltapper_protocols.wire.messages import CaptureCommand, CaptureReport, Command, Report

RULE = CaptureRule(pipeline="main", on_alert=True, on_drift=True, before_windows=2, after_windows=1, pause_seconds=0.0)
BIG = SourceSpec(1000.0, 4096, ("x", "y"), ("g", "g"))


class FakePipeline:
    """Gives noise, which does not compress, when it is asked for windows."""

    spec = BIG

    def capture(self, capture: WindowCapture) -> None:
        noise = np.random.default_rng(1)
        for index in range(capture.wanted_windows):
            samples = noise.normal(size=(BIG.window_samples, 2)).astype(np.float32)
            capture.windows.append(Window(samples, float(index)))
        capture.on_end(capture.windows)

    def end_captures_due(self, now: float) -> None: ...


class Agent:
    """Captures with a spool, against one server."""

    def __init__(
        self, folder: Path, client: HttpsClient, max_bytes: int = 10**7, clock: Any = None, **config: Any
    ) -> None:
        self.spool = Spool(folder / "spool.db")
        fields: dict[str, Any] = {"rules": (RULE,), "bytes_per_second": 0.0, "piece_kb": 64, **config}
        pipelines: Any = {"main": FakePipeline()}
        clock = clock or SystemClock()
        self.captures = Captures(
            "dev-1", pipelines, self.spool, client, clock, max_bytes, folder / "captures", CaptureConfig(**fields)
        )
        rules = self.captures.rules("main", SPEC)
        assert rules is not None
        self.rules = rules
        self.captures.start()

    def reports(self) -> list[CaptureReport]:
        found = [held.item.body for held in self.spool.peek(0, 1000, ("report",)) if isinstance(held.item, Report)]
        return [body for body in found if isinstance(body, CaptureReport)]

    def command(self, snapshots: int, name: str = "c-1") -> None:
        body = CaptureCommand(pipeline="main", snapshots=snapshots)
        self.captures.take(Command(id=name, expires_at=1e11, body=body), body)

    def waiting(self) -> list[str]:
        return [entry.name for entry in self.captures._folder.entries()]

    def close(self) -> None:
        self.captures.stop()
        self.spool.close()


@pytest.fixture
def client(listener: Listener, world: World) -> Iterator[HttpsClient]:
    made = HttpsClient(listener.url, listener.context(*world.enrol("dev-1")), 10.0)
    yield made
    made.close()


def test_around_an_alert_and_on_drift(client: HttpsClient, world: World, tmp_path: Path) -> None:
    agent = Agent(tmp_path / "agent", client)
    for index in range(5):
        agent.rules.observe(seen(index))
    agent.rules.observe(seen(5, alert=True, changed=True))
    agent.rules.observe(seen(6, alert=True))
    until(lambda: len(agent.reports()) == 1)
    agent.captures.on_drift("main", "feature.x.rms")
    agent.rules.trigger("more")  # one is wanted already: ignored
    assert agent.rules.ignored == 1
    agent.captures.on_drift("other", "x")  # a pipeline without a rule: ignored
    for index in range(7, 9):
        agent.rules.observe(seen(index))
    until(lambda: len(agent.reports()) == 2)
    alert, drift = agent.reports()
    assert (alert.command, alert.reason, alert.snapshots, drift.reason) == (None, "alert", 4, "drift.feature.x.rms")
    assert alert.sha256 is not None
    assert alert.upload is not None
    recording = read_recording(world.captures.path(alert.sha256))
    assert recording.t_s.tolist() == [3, 4, 5, 6]
    assert recording.meta == {"device": "dev-1", "pipeline": "main", "reason": "alert", "first_window": "3"}
    assert {kept.command for kept in world.stored_captures()} == {alert.upload, drift.upload}
    assert agent.waiting() == []
    agent.close()


def test_windows_with_gaps_are_left_out_and_nothing_but_gaps_is_reported(
    client: HttpsClient, world: World, tmp_path: Path
) -> None:
    agent = Agent(tmp_path / "agent", client)
    for index in range(4):
        observation = seen(index, alert=index == 2, changed=index == 2)
        if index != 2:
            observation.window.samples[3] = np.nan
        agent.rules.observe(observation)
    until(lambda: len(agent.reports()) == 1)
    (report,) = agent.reports()
    assert report.sha256 is not None
    recording = read_recording(world.captures.path(report.sha256))
    assert (recording.t_s.tolist(), recording.meta["left_out_windows"]) == ([2], "3")
    agent.rules.trigger("again")
    for index in range(4, 6):
        observation = seen(index)
        observation.window.samples[0] = np.inf
        agent.rules.observe(observation)
    agent.rules.end()
    until(lambda: len(agent.reports()) == 2)
    assert agent.reports()[1].code in ("", "capture.empty")
    agent.close()


def test_a_command_survives_a_restart_of_the_agent(listener: Listener, world: World, tmp_path: Path) -> None:
    context = listener.context(*world.enrol("dev-1"))
    ask(world, "c-1")
    nowhere = HttpsClient("https://127.0.0.1:9", context, 1.0)
    agent = Agent(tmp_path / "agent", nowhere)
    agent.command(40)
    until(lambda: agent.waiting() == ["c-1"])
    agent.close()
    agent = Agent(tmp_path / "agent", HttpsClient(listener.url, context, 10.0))
    agent.command(40)  # repeated by the fleet: its windows are not taken again
    until(lambda: len(agent.reports()) == 1)
    (report,) = agent.reports()
    assert (report.command, report.snapshots, report.code) == ("c-1", 40, "")
    assert [kept.sha256 for kept in world.stored_captures()] == [report.sha256]
    until(lambda: agent.waiting() == [])
    agent.command(40)  # answered
    agent.close()
    agent = Agent(tmp_path / "agent", HttpsClient(listener.url, context, 10.0))
    assert len(agent.reports()) == 1
    agent.close()


def test_what_the_fleet_will_never_take_is_given_up_and_says_why(
    client: HttpsClient, world: World, tmp_path: Path
) -> None:
    """The answer to HEAD has no body: the code comes with a piece that is empty."""
    ask(world, "c-2")
    agent = Agent(tmp_path / "agent", client)
    agent.command(3, "c-9")  # nobody asked for it
    agent.command(3, "c-2")
    until(lambda: len(agent.reports()) == 2)
    codes = {report.command: report.code for report in agent.reports()}
    assert codes == {"c-9": "capture.upload", "c-2": ""}
    assert "capture.command_unknown" in next(report.detail for report in agent.reports() if report.code)
    assert agent.waiting() == []
    agent.close()


def test_kill_9_of_the_server_in_the_middle(world: World, tmp_path: Path) -> None:
    certificate, key = world.enrol("dev-1")
    ask(world, "c-1")
    server = Process(world.folder)
    listener = Listener(f"https://127.0.0.1:{server.port}", server.port, world)
    client = HttpsClient(listener.url, listener.context(certificate, key), 10.0)
    agent = Agent(tmp_path / "agent", client, bytes_per_second=400_000.0)
    partial = world.data_dir / "captures-partial"
    agent.command(60)  # about 1 MB of noise

    def there() -> int:
        return sum(path.stat().st_size for path in partial.glob("*.part")) if partial.exists() else 0

    until(lambda: there() >= 300_000, 30)
    server.kill()
    kept = there()
    again = Process(world.folder, server.port)
    try:
        until(lambda: len(agent.reports()) == 1, 60)
    finally:
        again.kill()
    (report,) = agent.reports()
    assert (report.command, report.code, report.snapshots) == ("c-1", "", 60)
    assert report.sha256 is not None
    assert world.captures.path(report.sha256).stat().st_size == report.length
    assert read_recording(world.captures.path(report.sha256)).samples.shape == (60, 4096, 2)
    sent = agent.captures.share().sent_bytes
    assert kept > 200_000
    assert sent <= report.length + 64 * 1024  # only the piece under way went twice
    agent.close()


def test_the_folder_is_full_while_the_fleet_is_away(world: World, tmp_path: Path) -> None:
    nowhere = HttpsClient("https://127.0.0.1:9", Listener("", 0, world).context(*world.enrol("dev-1")), 1.0)
    agent = Agent(tmp_path / "agent", nowhere, max_bytes=3000)
    for start in range(0, 60, 4):
        agent.rules.trigger(f"t{start}")
        for index in range(start, start + 4):
            agent.rules.observe(seen(index))
        until(lambda: agent.captures._recorder._jobs.empty())
    until(lambda: len(agent.waiting()) + agent.captures._recorder.dropped + agent.rules.dropped == 15)
    assert agent.captures._folder.used_bytes <= 3000
    gone = [report for report in agent.reports() if report.code == "capture.dropped"]
    assert len(gone) == agent.captures._recorder.dropped > 0
    assert all(report.command is None and report.upload and report.reason for report in gone)
    agent.close()


def test_a_days_share_is_kept_over_restarts(client: HttpsClient, world: World, tmp_path: Path) -> None:
    clock = Clock()
    config: dict[str, Any] = {"max_mb_per_day": 4000 / 1024 / 1024, "clock": clock}
    agent = Agent(tmp_path / "agent", client, **config)
    for start in range(0, 40, 4):
        agent.rules.trigger("t")
        for index in range(start, start + 4):
            agent.rules.observe(seen(index))
        until(lambda: agent.captures._memory.reserved_bytes == 0)  # it is a file
    upload, folder = agent.captures._uploader._upload, agent.captures._folder
    until(lambda: bool(agent.waiting()) and not any(upload.allowed(one) for one in folder.entries()))
    sent = sum(kept.length for kept in world.stored_captures())
    assert 0 < sent <= 4000
    waiting = len(agent.waiting())
    agent.close()
    agent = Agent(tmp_path / "agent", client, **config)
    assert len(agent.waiting()) == waiting
    clock.seconds += 86_400
    agent.captures._uploader.wake()
    until(lambda: len(agent.waiting()) < waiting)
    agent.close()

"""The notifications to systemd over a real datagram socket: ready, watchdog while the threads are alive, stopping."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.agent.repository import Repository
from tests.agent.servers import Authority, DeviceServer, until
from wheeltapper_agent.config import AgentConfig, DeviceConfig
from wheeltapper_agent.ground.liveness import Liveness, Pulse
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.host.notify import Notifier
from wheeltapper_agent.pipeline.config import PipelineConfig
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.records.config import DeliveryConfig
from wheeltapper_agent.records.spool import Spool
from wheeltapper_agent.service import Agent
from wheeltapper_agent.source.replay import ReplayConfig, ReplaySource
from wheeltapper_agent.source.simulator import SimulatorConfig
from wheeltapper_protocols.signal.recording import Recording, write_recording


class Manager:
    """The service manager's end of the socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self.heard: list[str] = []

    def hear(self) -> list[str]:
        """Everything that came since the last call."""
        new: list[str] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                new += self._socket.recv(65536).decode().splitlines()
        self.heard += new
        return new

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(short_path: Path) -> Iterator[Manager]:
    made = Manager(short_path / "notify")
    yield made
    made.close()


def test_the_four_messages(manager: Manager) -> None:
    notifier = Notifier(str(manager.path))
    notifier.ready()
    notifier.status("two\nlines\x00and " + "x" * 1000)
    notifier.watchdog()
    notifier.stopping()
    heard = manager.hear()
    assert [line for line in heard if not line.startswith("STATUS=")] == ["READY=1", "WATCHDOG=1", "STOPPING=1"]
    status = next(line for line in heard if line.startswith("STATUS="))
    assert status.startswith("STATUS=two lines")
    assert len(status) <= 407


def test_the_abstract_name_space() -> None:
    name = f"wheeltapper-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        listener.settimeout(5)
        Notifier("@" + name).ready()
        assert listener.recv(100) == b"READY=1"


def test_neither_a_missing_nor_a_full_socket_blocks(manager: Manager, tmp_path: Path) -> None:
    Notifier(None).ready()
    Notifier(str(tmp_path / "nobody")).ready()
    notifier = Notifier(str(manager.path))
    for _ in range(5000):  # far beyond net.unix.max_dgram_qlen
        notifier.watchdog()
    assert 0 < len(manager.hear()) < 5000


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "³"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_timeout_comes_from_the_environment(environment: dict[str, str], seconds: float | None) -> None:
    assert Notifier.from_environment(environment).watchdog_seconds == seconds


class Clock:
    """Time that the test sets."""

    time_s = 0.0

    def now(self) -> float:
        return self.time_s

    def monotonic(self) -> float:
        return self.time_s


def test_a_waiting_thread_is_alive_and_a_hanging_one_is_not() -> None:
    clock = Clock()
    pulse, liveness, living = Pulse(clock), Liveness(10.0), [True]
    liveness.watch("pipeline a", lambda: living[0], pulse)
    clock.time_s = 1e6
    assert liveness.troubles() == []
    with pulse:
        clock.time_s += 9.0
        assert liveness.troubles() == []
        clock.time_s += 2.0
        assert liveness.troubles() == ["pipeline a hangs since 11 s"]
    assert liveness.troubles() == []
    with contextlib.suppress(RuntimeError), pulse:
        raise RuntimeError
    assert pulse.busy_seconds == 0.0
    living[0] = False
    assert liveness.troubles() == ["pipeline a ended"]


def _agent(folder: Path, manager: Manager, watchdog_seconds: float) -> tuple[Agent, DeviceServer]:
    server = DeviceServer(Authority(folder / "ca"), Repository())
    state = folder / "state"
    state.mkdir()
    source = SimulatorConfig(window_samples=1024, interval_seconds=1.0, time_scale=50.0)
    config = AgentConfig(
        device=DeviceConfig(state_dir=state),
        delivery=DeliveryConfig(flush_seconds=0.1),
        pipelines=(PipelineConfig(name="main", source=source),),
    )
    notifier = Notifier(str(manager.path), watchdog_seconds)
    return Agent(config, Profile(name="test"), server.identity(folder / "identity"), notifier), server


def test_a_hung_pipeline_starves_the_watchdog(
    tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole agent: it is ready, feeds the watchdog, stops feeding when a pipeline hangs, feeds again after."""
    agent, server = _agent(tmp_path, manager, watchdog_seconds=0.5)
    hang, release = threading.Event(), threading.Event()
    take = agent.pipelines["main"]._take

    def slow(*arguments: Any) -> int:
        if hang.is_set():
            release.wait(30)
        return take(*arguments)

    monkeypatch.setattr(agent.pipelines["main"], "_take", slow)
    runner = threading.Thread(target=agent.run, daemon=True)
    runner.start()
    try:
        until(lambda: "WATCHDOG=1" in manager.hear(), 10, "the first ping")
        assert manager.heard[0] == "READY=1"
        hang.set()
        until(lambda: any("hangs" in line for line in manager.hear()), 10, "the word of the hung pipeline")
        manager.hear()
        for _ in range(2):
            until(lambda: bool(manager.hear()), 10, "the next turn of the agent")
            assert "WATCHDOG=1" not in manager.heard[-2:]
        hang.clear()
        release.set()
        until(lambda: "WATCHDOG=1" in manager.hear(), 10, "the ping after the hang")
    finally:
        release.set()
        agent.stop()
        runner.join(20)
        server.close()
    manager.hear()
    assert manager.heard[-1] == "STOPPING=1"
    assert not runner.is_alive()


def test_a_dead_updater_starves_the_watchdog(tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, server = _agent(tmp_path, manager, watchdog_seconds=60.0)
    monkeypatch.setattr(agent.updater, "_run", lambda: None)
    agent.updater._thread = threading.Thread(target=lambda: None)
    runner = threading.Thread(target=agent.run, daemon=True)
    runner.start()
    try:
        until(lambda: any("updater ended" in line for line in manager.hear()), 10, "the word of the dead updater")
        assert "WATCHDOG=1" not in manager.heard[2:]
    finally:
        agent.stop()
        runner.join(20)
        server.close()


def test_a_dead_thread_of_the_captures_starves_the_watchdog(tmp_path: Path, manager: Manager) -> None:
    agent, server = _agent(tmp_path, manager, watchdog_seconds=60.0)
    assert agent._captures._memory.max_bytes == 128 * 1024 * 1024  # of 512
    agent._captures._recorder._jobs.put(None)  # ends the writer
    runner = threading.Thread(target=agent.run, daemon=True)
    runner.start()
    try:
        until(lambda: any("captures ended" in line for line in manager.hear()), 10, "the word of the dead thread")
        figures = {"waiting": 0, "dropped": 0, "ignored": 0, "unsaid": 0}
        assert agent._status.answer({"ask": "status"})["captures"] == figures
    finally:
        agent.stop()
        runner.join(20)
        server.close()


def test_a_pipeline_that_ends_with_its_recording_is_alive_and_so_is_one_whose_work_fails(tmp_path: Path) -> None:
    recording = Recording(
        samples=np.zeros((3, 64, 1), np.float32),
        scale=np.ones(1),
        sample_rate_hz=1000.0,
        t_s=np.arange(3.0),
        channels=("a",),
        units=("g",),
    )
    path = tmp_path / "three.npz"
    write_recording(recording, path)
    spool = Spool(tmp_path / "spool.db")
    clock = SystemClock()
    source = ReplaySource(ReplayConfig(path=path, rate_hz=1000.0), clock)
    whole = Pipeline("whole", source, spool, clock)
    broken = Pipeline("broken", ReplaySource(ReplayConfig(path=path, rate_hz=1000.0), clock), spool, clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broken, "_take", lambda *_: 1 / 0)
        for pipeline in (whole, broken):
            pipeline.start()
            pipeline._thread.join(10)
    assert whole.alive()
    assert broken.alive()  # one pipeline is no reason to end the agent
    assert broken.status().source == "pipeline.failed"
    assert broken.status().dropped_windows == 3
    broken.stop()
    assert broken.alive()
    spool.close()

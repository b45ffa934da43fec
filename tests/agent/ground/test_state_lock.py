"""Only one agent runs on a state folder; an agent also runs where the disk or the broker refuses."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.servers import DeviceServer, until
from wheeltapper_agent import service
from wheeltapper_agent.config import AgentConfig, DeviceConfig
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.ground.state_lock import LOCK_FILE, StateLock
from wheeltapper_agent.host.local_socket import SOCKET_FILE, ask
from wheeltapper_agent.pipeline.config import PipelineConfig
from wheeltapper_agent.records.config import DeliveryConfig
from wheeltapper_agent.records.spool import SPOOL_FILE, read_figures
from wheeltapper_agent.service import Agent
from wheeltapper_agent.source.simulator import SimulatorConfig

_HOLDER = """
import sys, time
from pathlib import Path
from wheeltapper_agent.ground.state_lock import StateLock
held = StateLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def _is_free(folder: Path) -> bool:
    try:
        StateLock(folder).close()
    except AgentError as error:
        return error.code != "local.in_use"
    return True


def test_a_folder_is_held_until_it_is_given_back(tmp_path: Path) -> None:
    held = StateLock(tmp_path)
    assert not _is_free(tmp_path)
    held.close()
    assert _is_free(tmp_path)


def test_a_kill_gives_it_back(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)], stdout=subprocess.PIPE, env=environment, text=True
    )
    assert holder.stdout is not None
    with holder.stdout as said:
        assert said.readline() == "held\n"
        assert not _is_free(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert _is_free(tmp_path)


def test_a_child_does_not_hold_it(tmp_path: Path) -> None:
    held = StateLock(tmp_path)
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    held.close()
    try:
        assert _is_free(tmp_path)
    finally:
        child.kill()
        child.wait()


def test_a_disk_without_room_for_it_does_not_stop_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_arguments: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        held = StateLock(tmp_path)
    assert "cannot be locked" in caplog.text
    held.close()
    (tmp_path / LOCK_FILE).touch(mode=0o600)
    assert _is_free(tmp_path)


# --- with an agent ----------------------------------------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path, server: DeviceServer) -> Iterator[Agent]:
    """An agent that the test starts, with :func:`_start`; it is stopped at the end of the test."""
    state = tmp_path / "state"
    state.mkdir()
    source = SimulatorConfig(window_samples=1024, interval_seconds=1.0, time_scale=50.0)
    config = AgentConfig(
        device=DeviceConfig(state_dir=state, status_seconds=0.2),
        delivery=DeliveryConfig(flush_seconds=0.1),
        pipelines=(PipelineConfig(name="main", source=source),),
    )
    made = Agent(config, Profile(name="test"), server.identity(tmp_path / "identity"))
    runner = threading.Thread(target=made.run, daemon=True)
    made.start_in_thread = runner.start  # type: ignore[attr-defined]  # for the tests below
    try:
        yield made
    finally:
        made.stop()
        if runner.ident is None:
            made.spool.close()
            made._state_lock.close()
        else:
            runner.join(20)
            assert not runner.is_alive()
            assert _is_free(state)


def _start(agent: Agent) -> None:
    agent.start_in_thread()  # type: ignore[attr-defined]  # see the fixture


def test_a_second_agent_on_a_folder_is_refused_before_it_touches_the_spool(
    tmp_path: Path, server: DeviceServer, agent: Agent
) -> None:
    state = tmp_path / "state"
    own = state / "identity"
    own.mkdir()
    identity = server.identity(own)
    for source, name in ((identity.key, "device.key"), (identity.certificate, "device.crt"), (identity.ca, "ca.pem")):
        (own / name).write_bytes(source.read_bytes())
    body = {"device": "device-1", "https_url": "https://localhost:1", "mqtt_host": "localhost", "mqtt_port": 1}
    (own / "fleet.json").write_text(json.dumps(body))
    config = tmp_path / "agent.toml"
    config.write_text(
        f'[device]\nstate_dir = "{state}"\n[[pipelines]]\nname = "main"\nsource = {{ kind = "simulator" }}\n'
    )
    before = read_figures(state / SPOOL_FILE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    line = [sys.executable, "-m", "wheeltapper_agent.daemon", str(config)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == f"error: another agent runs on {state}; stop it first [local.in_use]"
    assert read_figures(state / SPOOL_FILE) == before


def test_a_status_that_cannot_be_told_does_not_end_the_agent(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    status = agent._status.message

    def failing(online: bool = True) -> Any:
        told.append("")
        if len(told) < 3:
            raise RuntimeError("planted")
        return status(online)

    monkeypatch.setattr(agent._status, "message", failing)
    _start(agent)
    until(lambda: len(told) > 4, 15, "a status after those that failed")


def test_a_socket_that_could_not_be_made_is_made_later(
    tmp_path: Path, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_LISTEN_AGAIN_SECONDS", 0.1)
    obstacle = tmp_path / "state" / SOCKET_FILE
    (obstacle / "in the way").mkdir(parents=True)
    _start(agent)
    until(lambda: bool(agent._not_listening), 10, "the first attempt")
    (obstacle / "in the way").rmdir()
    obstacle.rmdir()
    until(lambda: agent._listen_at == float("inf"), 10, "the next attempt")
    assert ask(obstacle, {"ask": "status"})["device"] == "device-1"


@pytest.mark.parametrize("thread", ["delivery", "connection"])
def test_a_dead_thread_is_told(agent: Agent, thread: str) -> None:
    watched: Any = agent._delivery if thread == "delivery" else agent.link
    watched._thread = threading.Thread(target=lambda: None)
    _start(agent)
    until(lambda: f"{thread} ended" in agent._liveness.troubles(), 10, "the word of the dead thread")
    watched.stop()
    assert f"{thread} ended" not in agent._liveness.troubles()


def test_an_end_is_clean_though_the_spool_cannot_be_read(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> float:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    ended: list[bool] = []
    monkeypatch.setattr(type(agent.link), "connected", True)
    monkeypatch.setattr(agent._delivery, "_step", refuse)
    monkeypatch.setattr(agent.link, "stop", lambda *_: ended.append(True))
    _start(agent)
    until(lambda: agent.spool.newest > 0, 10, "a record")
    agent.stop()
    until(lambda: bool(ended), 10, "the word that the device is offline")

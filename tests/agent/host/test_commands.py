"""What the fleet asks of a running agent: diagnostics without secrets, a pipeline begun anew, settings that stay."""

from __future__ import annotations

import json
import logging
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.agent.bundles import SMALL, make_bundle, write_bundle
from tests.agent.servers import DeviceServer, until
from tests.agent.spool_kit import Clock
from wheeltapper_agent.cli import app
from wheeltapper_agent.config import AgentConfig, DeviceConfig
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.host.attributes import config_hash, device_attributes
from wheeltapper_agent.host.commands import CommandRunner, Ordered
from wheeltapper_agent.host.diagnostics import REMOVED, diagnostics, redacted
from wheeltapper_agent.host.log_tail import LogTail
from wheeltapper_agent.host.settings import SETTINGS_FILE, SettingsKeeper
from wheeltapper_agent.host.status_text import status_lines
from wheeltapper_agent.model.bundle import Bundle, load_bundle
from wheeltapper_agent.pipeline.baseline import BASELINES_FOLDER
from wheeltapper_agent.pipeline.config import PipelineConfig
from wheeltapper_agent.pipeline.remembered import read_file
from wheeltapper_agent.records.config import DeliveryConfig
from wheeltapper_agent.records.spool import SPOOL_FILE, Spool
from wheeltapper_agent.service import Agent
from wheeltapper_agent.source.simulator import SimulatorConfig
from wheeltapper_protocols.decision.baseline import BaselineSpec
from wheeltapper_protocols.signal.features import default_specs
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.commands import (
    MAX_BUNDLE_BYTES,
    Command,
    CommandReport,
    DiagnosticsCommand,
    ResetBaselineCommand,
    RestartPipelineCommand,
    Settings,
    SettingsCommand,
)
from wheeltapper_protocols.wire.messages import BaselineReport, CaptureShare, Report
from wheeltapper_protocols.wire.topics import Down


def configuration(folder: Path) -> AgentConfig:
    source = SimulatorConfig(window_samples=1024, interval_seconds=1.0, time_scale=50.0)
    return AgentConfig(
        device=DeviceConfig(state_dir=folder, status_seconds=0.2),
        delivery=DeliveryConfig(flush_seconds=0.1),
        pipelines=(PipelineConfig(name="main", source=source),),
    )


@contextmanager
def running(tmp_path: Path, server: DeviceServer) -> Iterator[Agent]:
    """An agent without a broker, so that its records stay in the spool."""
    folder = tmp_path / "state"
    folder.mkdir(exist_ok=True)
    made = Agent(configuration(folder), Profile(name="test"), server.identity(tmp_path / "identity"))
    runner = threading.Thread(target=made.run, daemon=True)
    runner.start()
    try:
        yield made
    finally:
        made.stop()
        runner.join(20)
        assert not runner.is_alive()


def ask(agent: Agent, command: str, body: Ordered) -> None:
    """The command comes from the broker."""
    agent._on_message(Down.COMMAND, encode(Command(id=command, expires_at=time.time() + 60, body=body)))


def answers(spool: Spool) -> list[CommandReport]:
    found = [held.item.body for held in spool.peek(0, 100_000, ("report",)) if isinstance(held.item, Report)]
    return [body for body in found if isinstance(body, CommandReport)]


def test_a_running_agent_does_what_it_is_asked_once(tmp_path: Path, server: DeviceServer) -> None:
    level = logging.getLogger().level
    with running(tmp_path, server) as agent:
        until(lambda: agent.pipelines["main"].status().windows > 5, 20, "windows")
        logging.getLogger("wheeltapper_agent").warning("connect to mqtt://ann:s3cret@broker failed, password=hunter2")
        for _ in range(3):
            ask(agent, "cmd-1", DiagnosticsCommand(log_lines=50))
        until(lambda: len(answers(agent.spool)) == 1, 20, "the bundle")
        text = zlib.decompress(answers(agent.spool)[0].bundle).decode()
        bundle = json.loads(text)
        assert {"profile", "clock"} <= {finding["check"].split(".")[0] for finding in bundle["findings"]}
        assert bundle["status"]["pipelines"]["main"]["windows"] > 5
        assert bundle["config"]["pipelines"][0]["name"] == "main"
        assert bundle["attributes"]["config"] == config_hash(configuration(tmp_path / "state"))
        assert any(f"mqtt://{REMOVED}@broker failed, password={REMOVED}" in line for line in bundle["log"])
        assert "s3cret" not in text
        assert "hunter2" not in text

        before = agent.pipelines["main"]
        ask(agent, "cmd-2", RestartPipelineCommand(pipeline="main"))
        until(lambda: len(answers(agent.spool)) == 2, 20, "the answer")
        assert answers(agent.spool)[1].code == ""
        after = agent.pipelines["main"]
        assert after is not before
        until(lambda: after.status().windows > 5, 20, "windows of the new one")
        assert agent._liveness.troubles() == []
        ask(agent, "cmd-2", RestartPipelineCommand(pipeline="main"))
        ask(agent, "cmd-3", RestartPipelineCommand(pipeline="other"))
        until(lambda: len(answers(agent.spool)) == 3, 20, "the refusal")
        assert (answers(agent.spool)[2].command, answers(agent.spool)[2].code) == ("cmd-3", "pipeline.unknown")
        assert agent.pipelines["main"] is after, "an answered command is not done again"

        settings = Settings(log_level="ERROR", batch_seconds=42.0, status_seconds=7.0)
        ask(agent, "settings-2", SettingsCommand(version=2, settings=settings))
        until(lambda: agent._status.message().settings_version == 2, 20, "the settings")
        ask(agent, "settings-1", SettingsCommand(version=1, settings=Settings(log_level="DEBUG")))
        assert (agent._delivery._batch_seconds, agent._status_seconds) == (42.0, 7.0)
        assert logging.getLogger().level == logging.ERROR
        assert len(answers(agent.spool)) == 3, "the status answers, no report"
    logging.getLogger().setLevel(level)
    with running(tmp_path, server) as agent:
        assert agent._status.message().settings == settings, "they stay"
        assert agent._status.message().captures == CaptureShare(sent_bytes=0, limit_bytes=256 * 2**20)
        until(lambda: agent._commands.alive(), 20, "the thread")
        ask(agent, "settings-3", SettingsCommand(version=3, settings=Settings()))
        until(lambda: agent._status.message().settings_version == 3, 20, "the settings")
        assert agent._delivery._batch_seconds == 5.0
        assert logging.getLogger().level == level


def test_a_baseline_is_shown_and_reset_from_near_and_far(
    tmp_path: Path, short_path: Path, server: DeviceServer, bundle: Bundle
) -> None:
    config = short_path / "agent.toml"
    config.write_text(
        f'[device]\nstate_dir = "{short_path}/state"\n'
        '[[pipelines]]\nname = "main"\n[pipelines.source]\nkind = "simulator"\n'
    )

    def command(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["baseline", *words, "--config", str(config)])
        assert result.exit_code == code, result.output
        return str(result.output)

    with running(short_path, server) as agent:
        pipeline = agent.pipelines["main"]
        show = ["baseline", "show", "--config", str(config)]
        until(lambda: CliRunner().invoke(app, show).exit_code == 0, 20, "the agent to answer")
        assert "no release that runs" in command("show")
        assert "baseline.none" in command("reset", "main", code=2)
        pipeline.swap(bundle)
        until(lambda: (found := pipeline.baseline.status()) is not None and found.learned > 3, 20, "learnt windows")
        assert "main: learning, " in command("show")
        shown = json.loads(command("show", "--json"))["main"]
        assert (shown["phase"], shown["windows"]) == ("learning", 100_000)
        ask(agent, "cmd-1", ResetBaselineCommand(pipeline="main"))
        ask(agent, "cmd-2", ResetBaselineCommand(pipeline="other"))
        until(lambda: len(answers(agent.spool)) == 2, 20, "the answers")
        assert [each.code for each in answers(agent.spool)] == ["", "pipeline.unknown"]
        until(lambda: events(agent.spool) == ["reset"], 20, "the report")
        assert json.loads(command("reset", "main", "--json")) == {"reset": "main"}
        until(lambda: events(agent.spool) == ["reset", "reset"], 20, "the other report")
        until(lambda: "learning, 0 of" not in command("show"), 20, "it learns anew")
        assert "baseline: learning, " in "\n".join(status_lines(agent._status.answer({"ask": "status"}), time.time()))
    file = short_path / "state" / BASELINES_FOLDER / "main.json"
    assert read_file(file)[0].baseline.learned > 0
    assert "main: learning, " in command("show"), "the status that it last wrote"
    assert "learnt anew" in command("reset", "main")
    assert read_file(file) == ()
    assert "pipeline.unknown" in command("reset", "other", code=2)


def events(spool: Spool) -> list[str]:
    found = [held.item.body for held in spool.peek(0, 100_000, ("report",)) if isinstance(held.item, Report)]
    return [body.event for body in found if isinstance(body, BaselineReport)]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A release whose baseline takes long to learn."""
    count = len(default_specs(SMALL.sample_rate_hz, ["horizontal", "vertical"]))
    spec = BaselineSpec(
        windows=100_000,
        outside_windows=100_000,
        shift=[50.0] * count,
        spread=[1.0] * count,
        narrowest=[0.5] * count,
        widest=[2.0] * count,
    )
    return load_bundle(write_bundle(tmp_path / "bundle", make_bundle(baseline=spec)))


class Records:
    """A spool that may refuse."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.refuses = False

    def answered(self, command: str) -> bool:
        return any(getattr(each.body, "command", None) == command for each in self.reports)

    def append(self, *items: Any) -> None:
        if self.refuses:
            raise AgentError("storage.full", "no room")
        self.reports += items


def test_what_goes_wrong_is_the_answer_and_an_answer_that_is_lost_is_given_again() -> None:
    records, clock, done = Records(), Clock(), []

    def carry_out(command: str, body: Ordered) -> CommandReport | None:
        done.append(command)
        if command == "bug":
            raise ZeroDivisionError("oops")
        return CommandReport(command=command)

    runner = CommandRunner(records, clock, carry_out)  # type: ignore[arg-type]  # what it needs of a spool
    runner.start()

    def take(name: str, seconds: float = 60.0) -> None:
        runner.take(Command(id=name, expires_at=clock.now() + seconds, body=DiagnosticsCommand()), DiagnosticsCommand())

    def answered(count: int) -> Callable[[], bool]:
        return lambda: len(records.reports) == count

    take("over", -1.0)
    take("bug")
    until(answered(1))
    assert isinstance(records.reports[0].body, CommandReport)
    assert records.reports[0].body.code == "command.failed"
    records.refuses = True
    take("lost")
    until(lambda: done == ["bug", "lost"])
    until(lambda: not runner._under_way)
    records.refuses = False
    take("lost")
    until(answered(2))
    take("lost")
    take("last")
    until(answered(3))
    assert done == ["bug", "lost", "lost", "last"]
    runner.stop()
    assert runner.alive()


def test_attributes_name_the_libraries_that_are_installed(tmp_path: Path) -> None:
    found = device_attributes(configuration(tmp_path))
    assert found["lib.numpy"] == version("numpy")
    assert {"os", "arch", "python", "config"} <= set(found)


def test_settings_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    applied: list[Settings] = []
    (tmp_path / SETTINGS_FILE).write_bytes(b"\xff{")
    keeper = SettingsKeeper(tmp_path / SETTINGS_FILE, applied.append)
    assert (keeper.version, applied) == (0, [Settings()])
    assert keeper.take(SettingsCommand(version=4, settings=Settings(batch_seconds=1.0)))
    assert SettingsKeeper(tmp_path / SETTINGS_FILE, applied.append).version == 4
    assert (tmp_path / SETTINGS_FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["password", "api_token", "client_secret", "private_key", "Username"])
def test_secrets_are_removed_wherever_they_stand(name: str) -> None:
    deep = {"pipelines": [{"source": {name: "hunter2", "url": "opc.tcp://ann:hunter2@plc:4840", "empty": None}}]}
    text = json.dumps(redacted(deep))
    assert "hunter2" not in text
    assert f"opc.tcp://{REMOVED}@plc:4840" in text


def test_a_bundle_that_is_too_long_loses_its_oldest_lines(tmp_path: Path) -> None:
    import random

    noise = random.Random(1)
    lines = ["".join(noise.choices("abcdefghijklmnop0123456789", k=500)) for _ in range(500)]
    packed = diagnostics(configuration(tmp_path), Profile(name="test"), lambda: {"a": 1 / 0}, {}, lines)
    assert 0 < len(packed) <= MAX_BUNDLE_BYTES
    bundle = json.loads(zlib.decompress(packed))
    assert bundle["log"][-1] == lines[-1]
    assert bundle["log_lines_left_out"] + len(bundle["log"]) == 500
    assert "division" in bundle["status"]["error"]


def test_the_tail_of_the_log_is_bounded() -> None:
    tail = LogTail()
    for number in range(2000):
        tail.emit(logging.LogRecord("a", logging.INFO, "", 1, "line %d " + "x" * 5000, (number,), None))
    assert len(tail.lines(2000)) == 500
    assert "line 1999 " in tail.lines(1)[0]
    assert max(map(len, tail.lines(500))) == 500
    assert tail.lines(0) == []


def test_what_is_answered_is_known_after_a_restart(tmp_path: Path) -> None:
    from wheeltapper_agent.records.port import unnumbered_report

    spool = Spool(tmp_path / SPOOL_FILE)
    spool.append(unnumbered_report(CommandReport(command="cmd-1"), 1.0))
    spool.close()
    spool = Spool(tmp_path / SPOOL_FILE)
    assert spool.answered("cmd-1")
    assert not spool.answered("cmd-2")
    spool.close()

"""The configuration that a new device begins with: it loads, says what each key means, and replaces nothing."""

from __future__ import annotations

import contextlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.agent.repository import Repository
from tests.agent.servers import Authority, DeviceServer
from wheeltapper_agent.cli import app
from wheeltapper_agent.config import load_config
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import load_profile
from wheeltapper_agent.host.starting_config import SOURCES, configured, starting_config
from wheeltapper_agent.source.kinds import BUILT_IN


@pytest.mark.parametrize("source", SOURCES)
def test_every_text_loads_and_says_what_each_key_means(source: str, tmp_path: Path) -> None:
    text = starting_config(load_profile("raspberry-pi-4"), source, "agent-state")
    (tmp_path / "agent.toml").write_text(text, encoding="utf-8")
    config = load_config(tmp_path / "agent.toml")
    assert config.device.state_dir == tmp_path / "agent-state"
    (pipeline,) = config.pipelines
    kind = source if source in BUILT_IN else "replay"
    assert (pipeline.name, pipeline.source.kind) == ("main", kind)
    explained = 0
    for line in text.splitlines():
        if re.match(r"[a-z_]+ = (?!\"(?:replay|mqtt|modbus|opcua|iio)\"|1883|502|\[ )", line):
            explained += "#" in line
            assert "#" in line, line
    assert explained >= 5


def test_every_kind_of_source_has_a_text() -> None:
    assert set(SOURCES) >= set(BUILT_IN)


def test_what_is_commented_out_loads_too(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    for name in ("mqtt", "opcua", "ca.pem"):
        (tmp_path / "secrets" / name).write_text("x", encoding="utf-8")
    for source in SOURCES:
        text = starting_config(load_profile("x86-gateway"), source, "agent-state")
        head, _, table = text.partition("[pipelines.source]")
        whole = head + "[pipelines.source]" + re.sub(r"^# (?=[a-z_]+ = )", "", table, flags=re.MULTILINE)
        (tmp_path / "agent.toml").write_text(whole, encoding="utf-8")
        load_config(tmp_path / "agent.toml")


def test_a_configuration_is_written_where_there_is_none_and_taken_back_on_failure(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "agent.toml"
    with contextlib.suppress(ZeroDivisionError), configured(path, "csv"):
        assert path.exists()
        _ = 1 / 0
    assert not path.exists()
    with configured(path, "csv"):
        pass
    text = path.read_text(encoding="utf-8")
    with configured(path, "csv"), configured(path):  # the same again, or what is there
        pass
    for source, code in (("mqtt", "config.exists"), ("can", "config.invalid")):
        with pytest.raises(AgentError) as refused, configured(path, source):
            pass
        assert refused.value.code == code
    assert path.read_text(encoding="utf-8") == text
    with configured(tmp_path / "b.toml", state_dir=tmp_path / 'odd "name'):
        assert load_config(tmp_path / "b.toml").device.state_dir == tmp_path / 'odd "name'


def test_settings_of_the_source_are_written_with_what_they_mean(tmp_path: Path) -> None:
    wanted = ["path=my run.csv", "sample_rate_hz=50", "window_samples=256", 'channels=["ax", "ay"]', "hop_samples=128"]
    path = tmp_path / "agent.toml"
    with configured(path, "csv", settings=[*wanted, 'units=["g", "g"]']):
        (pipeline,) = load_config(path).pipelines
    text = path.read_text(encoding="utf-8")
    assert 'path = "my run.csv"      # relative to the folder of this file' in text
    assert "sample_rate_hz = 50          # of the rows" in text
    source = tomllib.loads(text)["pipelines"][0]["source"]
    assert (source["window_samples"], source["hop_samples"], source["channels"]) == (256, 128, ["ax", "ay"])
    assert pipeline.source.kind == "replay"
    with configured(tmp_path / "b.toml", "modbus", settings=["host=10.0.0.9", "timeout_seconds=2.5"]):
        source = tomllib.loads((tmp_path / "b.toml").read_text(encoding="utf-8"))["pipelines"][0]["source"]
    assert (source["host"], source["timeout_seconds"], source["registers"][0]["address"]) == ("10.0.0.9", 2.5, 0)


@pytest.mark.parametrize("wrong", ["path", "=x", "Path=x", "path=", "a b=1", "path=x\nkind = 1", "p" * 70 + "=1"])
def test_settings_that_are_none_are_refused(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(AgentError) as refused, configured(tmp_path / "agent.toml", "csv", settings=[wrong]):
        pass
    assert refused.value.code == "config.invalid"
    with pytest.raises(AgentError, match="--source"), configured(tmp_path / "agent.toml", settings=["path=x"]):
        pass
    assert not (tmp_path / "agent.toml").exists()


def test_a_setting_cannot_add_a_line(tmp_path: Path) -> None:
    text = starting_config(load_profile("x86-gateway"), "csv", settings=['path=1 # "', "delimiter=;"])
    source = tomllib.loads(text)["pipelines"][0]["source"]
    assert (source["path"], source["delimiter"]) == (1, ";")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DeviceServer]:
    made = DeviceServer(Authority(tmp_path / "ca"), Repository())
    yield made
    made.close()


def test_enroll_writes_a_configuration_and_names_it(
    server: DeviceServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    token = f"wt1.press-1.{'s' * 43}.{server.authority.sha256}"
    line = ["enroll", "--server", server.url, "--config", "agent.toml", "--source", "simulator"]
    refused = CliRunner().invoke(app, [*line, "--token", "wt1.nonsense"])
    assert (refused.exit_code, (tmp_path / "agent.toml").exists()) == (2, False)
    done = CliRunner().invoke(app, line, env={"WHEELTAPPER_TOKEN": token})
    assert done.exit_code == 0, done.output
    assert "`wheeltapper-agent run --config agent.toml`" in done.output
    unknown = [*line[:-4], "--config", "b.toml", "--source", "csv", "--set", "no_such_key=1"]
    refused = CliRunner().invoke(app, unknown, env={"WHEELTAPPER_TOKEN": token})
    assert (refused.exit_code, (tmp_path / "b.toml").exists()) == (2, False)
    config = load_config(tmp_path / "agent.toml")
    assert json.loads((config.device.state_dir / "identity/fleet.json").read_bytes())["device"] == "press-1"

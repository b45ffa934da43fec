"""The portable export: one SQLite file that any tool can ask, made beside a running agent, whatever is damaged."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.agent.servers import DeviceServer, until
from tests.agent.spool_kit import alert, kill, record
from wheeltapper_agent.captures.pending import PendingFolder, PendingRecording
from wheeltapper_agent.cli import app
from wheeltapper_agent.config import AgentConfig, DeviceConfig
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.host import export as export_module
from wheeltapper_agent.host.export import export_state
from wheeltapper_agent.host.export_schema import TABLES, VIEWS
from wheeltapper_agent.host.status import STATUS_FILE
from wheeltapper_agent.pipeline.config import PipelineConfig
from wheeltapper_agent.records.config import DeliveryConfig
from wheeltapper_agent.records.database import transaction, write_state
from wheeltapper_agent.records.port import unnumbered_report
from wheeltapper_agent.records.spool import SPOOL_FILE, Spool
from wheeltapper_agent.service import Agent
from wheeltapper_agent.source.simulator import SimulatorConfig
from wheeltapper_agent.update.journal import Execution, Journal, JournalEntry
from wheeltapper_protocols.signal.recording import Recording, recording_bytes
from wheeltapper_protocols.wire.assignment import PipelineTarget
from wheeltapper_protocols.wire.messages import ExecutionReport, ExecutionState, Reason

NOW = 1.8e9
TARGET = PipelineTarget(
    model="bearing-anomaly",
    release=4,
    path="releases/bearing-anomaly/4/manifest.json",
    length=100,
    sha256="ab" * 32,
)


def ask(path: Path, query: str) -> list[tuple[Any, ...]]:
    """The answer of plain SQLite, as any tool gets it."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def fill_spool(path: Path, count: int = 20) -> Spool:
    """A spool with telemetry, one alert and one report."""
    spool = Spool(path)
    for index in range(count):
        spool.append(record(index))
    reasons = [
        Reason(feature="rms", value=3.0, usual=1.0, share=0.7),
        Reason(feature="kurtosis", value=9.0, usual=3.0, share=0.3),
    ]
    spool.append(alert(count - 1, reasons=reasons))
    body = ExecutionReport(execution="e-1", state=ExecutionState.FAILED, code="self_test.outputs", detail="too far off")
    spool.append(unnumbered_report(body, NOW))
    return spool


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with something of everything; the agent does not run."""
    folder = tmp_path / "state"
    folder.mkdir()
    fill_spool(folder / SPOOL_FILE).close()
    recording = Recording(
        samples=np.zeros((2, 8, 1), np.int16),
        scale=np.ones(1),
        sample_rate_hz=100.0,
        t_s=np.array([0.0, 1.0]),
        channels=("x",),
        units=("g",),
        meta={"machine": "pump-7"},
    )
    content = recording_bytes(recording)
    entry = PendingRecording(
        name="auto-00112233445566aa",
        pipeline="pump",
        sha256="cd" * 32,
        length=len(content),
        snapshots=2,
        reason="alert",
    )
    PendingFolder(folder / "captures", 10**6).add(entry, content)
    execution = Execution(id="e-1", campaign="c-1", state="FAILED", code="self_test.outputs", targets={"main": TARGET})
    Journal(folder / "journal.json").write(JournalEntry(counter=7, execution=execution))
    links = folder / "slots" / "pipelines" / "main"
    links.mkdir(parents=True)
    (links / "active").symlink_to("../../releases/bearing-anomaly-3-01234567")
    status = {"device": "device-1", "at": NOW, "connected": False, "pipelines": {"main": {"model": "m", "release": 1}}}
    (folder / STATUS_FILE).write_text(json.dumps(status))
    return folder


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_the_file_answers_questions(state: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.sqlite"
    done = export_state(state, out, NOW)
    assert done.problems == ()
    assert done.bytes == out.stat().st_size
    assert ask(out, "PRAGMA integrity_check") == [("ok",)]
    assert ask(out, "PRAGMA foreign_key_check") == []
    assert ask(out, "SELECT kind, count(*) FROM records GROUP BY kind") == [
        ("alert", 1),
        ("report", 1),
        ("telemetry", 20),
    ]
    assert ask(out, "SELECT seq, window, t_s, score, severity, intact FROM records WHERE seq = 5") == [
        (5, 4, 4.0, 0.5, "normal", 1)
    ]
    assert ask(out, "SELECT pipeline, severity, reasons FROM alerts") == [("main", "warning", "rms, kurtosis")]
    assert ask(out, "SELECT report, execution, state, code FROM reports") == [
        ("execution", "e-1", "FAILED", "self_test.outputs")
    ]
    assert ask(out, "SELECT windows, last_window, mean_score FROM scores") == [(20, 19, 0.5)]
    assert ask(out, "SELECT json_extract(message, '$.reasons[0].share') FROM records WHERE kind = 'alert'") == [(0.7,)]
    assert ask(out, "SELECT name, reason, json_extract(meta, '$.machine') FROM recordings") == [
        ("auto-00112233445566aa", "alert", "pump-7")
    ]
    assert ask(out, "SELECT id, state, counter FROM executions") == [("e-1", "FAILED", 7)]
    assert ask(out, "SELECT pipeline, model, release FROM execution_targets") == [("main", "bearing-anomaly", 4)]
    assert ask(out, "SELECT pipeline, role, slot FROM slots") == [("main", "active", "bearing-anomaly-3-01234567")]
    assert ask(out, "SELECT running, connected FROM status") == [(0, 0)]
    assert ask(out, "SELECT name, model FROM pipelines ORDER BY name") == [("main", "m"), ("pump", None)]
    assert ask(out, "SELECT kind, held FROM spool_counts ORDER BY kind") == [
        ("alert", 1),
        ("report", 1),
        ("telemetry", 20),
    ]


def test_the_query_in_the_documentation_works(state: Path, tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")
    (query,) = re.findall(r"```sql\n(.*?)```", text, flags=re.DOTALL)
    export_state(state, tmp_path / "out.sqlite", NOW)
    assert len(ask(tmp_path / "out.sqlite", query)) == 10


def test_every_table_column_and_view_is_explained(state: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.sqlite"
    export_state(state, out, NOW)
    explained = set(ask(out, "SELECT table_name, column_name FROM documentation WHERE description != ''"))
    for name in TABLES:
        assert (name, "") in explained
        columns = {(name, row[1]) for row in ask(out, f"PRAGMA table_info({name})")}
        assert columns <= explained
    assert {(name, "") for name in VIEWS} <= explained
    for name in VIEWS:
        ask(out, f"SELECT * FROM {name}")  # our own names


def test_the_export_changes_nothing_and_holds_no_secret(state: Path, tmp_path: Path) -> None:
    identity = state / "identity"
    identity.mkdir()
    (identity / "device.key").write_text("-----BEGIN PRIVATE KEY----- sesame")
    before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    out = tmp_path / "out.sqlite"
    export_state(state, out, NOW)
    assert {path: path.read_bytes() for path in state.rglob("*") if path.is_file() and path in before} == before
    assert b"sesame" not in out.read_bytes()
    assert b"PRIVATE" not in out.read_bytes()


def test_acknowledged_records_are_marked(tmp_path: Path) -> None:
    spool = fill_spool(tmp_path / SPOOL_FILE)
    spool.ack(spool.epoch, 3)
    with transaction(spool._connection):  # as when the state was written, but no record deleted
        write_state(spool._connection, spool._state)
    kill(spool)
    export_state(tmp_path, tmp_path / "out.sqlite", NOW)
    assert ask(tmp_path / "out.sqlite", "SELECT max(seq) FROM records WHERE acknowledged") == [(3,)]


# --- the file itself --------------------------------------------------------------------------------------------------


def test_a_file_that_exists_is_replaced_only_on_request(state: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.sqlite"
    out.write_text("mine")
    with pytest.raises(AgentError) as refused:
        export_state(state, out, NOW)
    assert refused.value.code == "export.exists"
    assert out.read_text() == "mine"
    export_state(state, out, NOW, replace=True)
    assert ask(out, "SELECT count(*) FROM records") == [(22,)]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_a_file_that_appears_meanwhile_is_not_replaced(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.sqlite"
    real = export_module._fill

    def fill(*arguments: Any) -> Any:
        out.write_text("mine")
        return real(*arguments)

    monkeypatch.setattr(export_module, "_fill", fill)
    with pytest.raises(AgentError) as refused:
        export_state(state, out, NOW)
    assert refused.value.code == "export.exists"
    assert out.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


@pytest.mark.parametrize("number", [1, 95])
def test_a_disk_without_hard_links(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    export_state(state, tmp_path / "out.sqlite", NOW)
    with pytest.raises(AgentError) as refused:
        export_state(state, tmp_path / "out.sqlite", NOW)
    assert refused.value.code == "export.exists"


def test_a_full_disk_leaves_no_file(state: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting needs root")
    try:
        with pytest.raises(AgentError) as refused:
            export_state(state, disk / "out.sqlite", NOW)
        assert refused.value.code == "storage.full"
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_that_refuses_is_told(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(export_module, "fsync_file", refuse)
    with pytest.raises(AgentError) as refused:
        export_state(state, tmp_path / "out.sqlite", NOW)
    assert refused.value.code == "storage.full"
    assert not (tmp_path / "out.sqlite").exists()


# --- what is damaged or missing ---------------------------------------------------------------------------------------


def test_an_empty_state_folder_gives_empty_tables(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    done = export_state(folder, tmp_path / "out.sqlite", NOW)
    assert [problem.split(":")[0] for problem in done.problems] == ["spool"]
    assert {name for name, count in done.rows.items() if count} == {"export", "problems", "documentation"}
    assert list(folder.iterdir()) == []
    with pytest.raises(AgentError) as missing:
        export_state(tmp_path / "none", tmp_path / "other.sqlite", NOW)
    assert missing.value.code == "export.missing"
    with pytest.raises(AgentError) as missing:
        export_state(folder, tmp_path / "none" / "out.sqlite", NOW)
    assert missing.value.code == "export.missing"


def test_a_damaged_row_is_told_and_keeps_its_bytes(state: Path, tmp_path: Path) -> None:
    connection = sqlite3.connect(state / SPOOL_FILE)
    connection.execute("UPDATE records SET payload = x'00ff' WHERE seq = 5")
    connection.commit()
    connection.close()
    out = tmp_path / "out.sqlite"
    export_state(state, out, NOW)
    assert ask(out, "SELECT seq, score, message, payload FROM records WHERE NOT intact") == [
        (5, None, None, b"\x00\xff")
    ]
    assert ask(out, "SELECT count(*) FROM records WHERE intact") == [(21,)]


def test_a_spool_that_is_no_database_costs_only_the_spool(state: Path, tmp_path: Path) -> None:
    (state / SPOOL_FILE).write_bytes(b"not a database" * 1000)
    done = export_state(state, tmp_path / "out.sqlite", NOW)
    assert done.rows["records"] == 0
    assert done.rows["recordings"] == 1
    assert ask(tmp_path / "out.sqlite", "SELECT part FROM problems") == [("spool",)]


def test_records_on_both_sides_of_a_damaged_page_are_exported(state: Path, tmp_path: Path) -> None:
    (state / SPOOL_FILE).unlink()
    fill_spool(state / SPOOL_FILE, 3000).close()
    content = bytearray((state / SPOOL_FILE).read_bytes())
    at = len(content) // 2 // 4096 * 4096
    content[at : at + 4096] = b"\xff" * 4096
    (state / SPOOL_FILE).write_bytes(content)
    done = export_state(state, tmp_path / "out.sqlite", NOW)
    assert 2500 < done.rows["records"] < 3002
    assert ask(tmp_path / "out.sqlite", "SELECT min(seq), max(seq) FROM records") == [(1, 3002)]
    assert any("damaged" in problem for problem in done.problems)


@pytest.mark.parametrize("seed", range(12))
def test_bytes_damaged_at_random_stop_no_export(state: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    fill_spool(state / SPOOL_FILE, 800).close()
    for path in (state / SPOOL_FILE, state / STATUS_FILE, state / "journal.json"):
        content = bytearray(path.read_bytes())
        for _ in range(chance.choice([1, 4, 40])):
            content[chance.randrange(len(content))] ^= chance.randrange(1, 256)
        path.write_bytes(content)
    export_state(state, tmp_path / "out.sqlite", NOW)
    assert ask(tmp_path / "out.sqlite", "PRAGMA integrity_check") == [("ok",)]


def test_a_status_with_other_types_is_exported(state: Path, tmp_path: Path) -> None:
    (state / STATUS_FILE).write_text(json.dumps({"at": {"x": 1}, "pipelines": {"main": [], "pump": {"model": []}}}))
    done = export_state(state, tmp_path / "out.sqlite", NOW)
    assert done.rows["pipelines"] == 2


def test_a_spool_that_does_not_say_where_it_stands(state: Path, tmp_path: Path) -> None:
    connection = sqlite3.connect(state / SPOOL_FILE)
    connection.execute("DELETE FROM meta")
    connection.commit()
    connection.close()
    done = export_state(state, tmp_path / "out.sqlite", NOW)
    assert ask(tmp_path / "out.sqlite", "SELECT count(*) FROM records WHERE NOT intact") == [(22,)]
    assert done.rows["spool"] == 0
    assert len(done.problems) == 1


def test_other_damaged_files_are_named(state: Path, tmp_path: Path) -> None:
    (state / "journal.json").write_bytes(b"\xff{")
    (state / STATUS_FILE).write_bytes(b"[]")
    (state / "captures" / "auto-00112233445566aa.npz").write_bytes(b"no archive")
    (state / "captures" / "other.json").write_bytes(b"{")
    export_state(state, tmp_path / "out.sqlite", NOW)
    assert ask(tmp_path / "out.sqlite", "SELECT part, count(*) FROM problems GROUP BY part ORDER BY part") == [
        ("journal", 1),
        ("recordings", 2),
        ("status", 1),
    ]
    assert ask(tmp_path / "out.sqlite", "SELECT name, meta FROM recordings") == [("auto-00112233445566aa", None)]
    assert (state / "journal.json").exists()


# --- with a running agent ---------------------------------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path, server: DeviceServer) -> Iterator[Agent]:
    """Runs without a broker, so its records stay in the spool."""
    folder = tmp_path / "state"
    folder.mkdir()
    source = SimulatorConfig(window_samples=1024, interval_seconds=1.0, time_scale=50.0)
    config = AgentConfig(
        device=DeviceConfig(state_dir=folder, status_seconds=0.2),
        delivery=DeliveryConfig(flush_seconds=0.1),
        pipelines=(PipelineConfig(name="main", source=source),),
    )
    made = Agent(config, Profile(name="test"), server.identity(tmp_path / "identity"))
    runner = threading.Thread(target=made.run, daemon=True)
    runner.start()
    try:
        yield made
    finally:
        made.stop()
        runner.join(20)


def test_a_running_agent_goes_on_while_it_is_exported(tmp_path: Path, agent: Agent) -> None:
    until(lambda: agent.spool.newest > 20, 20, "records of a real run")
    out = tmp_path / "out.sqlite"
    for _ in range(3):
        export_state(tmp_path / "state", out, NOW, replace=True)
    (count,) = ask(out, "SELECT count(*) FROM records WHERE intact AND kind = 'telemetry'")[0]
    assert count > 20
    assert ask(out, "SELECT running FROM status") == [(1,)]
    newest, (spool_seq,) = agent.spool.newest, ask(out, "SELECT seq FROM spool")[0]
    assert ask(out, "SELECT max(seq), count(*) FROM records") == [(spool_seq, spool_seq)]  # one snapshot
    until(lambda: agent.spool.newest > newest, 20, "records after the export")
    assert agent.spool.figures().dropped == 0


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command(state: Path, tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(f'[device]\nstate_dir = "{state}"\n')
    out = tmp_path / "out.sqlite"
    line = ["export", str(out), "--config", str(config)]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert "22 records, 1 recordings, 1 executions" in done.output
    refused = CliRunner().invoke(app, line)
    assert refused.exit_code == 2
    assert "[export.exists]" in refused.output
    done = CliRunner().invoke(app, [*line, "--force", "--json"])
    assert json.loads(done.output)["rows"]["records"] == 22

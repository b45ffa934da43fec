"""What ``wheeltapper doctor`` says of a sound service, and of each thing that may be wrong with one."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet.cli.app import app
from wheeltapper_fleet.config import FleetConfig, load_config
from wheeltapper_fleet.db.engine import open_database
from wheeltapper_fleet.serving.doctor import FAIL, OK, WARN, Finding, examine
from wheeltapper_fleet.trust.keys import init_keys

YEAR = 365 * 86_400.0


@pytest.fixture(name="config")
def _config(tmp_path: Path) -> FleetConfig:
    init_keys(tmp_path / "keys", tmp_path / "data", ["bearing"], threshold=1)
    open_database(f"sqlite:///{tmp_path}/data/fleet.db").dispose()
    ports = {"admin_port": 0, "device_port": 0, "mqtt_port": 0}
    return load_config(None, {"data_dir": tmp_path / "data", **ports})


def found(config: FleetConfig, check: str, now: float | None = None) -> Finding:
    """The one finding of a check that is the worst."""
    ranks = [OK, WARN, FAIL]
    findings = [each for each in examine(config, now or time.time()) if each.check == check]
    return max(findings, key=lambda each: ranks.index(each.verdict))


def test_a_sound_service_that_is_not_running(config: FleetConfig) -> None:
    findings = examine(config, time.time())
    assert {each.check: each.verdict for each in findings} == {
        "libraries": OK, "data folder": OK, "keys": OK, "ends": OK, "database": OK, "broker": OK, "service": WARN,
    }  # fmt: skip
    assert all(each.advice for each in findings if each.verdict != OK)
    assert not list(config.data_dir.glob(".doctor.*"))


def test_a_running_service_is_asked(config: FleetConfig, tmp_path: Path) -> None:
    with AdminServer(tmp_path / "running" / "data") as server:
        served = {"pid": os.getpid(), "admin_url": server.url}
        (config.data_dir / "serve.json").write_text(json.dumps(served))
        assert found(config, "service").verdict == OK
    assert found(config, "service").verdict == FAIL, "its process is there, and nobody answers"
    (config.data_dir / "serve.json").write_text("{")
    assert found(config, "service").verdict == WARN


def test_a_port_that_another_program_has(config: FleetConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = found(dataclasses.replace(config, device_port=port), "service")
    assert (said.verdict, f"device_port 127.0.0.1:{port}" in said.found) == (FAIL, True)


def _without_keys(config: FleetConfig) -> None:
    (config.data_dir / "keys/timestamp.pem").unlink()


def _open_keys(config: FleetConfig) -> None:
    (config.data_dir / "keys/director.pem").chmod(0o644)


def _newer_tables(config: FleetConfig) -> None:
    with sqlite3.connect(config.data_dir / "fleet.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")


def _older_tables(config: FleetConfig) -> None:
    with sqlite3.connect(config.data_dir / "fleet.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '0030'")


def _no_database(config: FleetConfig) -> None:
    (config.data_dir / "fleet.db").write_bytes(b"nonsense" * 1000)


@pytest.mark.parametrize(
    ("harm", "check", "verdict", "said"),
    [
        (_without_keys, "keys", FAIL, "timestamp.pem"),
        (_open_keys, "keys", FAIL, "others can read keys/director.pem"),
        (_newer_tables, "database", FAIL, "newer version (9999)"),
        (_older_tables, "database", WARN, "older version (0030)"),
        (_no_database, "database", FAIL, "does not answer"),
    ],
)
def test_what_is_wrong_is_named(
    config: FleetConfig, harm: Callable[[FleetConfig], None], check: str, verdict: str, said: str
) -> None:
    harm(config)
    finding = found(config, check)
    assert finding.verdict == verdict
    assert said in finding.found
    assert finding.advice


def test_what_only_a_person_renews_is_a_fault_once_it_ended(config: FleetConfig) -> None:
    assert found(config, "ends", time.time() + 10 * YEAR).verdict == FAIL
    assert "keys renew" in found(config, "ends", time.time() + 10 * YEAR).advice
    day_later = [each for each in examine(config, time.time() + 2 * 86_400) if each.check == "ends"]
    assert {each.verdict for each in day_later} <= {OK, WARN}, "the service renews these"


def test_a_database_and_a_broker_that_are_away(config: FleetConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    away = dataclasses.replace(config, database_url=f"postgresql+psycopg://ann:hunter2@127.0.0.1:{port}/x")
    said = found(away, "database")
    assert said.verdict == FAIL
    assert "hunter2" not in said.found
    file = config.data_dir / "fleet.toml"
    file.write_text(
        f'[broker]\nkind = "nats"\naddresses = ["127.0.0.1:{port}"]\nclient_urls = ["tls://127.0.0.1:{port}"]\n'
    )
    assert found(load_config(file, {"data_dir": config.data_dir}), "broker").verdict == FAIL


def test_the_command_ends_with_3_where_a_check_failed(config: FleetConfig, tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(f'data_dir = "{config.data_dir}"\nadmin_port = 0\ndevice_port = 0\nmqtt_port = 0\n')
    done = CliRunner().invoke(app, ["doctor", "--config", str(file), "--json"])
    assert done.exit_code == 0, done.output
    assert {each["check"] for each in json.loads(done.output)["checks"]} >= {"keys", "database"}
    _open_keys(config)
    done = CliRunner().invoke(app, ["doctor", "--config", str(file)])
    assert done.exit_code == 3
    assert "chmod 600" in done.output
    assert CliRunner().invoke(app, ["doctor", "--config", str(tmp_path / "nothing.toml")]).exit_code == 2

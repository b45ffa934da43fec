"""Upgrades from every earlier version of the tables, with rows in each table: none fails, and none loses a device,
a campaign, a release or a record."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, MetaData, Table, create_engine, func, select, text
from sqlalchemy import types as sql

from wheeltapper_fleet.db import engine as database
from wheeltapper_fleet.db.engine import migrate, open_database, reading
from wheeltapper_fleet.tables import metadata
from wheeltapper_fleet.telemetry.history import iter_records

AT = 1_700_000_000.0
KEPT = ("devices", "campaigns", "executions", "releases", "captures", "alerts", "commands", "campaign_log")
"""Tables whose rows every upgrade keeps."""
TEXTS = {
    "id": "x-{n}",
    "device": "press-{n}",
    "campaign": "x-1",
    "epoch": "00112233445566a{n}",
    "kind": "telemetry",
    "state": "ASSIGNED",
    "severity": "warning",
    "pipeline": "main",
    "model": "bearing",
}


def _config(connection: Any = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def revisions() -> list[str]:
    """Every version of the tables but the newest, oldest first."""
    found = [each.revision for each in ScriptDirectory.from_config(_config()).walk_revisions()]
    return list(reversed(found))[:-1]


@contextlib.contextmanager
def at_revision(url: str, revision: str) -> Iterator[Engine]:
    """An empty database of an earlier version."""
    engine = create_engine(url)
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        command.upgrade(_config(connection), revision)
    try:
        yield engine
    finally:
        engine.dispose()


def value(table: Table, name: str, kind: Any, number: int) -> Any:
    """A plausible value of a column for row ``number``."""
    match kind:
        case sql.Boolean():
            return False
        case sql.Integer():
            return number
        case sql.Float():
            return AT + number
        case sql.LargeBinary():
            return b"{}"
        case sql.JSON():
            return {"pipelines": {"main": {"model": "bearing", "release": 1}}} if name == "status" else {}
    if table.name == "devices" and name == "id":
        return f"press-{number}"
    if table.name == "campaigns" and name == "state":
        return "RUNNING"
    if table.name == "devices" and name == "state":
        return "active"
    return TEXTS.get(name, "{n}").format(n=number)


def fill(engine: Engine) -> dict[str, int]:
    """Two rows in every table; returns how many rows the tables of :data:`KEPT` have."""
    known = MetaData()
    known.reflect(engine)
    with engine.begin() as connection:
        for table in known.sorted_tables:
            if table.name == "alembic_version" or table.name.startswith("messages_"):
                continue
            rows = [
                {column.name: value(table, column.name, column.type, number) for column in table.columns}
                for number in (1, 2)
            ]
            connection.execute(table.delete())  # what a new database has in it
            connection.execute(table.insert(), rows)
        return {
            name: connection.execute(select(func.count()).select_from(known.tables[name])).scalar_one()
            for name in KEPT
            if name in known.tables
        }


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("revision", revisions())
def test_an_upgrade_with_rows_in_every_table(
    kind: str, revision: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/fleet.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    url = url.replace("postgresql://", "postgresql+psycopg://")
    with at_revision(url, revision) as old:
        before = fill(old)
        had_records = "records" in table_names(old)
    engine = open_database(url)
    try:
        migrate(engine)
        with reading(engine) as connection:
            for name, rows in before.items():
                table = metadata.tables[name]
                assert connection.execute(select(func.count()).select_from(table)).scalar_one() >= rows, name
            if had_records:
                assert len(list(iter_records(connection))) == 2
    finally:
        if kind == "postgresql":
            with engine.begin() as connection:
                for table in reversed(metadata.sorted_tables):
                    connection.execute(table.delete())
        engine.dispose()


def table_names(engine: Engine) -> set[str]:
    found = MetaData()
    found.reflect(engine)
    return set(found.tables)

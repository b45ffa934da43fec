"""A campaign that an earlier version has begun goes on: its executions are counted, and a tick looks at it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, select, text

from wheeltapper_fleet import tables
from wheeltapper_fleet.campaigns.engine import CampaignEngine
from wheeltapper_fleet.campaigns.rules.waves import Count
from wheeltapper_fleet.campaigns.tallies import tallies_of
from wheeltapper_fleet.db import engine as database
from wheeltapper_fleet.db.engine import open_database, reading

STATES = ("COMMITTED", "FETCHING", "SUPERSEDED", "PENDING", "PENDING")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_was_under_way_is_counted_and_goes_on(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path}/fleet.db"
    if kind == "postgresql":
        url = request.getfixturevalue("postgres_url").replace("postgresql://", "postgresql+psycopg://")
    before = create_engine(url)
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    spec = {"model": "bearing", "release": 1, "waves": [{"count": 3}, {}], "execution_deadline_seconds": 60}
    campaign = (
        "INSERT INTO campaigns (id, version, state, spec, waves, reason, created_at, updated_at)"
        " VALUES ('c-1', 4, 'RUNNING', :spec, :waves, '', 1, 1)"
    )
    execution = (
        "INSERT INTO executions (id, campaign, device, wave, state, code, detail, assigned_at, deadline_at, updated_at)"
        " VALUES (:id, 'c-1', :device, :wave, :state, '', '', :at, :until, 7)"
    )
    with before.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0010")
        waves = [{"state": "RUNNING", "since": 1.0}, {"state": "PENDING", "since": 0.0}]
        connection.execute(text(campaign), {"spec": json.dumps(spec), "waves": json.dumps(waves)})
        for number, state in enumerate(STATES):
            told = state in ("COMMITTED", "FETCHING")
            values = {"id": f"e-{number}", "device": f"dev-{number}", "wave": number // 3, "state": state}
            connection.execute(text(execution), values | {"at": 2.0 if told else None, "until": 62.0 if told else None})
    before.dispose()
    after = open_database(url)
    with reading(after) as connection:
        assert tallies_of(connection, "c-1").cells == {
            (0, "COMMITTED"): Count(1, 1),
            (0, "FETCHING"): Count(1, 1),
            (0, "SUPERSEDED"): Count(1, 0),
            (1, "PENDING"): Count(2, 0),
        }
        ended = select(tables.executions.c.id, tables.executions.c.ended_at).order_by(tables.executions.c.id)
        assert [row.ended_at for row in connection.execute(ended)] == [7.0, None, 7.0, None, None]
    engine = CampaignEngine(after, lambda _: "signed")
    engine.tick(10.0)
    with reading(after) as connection:
        cells = tallies_of(connection, "c-1").cells
    assert (cells[0, "COMMITTED"].n, cells[1, "SUPERSEDED"].n, cells[1, "PENDING"].n) == (1, 1, 1)  # a place was filled
    engine.tick(63.0)
    with reading(after) as connection:
        assert tallies_of(connection, "c-1").cells[0, "FAILED"].n == 2  # a deadline of before; a device that is unknown
    with after.begin() as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(table.delete())
    after.dispose()

"""A database of the version before keeps who is revoked, and its tags, attributes and releases are found by queries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, select, text

from wheeltapper_fleet import tables
from wheeltapper_fleet.db import engine as database
from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_fleet.devices.selection import where
from wheeltapper_fleet.ground.query import parse

MANY = 2_500
"""More than two slices of the migration."""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_upgrade_fills_what_queries_read(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path}/fleet.db"
    if kind == "postgresql":
        url = request.getfixturevalue("postgres_url").replace("postgresql://", "postgresql+psycopg://")
    before = create_engine(url)
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    status = {
        "agent_version": "0.1.9",
        "pipelines": {"main": {"model": "bearing", "release": 7, "runtime": "onnxruntime/CPU"}},
    }
    with before.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0006")
        statement = text(
            "INSERT INTO devices (id, tags, enrolled_at, certificate_sha256, certificate_expires_at, revoked, online,"
            " status, counter, last_seen_at) VALUES (:id, :tags, 1, 'c', 2, :revoked, :online, :status, 0, 5)"
        )
        rows = [
            {
                "id": f"dev-{number:05}",
                "tags": json.dumps({"site": "north" if number % 2 else "south", "line": str(number)}),
                "revoked": number == 3,
                "online": False,
                "status": json.dumps(status) if number < 10 else None,
            }
            for number in range(MANY)
        ]
        connection.execute(statement, rows)
    before.dispose()
    after = open_database(url)
    with reading(after) as connection:
        for query, ids in (
            ("state = revoked", ["dev-00003"]),
            ("tag.line = 2400", ["dev-02400"]),
            ("site = north and tag.line < 4", ["dev-00001", "dev-00003"]),
            ('attr.agent_version < "0.1.10" and release(main) = 7 and tag.line = 9', ["dev-00009"]),
            ('attr.runtime.main like("onnx*") and tag.line > 8', ["dev-00009"]),
        ):
            found = connection.execute(
                select(tables.devices.c.id).where(where(parse(query), 0.0)).order_by(tables.devices.c.id)
            )
            assert list(found.scalars()) == ids, query
    with after.begin() as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(table.delete())
    after.dispose()

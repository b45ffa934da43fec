"""A database of the version before keeps its executions, and every device gets an assignment of the new kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, select, text

from wheeltapper_fleet import tables
from wheeltapper_fleet.db import engine as database
from wheeltapper_fleet.db.engine import open_database, reading


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_upgrade_keeps_executions_and_marks_devices(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/fleet.db"
    if kind == "postgresql":
        url = request.getfixturevalue("postgres_url").replace("postgresql://", "postgresql+psycopg://")
    before = create_engine(url)
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    with before.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        rows = (
            "INSERT INTO campaigns VALUES ('c-1', 1, 'RUNNING', '{}', '[]', '', 1.0, 1.0)",
            "INSERT INTO executions VALUES ('e-1', 'c-1', 'dev-1', 0, 'ASSIGNED', '', '', 1.0, 2.0, 1.0)",
            "INSERT INTO assignments VALUES ('dev-1', 7, 'e-1', 'signed', 1.0, 2.0)",
        )
        for row in rows:
            connection.execute(text(row))
    before.dispose()
    after = open_database(url)
    with reading(after) as connection:
        assert connection.execute(select(tables.executions.c.id, tables.executions.c.campaign)).all() == [
            ("e-1", "c-1")
        ]
        kept = connection.execute(select(tables.assignments)).one()
        assert (kept.counter, kept.envelope, kept.orders, kept.published) == (7, "signed", 1, True)
        assert connection.execute(select(tables.assignments_due)).all() == [("dev-1", 0.0, 0)]
    with after.begin() as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(table.delete())
    after.dispose()

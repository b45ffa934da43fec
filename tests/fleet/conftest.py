"""Fixtures for the rooms of the fleet service."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.conftest import short_parent
from tests.fleet.api.harness import AdminServer
from tests.fleet.trust.world import World
from wheeltapper_fleet.db.engine import open_database
from wheeltapper_fleet.tables import metadata


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL in a folder of its own.

    It runs as another user than root, so it may not lie below pytest's folder: each pytest that starts on the machine
    closes that one for others.
    """
    pgserver = pytest.importorskip("pgserver", reason="pip install pgserver to test on PostgreSQL")
    folders = [Path(pgserver.__file__).resolve(), *Path(pgserver.__file__).resolve().parents]
    if os.geteuid() == 0 and not all(folder.stat().st_mode & 0o005 for folder in folders):
        pytest.skip("PostgreSQL does not run as root, and no other user may read this environment (umask 077?)")
    with tempfile.TemporaryDirectory(
        prefix="wheeltapper-pg-", dir=short_parent(), ignore_cleanup_errors=True
    ) as folder:
        server = pgserver.get_server(folder)
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database whose tables are up to date: SQLite, then a real PostgreSQL."""
    url = f"sqlite:///{tmp_path}/fleet.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    database = open_database(url)
    yield database
    with database.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
    database.dispose()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Keys, CA, repository, database and services in a folder."""
    made = World.create(tmp_path)
    yield made
    made.engine.dispose()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AdminServer]:
    """A real admin server on loopback, over a real database, repository and blob store."""
    with AdminServer(tmp_path / "data") as running:
        yield running

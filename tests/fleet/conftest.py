"""Fixtures for the rooms of the fleet service."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import URL, Engine, create_engine, make_url, text

from tests.conftest import short_parent
from tests.fleet.api.harness import AdminServer
from tests.fleet.migrated import Migrated
from tests.fleet.trust.world import World
from wheeltapper_fleet.db.engine import open_database
from wheeltapper_fleet.tables import metadata


@pytest.fixture(scope="session", autouse=True)
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Migrated]:
    """New databases get their tables at once."""
    made = Migrated(tmp_path_factory.mktemp("migrated"))
    with pytest.MonkeyPatch.context() as patch:
        made.install(patch)
        yield made


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[URL]:
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
            url = make_url(server.get_uri())
            tell(url, *(f"ALTER SYSTEM SET {name} = off" for name in UNSAFE), "SELECT pg_reload_conf()")
            yield url
        finally:
            process = psutil.Process(server.get_pid())
            process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            process.wait(10)
            server.cleanup()


UNSAFE = ("fsync", "full_page_writes", "synchronous_commit")
"""What keeps a database over a power cut, which this one need not survive."""


def tell(server: URL, *statements: str) -> None:
    """Execute statements, each outside of a transaction."""
    made = create_engine(server.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with made.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    made.dispose()


def new_database(server: URL) -> str:
    """The URL of an empty database of ``server``, which has as many as are asked for."""
    name = f"fleet_{os.urandom(6).hex()}"
    tell(server, f"CREATE DATABASE {name}")
    return server.set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def postgres_url(postgres_server: URL) -> str:
    """A database of a real PostgreSQL, empty when the module's first test begins."""
    return new_database(postgres_server)


@pytest.fixture(scope="session")
def postgres_migrated(postgres_server: URL, migrated: Migrated) -> str:
    """A database of a real PostgreSQL whose tables are up to date, for tests that leave no rows."""
    url = new_database(postgres_server)
    made = open_database(url)
    migrated.up_to_date.add(made.url.render_as_string(hide_password=False))
    made.dispose()
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database whose tables are up to date: SQLite, then a real PostgreSQL."""
    of_sqlite = request.param == "sqlite"
    database = open_database(
        f"sqlite:///{tmp_path}/fleet.db" if of_sqlite else request.getfixturevalue("postgres_migrated")
    )
    yield database
    if not of_sqlite:  # the next test has the same database
        clear(database)
    database.dispose()


def clear(database: Engine) -> None:
    """Remove every row of a PostgreSQL database, in one round trip."""
    with database.begin() as connection:
        names = [connection.dialect.identifier_preparer.format_table(each) for each in reversed(metadata.sorted_tables)]
        connection.exec_driver_sql("; ".join(f"DELETE FROM {name}" for name in names))


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

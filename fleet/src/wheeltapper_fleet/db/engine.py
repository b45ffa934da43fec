"""Opens the fleet's database: SQLite by default, PostgreSQL for large fleets.

Invariants:
    * SQLite runs in WAL mode with foreign keys on. A transaction takes the write lock when it begins, so two threads
      never deadlock by upgrading read locks. Code that only reads uses :func:`reading`, which waits for no writer.
    * On SQLite, the writers of a process begin in the order in which they asked (:mod:`.turns`), and keep their turn
      until they give the connection back.
    * A SQLite file and what SQLite keeps beside it (``-wal``, ``-shm``) have mode 0600, whatever the umask.
    * :func:`reading` takes its connections from a pool of its own, so readers never take those of writers: however many
      pages are open, the ingest and the campaigns go on.
    * :func:`open_database` returns a database whose tables are those of :mod:`wheeltapper_fleet.tables`.

What this module does not do: queries. They are in the rooms.

Example::

    engine = open_database("sqlite:////var/lib/wheeltapper/fleet.db")
    with reading(engine) as connection:
        connection.execute(select(devices.c.id)).scalars().all()
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, Table, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import ConnectionPoolEntry

from wheeltapper_fleet.db.turns import Turns

__all__ = [
    "MIGRATIONS",
    "insert_ignore",
    "insert_one",
    "is_read_only",
    "migrate",
    "open_database",
    "ping",
    "reading",
    "upsert_statement",
]

MIGRATIONS: Final = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_MS: Final = 15_000
_READ_ONLY: Final = "wheeltapper_read_only"
_READERS: Final = "wheeltapper_readers"
"""The option of an engine that holds the engine of its readers."""
_MAX_READERS: Final = 24
"""More than this wait for their turn. A PostgreSQL with its 100 connections serves several processes so."""
_READER_WAITS_SECONDS: Final = 10.0
_MIGRATION_LOCK: Final = 7_742_001
_TURN: Final = "wheeltapper_turn"
"""What a pool remembers of a connection that writes: whether it has the turn."""


def open_database(url: str) -> Engine:
    """Open the database at ``url`` (an SQLAlchemy URL) and bring its tables up to date."""
    parsed = make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    database = parsed.database or ":memory:"
    of_one_connection = _is_sqlite(parsed) and database.startswith((":memory:", "file:"))
    if _is_sqlite(parsed) and not of_one_connection:
        _keep_private(Path(database))
    engine = _open(parsed)
    if not of_one_connection:
        readers = _open(parsed, pool_size=5, max_overflow=_MAX_READERS - 5, pool_timeout=_READER_WAITS_SECONDS)
        engine.update_execution_options(**{_READERS: readers})
        event.listen(engine, "engine_disposed", lambda _: readers.dispose())
    migrate(engine)
    return engine


def migrate(engine: Engine) -> None:
    """Run the migrations that the database does not have yet, in one transaction.

    Several processes may call it at once: on PostgreSQL a lock lets one go first, on SQLite the transaction does.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def reading(engine: Engine, *, for_devices: bool = False) -> Iterator[Connection]:
    """A connection for reading only: one consistent view, no write lock; what is written in it is rolled back.

    Args:
        engine: the fleet's database.
        for_devices: take the connection from those of writers, so that a device that connects waits for no page.

    Raises:
        sqlalchemy.exc.TimeoutError: all connections for reading are in use, and none came back in ten seconds.
    """
    readers: Engine = engine if for_devices else engine.get_execution_options().get(_READERS, engine)
    with readers.connect().execution_options(**{_READ_ONLY: True}) as connection:
        try:
            yield connection
        finally:
            connection.rollback()


def ping(engine: Engine) -> None:
    """Ask the database for anything at all.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: it does not answer.
    """
    with reading(engine) as connection:
        connection.execute(text("SELECT 1"))


def is_read_only(connection: Connection) -> bool:
    """Whether a connection is one of :func:`reading`."""
    return bool(connection.get_execution_options().get(_READ_ONLY, False))


def upsert_statement(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT into ``table`` that has the methods ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def insert_ignore(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert ``rows``, which must all have the same columns. A row whose key is there already changes nothing."""
    if rows:
        connection.execute(upsert_statement(connection, table).on_conflict_do_nothing(), list(rows))


def insert_one(connection: Connection, table: Table, values: dict[str, Any]) -> int:
    """Insert a row into a table that numbers its rows; returns its number."""
    made = connection.execute(table.insert().values(values)).inserted_primary_key
    assert made is not None  # one row was inserted
    return int(made[0])


def _keep_private(path: Path) -> None:
    """Make the database's file with mode 0600 before SQLite does, which gives the files beside it the same mode.

    Files of an earlier version are made private too, unless they belong to somebody else.
    """
    with contextlib.suppress(FileNotFoundError):  # there is no such folder: SQLite says so
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            os.chmod(file, 0o600)


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _open(url: URL, **pool: Any) -> Engine:
    """An engine with a pool of its own; ``pool`` holds arguments of :func:`sqlalchemy.create_engine`."""
    if not _is_sqlite(url):
        return create_engine(url, pool_pre_ping=True, **pool)
    arguments = {"check_same_thread": False, "timeout": _BUSY_TIMEOUT_MS / 1000}
    engine = create_engine(url, connect_args=arguments, **pool)

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself: _begin does
        for pragma in (
            "journal_mode=WAL",
            f"busy_timeout={_BUSY_TIMEOUT_MS}",
            "foreign_keys=ON",
            "synchronous=FULL",  # an acknowledged record survives a power cut, not only a kill
        ):
            connection.execute(f"PRAGMA {pragma}")

    turns = Turns()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if connection.get_execution_options().get(_READ_ONLY, False):
            connection.exec_driver_sql("BEGIN")
            return
        held = connection.connection.record_info
        if held is not None and not held.get(_TURN):
            held[_TURN] = turns.take(_BUSY_TIMEOUT_MS / 1000)  # else SQLite decides, as between processes
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    @event.listens_for(engine, "checkin")
    @event.listens_for(engine, "invalidate")
    def _end(_connection: object, record: ConnectionPoolEntry, *_: object) -> None:
        if record.record_info is not None and record.record_info.pop(_TURN, False):
            turns.give()

    return engine

"""The database: migrations make the tables that the code expects, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, insert, select, text

from wheeltapper_fleet.db.engine import insert_ignore, migrate, open_database, reading
from wheeltapper_fleet.tables import metadata, refused, spools


def no_partition(name: str | None, kind: str, _parents: object) -> bool:
    """PostgreSQL shows the partitions of ``messages`` as tables of their own, with indexes of their own."""
    return not (kind == "table" and (name or "").startswith("messages_"))


def test_migrations_make_the_tables_of_the_code(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": no_partition})
        assert compare_metadata(context, metadata) == []


def test_migrating_again_changes_nothing(engine: Engine) -> None:
    with engine.begin() as connection:
        insert_ignore(
            connection, spools, [{"device": "d", "epoch": "e", "contiguous": 1, "dropped": 0, "first_seen_at": 0.0}]
        )
    migrate(engine)
    with reading(engine) as connection:
        assert connection.execute(select(spools.c.contiguous)).scalars().all() == [1]


def test_a_row_that_exists_is_left_alone(engine: Engine) -> None:
    row = {"device": "d", "epoch": "e", "contiguous": 1, "dropped": 0, "first_seen_at": 0.0}
    with engine.begin() as connection:
        insert_ignore(connection, spools, [row])
        insert_ignore(connection, spools, [{**row, "contiguous": 9}, {**row, "epoch": "f"}])
    with reading(engine) as connection:
        rows = connection.execute(select(spools.c.epoch, spools.c.contiguous).order_by(spools.c.epoch)).all()
    assert [tuple(each) for each in rows] == [("e", 1), ("f", 1)]


def test_threads_that_read_then_write_do_not_deadlock(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/fleet.db")
    with engine.begin() as connection:
        row = {"device": "d", "code": "c", "count": 0, "last_at": 0.0, "last_detail": ""}
        connection.execute(insert(refused), [row])
    errors: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(25):
                with engine.begin() as connection:
                    count = connection.execute(select(refused.c["count"])).scalar_one()
                    connection.execute(refused.update().values(count=count + 1))
        except Exception as error:  # noqa: BLE001  # whatever it is, the test shows it
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with reading(engine) as connection:
        assert connection.execute(select(refused.c["count"])).scalar_one() == 150
        assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar_one() == 1


def test_a_reader_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/fleet.db")
    with engine.begin() as writer:
        writer.execute(refused.insert().values(device="d", code="c", count=1, last_at=0.0, last_detail=""))
        with reading(engine) as reader:
            assert reader.execute(select(refused)).all() == []


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_sqlite_file_is_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        engine = open_database(f"sqlite:///{tmp_path}/fleet.db")
    finally:
        os.umask(before)
    with engine.begin() as connection:
        connection.execute(refused.insert().values(device="d", code="c", count=1, last_at=0.0, last_detail=""))
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {"fleet.db": 0o600, "fleet.db-wal": 0o600, "fleet.db-shm": 0o600}


def test_files_of_an_earlier_version_become_private(tmp_path: Path) -> None:
    open_database(f"sqlite:///{tmp_path}/fleet.db")  # not disposed of: its -wal and -shm stay
    for file in tmp_path.iterdir():
        file.chmod(0o644)
    open_database(f"sqlite:///{tmp_path}/fleet.db")
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}

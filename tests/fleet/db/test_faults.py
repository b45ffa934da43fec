"""Faults of the database are told from faults of what was to be stored, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event, insert, text
from sqlalchemy.exc import InvalidRequestError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionError

from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_fleet.db.faults import database_fault
from wheeltapper_fleet.devices.certificates import accepts_certificate
from wheeltapper_fleet.tables import refused


def raised(action: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # which one it is differs by database
        action()
    return caught.value


def store(engine: Engine, **row: object) -> None:
    with engine.begin() as connection:
        connection.execute(insert(refused).values({"code": "c", "count": 1, "last_at": 0.0, "last_detail": ""} | row))


@pytest.mark.parametrize("row", [{"device": None}, {"device": "d", "count": 2**70}, {"device": object()}])
def test_what_cannot_be_stored_is_no_fault_of_the_database(engine: Engine, row: dict[str, object]) -> None:
    assert database_fault(raised(lambda: store(engine, **row))) is None


def test_a_statement_that_is_wrong_is_no_fault_of_the_database(engine: Engine) -> None:
    def ask() -> None:
        with reading(engine) as connection:
            connection.execute(text("SELECT x FROM nowhere"))

    assert database_fault(raised(ask)) is None
    assert database_fault(InvalidRequestError("used wrongly")) is None


def test_a_locked_database_is_a_fault_of_the_database(tmp_path: Path) -> None:
    first = open_database(f"sqlite:///{tmp_path}/fleet.db")
    second = create_engine(f"sqlite:///{tmp_path}/fleet.db", connect_args={"timeout": 0.01})
    with first.begin():
        fault = database_fault(raised(lambda: store(second, device="d")))
    assert fault == "database is locked"


def test_a_full_disk_and_a_file_that_is_no_database_are_faults_of_the_database(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/fleet.db")

    @event.listens_for(engine, "begin")
    def _small(connection: object) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count=1")  # type: ignore[attr-defined]

    fault = database_fault(raised(lambda: store(engine, device="d", last_detail="x" * 1_000_000)))
    assert fault is not None
    assert "full" in fault
    (tmp_path / "no.db").write_bytes(b"no database at all, whatever its name says" * 100)
    other = create_engine(f"sqlite:///{tmp_path}/no.db")
    assert database_fault(raised(lambda: store(other, device="d"))) == "file is not a database"


def test_a_server_that_is_gone_is_a_fault_of_the_database() -> None:
    engine = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nowhere")
    error = raised(lambda: store(engine, device="d"))
    assert isinstance(error, OperationalError)
    assert database_fault(error) is not None


def test_no_free_connection_is_a_fault_of_the_database(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/fleet.db", pool_size=1, max_overflow=0, pool_timeout=0.01)
    with engine.connect():
        error = raised(engine.connect)
    assert isinstance(error, NoConnectionError)
    assert database_fault(error) == "all its connections are in use"


def test_what_a_device_sent_is_not_in_the_text(engine: Engine) -> None:
    error = raised(lambda: store(engine, device=None, last_detail="a secret of the device"))
    assert "a secret" not in (database_fault(error) or "")


def test_readers_never_take_the_connections_of_writers_and_devices(engine: Engine) -> None:
    stored, known = threading.Event(), threading.Event()

    def write() -> None:
        store(engine, device="d")
        stored.set()
        assert not accepts_certificate(engine, "dev-1", "0" * 64)
        known.set()

    with ExitStack() as readers:
        for _ in range(24):
            connection = readers.enter_context(reading(engine))
            connection.execute(text("SELECT 1"))
        threading.Thread(target=write, daemon=True).start()
        assert stored.wait(20), "readers keep a writer waiting"
        assert known.wait(5), "readers keep a device that connects waiting"

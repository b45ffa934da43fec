"""Turns: in the order of asking, on another thread too, and given back whatever happens to the connection."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError, PendingRollbackError

from tests.fleet.broker.rig import until
from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_fleet.db.turns import Turns


def test_turns_come_in_the_order_of_asking() -> None:
    turns, served = Turns(), []
    assert turns.take(0.0)

    def wait(number: int) -> None:
        assert turns.take(30.0)
        served.append(number)
        turns.give()

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(8)]
    for count, thread in enumerate(threads, 1):
        thread.start()
        until(lambda count=count: len(turns._waiting) == count)  # type: ignore[misc]  # bound now
    turns.give()
    for thread in threads:
        thread.join(30.0)
    assert served == list(range(8))
    assert turns.take(0.0), "nobody holds it"


def test_who_gives_up_waiting_gets_no_turn_later() -> None:
    turns = Turns()
    assert turns.take(0.0)
    assert not turns.take(0.01)
    turns.give()
    assert turns.take(0.0)


def test_a_writer_without_a_pause_starves_no_other(tmp_path: Path) -> None:
    """Without turns, whoever looks again every 0.1 s hardly ever meets the moment between two transactions."""
    database = open_database(f"sqlite:///{tmp_path}/fleet.db")
    stop, written = threading.Event(), [0]

    def write_on() -> None:
        while not stop.is_set():
            with database.begin() as connection:
                connection.execute(text("UPDATE devices SET online = 0"))
                written[0] += 1
                stop.wait(0.02)

    greedy = [threading.Thread(target=write_on) for _ in range(2)]
    for thread in greedy:
        thread.start()
    until(lambda: written[0] > 2)
    between = []
    for _ in range(10):
        before = written[0]
        with database.begin():
            between.append(written[0] - before)
    stop.set()
    for thread in greedy:
        thread.join(30.0)
    database.dispose()
    assert max(between) <= 2 + 2, "each of the greedy ones came at most twice: it was asking, and it asked again"


def test_a_turn_ends_with_the_connection_whatever_happened(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/fleet.db")
    with pytest.raises(ZeroDivisionError), database.begin():
        _ = 1 / 0
    with pytest.raises(OperationalError), database.begin() as connection:
        connection.execute(text("SELECT * FROM nothing"))
    with database.connect() as connection:
        with connection.begin():
            pass
        with pytest.raises(PendingRollbackError), connection.begin():
            connection.invalidate()
    with reading(database) as reader, database.begin() as writer:
        writer.execute(text("UPDATE devices SET online = 0"))
        assert reader.execute(text("SELECT 1")).scalar() == 1
    done = threading.Event()

    def write() -> None:
        with database.begin():
            done.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert done.wait(10.0), "a turn was kept"
    thread.join()
    database.dispose()

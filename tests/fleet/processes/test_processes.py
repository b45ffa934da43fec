"""Who is alive and who leads, over a real PostgreSQL; the fence, against a leader that does not know of its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, insert, select, text

from tests.fleet.broker.rig import until
from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.processes.leadership import Leadership
from wheeltapper_fleet.processes.membership import ALIVE_SECONDS, Membership
from wheeltapper_fleet.processes.views import list_processes
from wheeltapper_fleet.tables import leadership, metadata, processes, refused


@pytest.fixture
def databases(postgres_url: str) -> Iterator[tuple[Engine, Engine]]:
    """The same PostgreSQL, as two processes see it."""
    both = open_database(postgres_url), open_database(postgres_url)
    yield both
    with both[0].begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
    for each in both:
        each.dispose()


class Candidate:
    """A process that would lead; counts how often it begins and ends."""

    def __init__(self, database: Engine, name: str) -> None:
        self.begun = self.ended = 0
        self.database: Engine | None = None
        self.leadership = Leadership(database, name, self._begin, self._end)

    def _begin(self, database: Engine) -> None:
        self.database = database
        self.begun += 1

    def _end(self) -> None:
        self.ended += 1

    def write(self, code: str) -> None:
        assert self.database is not None
        with self.database.begin() as connection:
            row = {"device": "d", "code": code, "count": 1, "last_at": 0.0, "last_detail": ""}
            connection.execute(insert(refused).values(row))


def codes(database: Engine) -> set[str]:
    with reading(database) as connection:
        return set(connection.execute(select(refused.c.code)).scalars())


def end_sessions_of_leaders(database: Engine) -> None:
    """End every session that holds the lock, as a network that breaks does."""
    with database.begin() as connection:
        held = text(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
        )
        connection.execute(held)


def test_one_leads_and_the_other_takes_over_when_it_stops(databases: tuple[Engine, Engine]) -> None:
    one, two = Candidate(databases[0], "one"), Candidate(databases[1], "two")
    one.leadership.start()
    until(lambda: one.leadership.leads)
    two.leadership.start()
    one.write("by one")
    assert two.begun == 0
    one.leadership.stop()
    assert (one.begun, one.ended) == (1, 1)
    until(lambda: two.leadership.leads, 10)
    two.write("by two")
    assert codes(databases[0]) == {"by one", "by two"}
    with pytest.raises(FleetError, match="another process leads"):
        one.write("late")
    two.leadership.stop()
    with reading(databases[0]) as connection:
        assert connection.execute(select(leadership.c.epoch, leadership.c.holder)).all() == [(2, "two")]


def test_a_leader_whose_session_ends_stops_and_one_leads_again(databases: tuple[Engine, Engine]) -> None:
    one, two = Candidate(databases[0], "one"), Candidate(databases[1], "two")
    one.leadership.start()
    until(lambda: one.leadership.leads)
    two.leadership.start()
    end_sessions_of_leaders(databases[0])
    until(lambda: one.ended == 1 and (two.leadership.leads or one.begun == 2), 10)
    for each in (one, two):
        each.leadership.stop()


def test_a_former_leader_that_knows_nothing_of_it_writes_nothing(databases: tuple[Engine, Engine]) -> None:
    """Its session ended, and another one leads before it looks: each of its transactions is refused."""
    one, two = Candidate(databases[0], "one"), Candidate(databases[1], "two")
    one.leadership.start()
    until(lambda: one.leadership.leads)
    epoch = one.leadership._epoch
    one.leadership.stop()
    one.leadership._epoch = epoch  # it believes so still
    one.write("nobody else leads")
    two.leadership.start()
    until(lambda: two.leadership.leads, 10)
    with pytest.raises(FleetError) as caught:
        one.write("late")
    assert caught.value.code == "engine.not_leading"
    assert codes(databases[0]) == {"nobody else leads"}
    with reading(one.leadership.fenced) as connection:  # reading is everybody's
        assert connection.execute(select(refused.c.code)).scalars().all() == ["nobody else leads"]
    two.leadership.stop()


def test_the_next_leader_waits_for_the_transactions_of_the_one_before(databases: tuple[Engine, Engine]) -> None:
    one, two = Candidate(databases[0], "one"), Candidate(databases[1], "two")
    one.leadership.start()
    until(lambda: one.leadership.leads)
    within, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        assert one.database is not None
        with one.database.begin() as connection:
            within.set()
            go_on.wait(20)
            row = {"device": "d", "code": "slow", "count": 1, "last_at": 0.0, "last_detail": ""}
            connection.execute(insert(refused).values(row))

    thread = threading.Thread(target=slow)
    thread.start()
    assert within.wait(10)
    end_sessions_of_leaders(databases[0])
    two.leadership.start()
    until(lambda: one.ended == 1)
    one.leadership._stopping.set()  # it is gone, but for this transaction
    assert not two.leadership.leads
    go_on.set()
    thread.join()
    until(lambda: two.leadership.leads or one.begun == 2, 10)
    assert codes(databases[0]) == {"slow"}
    for each in (one, two):
        each.leadership.stop()


def test_sqlite_leads_at_once() -> None:
    database = open_database("sqlite://")
    alone = Candidate(database, "alone")
    alone.leadership.start()
    alone.write("alone")
    assert codes(database) == {"alone"}
    alone.leadership.stop()
    assert (alone.begun, alone.ended) == (1, 1)


def test_members_hear_of_each_other_and_of_who_died(databases: tuple[Engine, Engine]) -> None:
    heard: dict[str, tuple[str, ...]] = {}
    members = {
        name: Membership(database, name, "ingest", lambda names, name=name: heard.update({name: names}))  # type: ignore[misc]  # bound now
        for name, database in zip(("a", "b"), databases, strict=True)
    }
    members["a"].start()
    members["b"].start()
    members["engine-1"] = Membership(databases[0], "engine-1", "engine")
    members["engine-1"].start()
    until(lambda: heard == {"a": ("a", "b"), "b": ("a", "b")})
    page = list_processes(databases[0], 2)
    rest = list_processes(databases[0], 2, page.next)
    assert (len(page.items), len(rest.items), rest.next) == (2, 1, None)
    found = {row.name: (row.role, row.alive, row.leads) for row in (*page.items, *rest.items)}
    assert found == {"a": ("ingest", True, False), "b": ("ingest", True, False), "engine-1": ("engine", True, False)}
    members["b"]._stopping.set()  # killed: it does not say goodbye
    until(lambda: heard["a"] == ("a",), ALIVE_SECONDS + 10)
    members["a"].stop()
    members["engine-1"].stop()
    with reading(databases[0]) as connection:
        assert "a" not in set(connection.execute(select(processes.c.name)).scalars())

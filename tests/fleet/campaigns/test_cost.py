"""What a report, a tick and a slice cost does not grow with the campaign or the fleet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, Select, event, select

from tests.fleet.campaigns.world import World, create
from wheeltapper_fleet import tables
from wheeltapper_fleet.campaigns import creation, moves
from wheeltapper_fleet.campaigns.service import abort_campaign
from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_protocols.wire.messages import ExecutionState


@contextmanager
def statements(database: Engine) -> Iterator[list[tuple[str, int]]]:
    """The statements of a block, each with its number of rows or of sets of parameters."""
    seen: list[tuple[str, int]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA")):
            seen.append((statement, len(parameters) if many else 1))

    engines = [database, database.get_execution_options()["wheeltapper_readers"]]
    for each in engines:
        event.listen(each, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        for each in engines:
            event.remove(each, "before_cursor_execute", note)


def costs(folder: Path, devices: int) -> dict[str, list[tuple[str, int]]]:
    """The statements of what happens to one device in a campaign of ``devices``, beside campaigns that rest."""
    folder.mkdir()
    world = World(open_database(f"sqlite:///{folder}/fleet.db"))
    world.populate(devices)
    for index in range(devices // 20):
        others = {"devices": [f"dev-{number}" for number in range(2, devices)]}
        create(world, start=False, pipelines=[f"p{index}"], audience=others)
    create(world, waves=[{"count": 2}, {}], success={"count": 1})
    while world.tick(0.1):
        pass
    found: dict[str, list[tuple[str, int]]] = {}

    def measure(name: str, do: Callable[[], Any]) -> None:
        with statements(world.database) as found[name]:
            do()

    measure("a report", lambda: world.end("dev-0", ExecutionState.FETCHING))
    measure("a tick after it", world.tick)
    measure("a tick after nothing", world.tick)
    world.database.dispose()
    return found


def test_reports_and_ticks_cost_the_same_in_a_campaign_of_any_size(tmp_path: Path) -> None:
    few, many = costs(tmp_path / "few", 20), costs(tmp_path / "many", 200)
    for name, each in few.items():
        assert each == many[name], name
    assert all(statement.startswith("SELECT") for statement, _ in many["a tick after nothing"])


def test_no_transaction_moves_more_than_a_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(open_database(f"sqlite:///{tmp_path}/fleet.db"))
    monkeypatch.setattr(creation, "SLICE", 250)
    world.populate(600)
    with statements(world.database) as seen:
        campaign = create(world, waves=[{}])
    written = [rows for statement, rows in seen if statement.startswith("INSERT INTO executions")]
    with statements(world.database) as seen:
        while world.tick(0.1):
            pass
        world.act(campaign, abort_campaign)
        for _ in range(10):
            world.tick(0.1)
    assert (written, set(world.states(campaign).values())) == ([250, 250, 100], {"ASSIGNED"})
    assert max(rows for _, rows in seen) <= 250
    world.database.dispose()


QUESTIONS: dict[str, tuple[Select[Any], str]] = {
    "what is overdue": (moves._overdue(1.0).limit(5), "ix_executions_deadline"),
    "what is pending": (moves._in_state("c", 1, "PENDING", 5), "ix_executions_campaign_state"),
    "what is due": (select(tables.campaigns.c.id).where(tables.campaigns.c.due_at <= 1.0), "ix_campaigns_due_at"),
    "what has changed": (select(tables.tally_changes.c.campaign).distinct(), "ix_tally_changes_campaign"),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_questions_are_answered_by_an_index(question: str, tmp_path: Path) -> None:
    query, index = QUESTIONS[question]
    database = open_database(f"sqlite:///{tmp_path}/fleet.db")
    text = str(query.compile(database, compile_kwargs={"literal_binds": True}))
    with reading(database) as connection:
        plan = " ".join(row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}"))
    assert index in plan
    assert "TEMP B-TREE" not in plan
    database.dispose()

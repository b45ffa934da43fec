"""Pages of a list, on both databases: every row once, in order, however many come and go meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, event, insert, select

from wheeltapper_fleet.campaigns.views import list_campaigns
from wheeltapper_fleet.captures.views import list_captures
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.devices.commands import create_capture
from wheeltapper_fleet.tables import campaigns, captures, devices

DEVICE = {"tags": {}, "enrolled_at": 0.0, "certificate_sha256": "0" * 64, "certificate_expires_at": 1e10}


def add_campaigns(engine: Engine, count: int, same_time: int) -> None:
    rows = [
        {"id": f"c-{number:02}", "version": 1, "state": "DRAFT", "spec": {}, "waves": [], "reason": ""}
        | {"created_at": 1e9 + number // same_time + 0.1, "updated_at": 1e9}
        for number in range(count)
    ]
    with engine.begin() as connection:
        connection.execute(insert(campaigns), rows)


@pytest.mark.parametrize("limit", [1, 2, 5, 6, 7, 100])
def test_every_row_is_on_one_page(engine: Engine, limit: int) -> None:
    add_campaigns(engine, 12, same_time=5)
    found: list[str] = []
    after, pages = None, 0
    while True:
        page = list_campaigns(engine, limit, after)
        found += [each.id for each in page.items]
        pages += 1
        assert len(page.items) <= limit
        if page.next is None:
            break
        after = page.next
    assert found == sorted(found, reverse=True)
    assert len(found) == 12
    assert pages == -(-12 // limit)


def test_what_comes_and_goes_moves_no_other_row(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(insert(devices), [{**DEVICE, "id": f"d{number}"} for number in (2, 4, 6, 8)])
    with reading(engine) as connection:
        rows, after = page_of(connection, select(devices), (devices.c.id,), limit=2)
    assert [row.id for row in rows] == ["d2", "d4"]
    with engine.begin() as connection:
        connection.execute(insert(devices), [{**DEVICE, "id": each} for each in ("d1", "d3", "d7")])
        connection.execute(devices.delete().where(devices.c.id == "d4"))
    with reading(engine) as connection:
        rows, after = page_of(connection, select(devices), (devices.c.id,), limit=5, after=after)
    assert [row.id for row in rows] == ["d6", "d7", "d8"]
    assert after is None


def test_a_late_page_costs_what_the_first_one_costs(engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("the plan is read from SQLite")
    said: list[tuple[str, Any]] = []
    event.listen(
        engine.get_execution_options()["wheeltapper_readers"],
        "before_cursor_execute",
        lambda _c, _k, statement, parameters, *_: said.append((statement, parameters)),
    )
    with engine.begin() as connection:
        connection.execute(insert(devices), [{**DEVICE, "id": f"d{number}"} for number in range(20)])
    with reading(engine) as connection:
        _, after = page_of(connection, select(devices.c.id), (devices.c.id,), limit=5)
        page_of(connection, select(devices.c.id), (devices.c.id,), limit=5, after=after)
        statement, parameters = said[-1]
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    assert "SEARCH devices USING" in plan[0].detail, plan
    assert not any("TEMP B-TREE" in row.detail for row in plan), plan


def test_recordings_that_were_asked_for_and_those_by_rule_are_one_list(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(insert(devices), {**DEVICE, "id": "d1"})
    asked = [create_capture(engine, device="d1", pipeline="p", snapshots=1, now=1e9 + 2 * at) for at in range(4)]
    rows = [
        {"command": f"rule-{at}", "device": "d1", "pipeline": "p", "sha256": "0" * 64, "length": 1, "snapshots": 1}
        | {"received_at": 1e9 + 2 * at + 1}
        for at in range(4)
    ]
    with engine.begin() as connection:
        connection.execute(insert(captures), rows)
        connection.execute(insert(captures), {**rows[0], "command": asked[0]})
    wanted = [name for at in (3, 2, 1, 0) for name in (f"rule-{at}", asked[at])]
    for limit in (1, 3, 8):
        found, after = [], None
        while True:
            page = list_captures(engine, "d1", limit, after)
            found += [each.command for each in page.items]
            if (after := page.next) is None:
                break
        assert found == wanted

"""The record of changes: what was altered is found, also after old changes were cut."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, insert, select, update
from typer.testing import CliRunner

from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet.audit import retention
from wheeltapper_fleet.audit.chain import START, first_break, link
from wheeltapper_fleet.audit.retention import audit_turn
from wheeltapper_fleet.audit.store import Change, list_changes, record_change, show_chain
from wheeltapper_fleet.audit.tables import audit, audit_chain
from wheeltapper_fleet.cli.app import app
from wheeltapper_fleet.client.fleet_client import FleetClient
from wheeltapper_fleet.ground.errors import FleetError

NOW = 1.79e9
DAY = 86_400.0


def change(number: int, at: float = NOW) -> Change:
    subject = {"device": f"press-{number}", "what": "ä\U0001f600"}
    return Change(at + number / 7, "ann", "token:1", "POST /tokens", subject, 201, f"r{number}", "::1")


def broken(engine: Engine) -> Any:
    """The number of rows that hold, and the one that does not, read as the API gives them."""
    chain = show_chain(engine)
    rows = [each.model_dump() for each in list_changes(engine, 1000).items]
    return first_break(rows, chain.digest, chain.cut_digest)


@given(st.lists(st.fixed_dictionaries({"who": st.text(), "at": st.floats(0, 1e11)}), min_size=1), st.data())
def test_every_alteration_is_found(values: list[dict[str, Any]], data: st.DataObject) -> None:
    rows: list[dict[str, Any]] = []
    for value in values:
        rest = {"via": "", "route": "", "subject": {}, "status": 200, "request": "", "address": ""}
        row = value | rest
        rows.insert(0, row | {"digest": link(rows[0]["digest"] if rows else START, row)})
    head = rows[0]["digest"]
    assert first_break(rows, head, START) == (len(rows), None)
    at = data.draw(st.integers(0, len(rows) - 1))
    altered = [*rows[:at], rows[at] | {"who": rows[at]["who"] + "x"}, *rows[at + 1 :]]
    assert first_break(altered, head, START) == (at, altered[at])
    assert first_break([*rows[:at], *rows[at + 1 :]], head, START)[1] is not None
    assert first_break([*rows[:at], rows[at], *rows[at:]], head, START)[1] is not None


def test_changes_that_are_written_at_once_are_one_chain(engine: Engine) -> None:
    def write(first: int) -> None:
        for number in range(first, first + 10):
            record_change(engine, change(number))

    threads = [threading.Thread(target=write, args=(10 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert broken(engine) == (40, None)
    assert show_chain(engine).digest == list_changes(engine, 1).items[0].digest


@pytest.mark.parametrize("alteration", ["who", "removed", "newest", "added"])
def test_what_was_altered_is_named(engine: Engine, alteration: str) -> None:
    for number in range(5):
        record_change(engine, change(number))
    ids = [each.id for each in list_changes(engine).items]
    with engine.begin() as connection:
        if alteration == "who":
            connection.execute(update(audit).where(audit.c.id == ids[2]).values(who="eve"))
        elif alteration == "removed":
            connection.execute(delete(audit).where(audit.c.id == ids[2]))
        elif alteration == "newest":
            connection.execute(delete(audit).where(audit.c.id == ids[0]))
        else:
            row = dict(connection.execute(select(audit).where(audit.c.id == ids[4])).one()._mapping)
            connection.execute(insert(audit).values(row | {"id": ids[4] - 1, "who": "eve"}))
    held, found = broken(engine)
    assert found is not None
    assert (held, found.get("id")) == {"who": (2, ids[2]), "removed": (1, ids[1]), "newest": (0, None)}.get(
        alteration, (4, ids[4])
    )


def test_old_changes_are_cut_and_the_rest_still_holds(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_SLICE", 4)
    for number in range(10):
        record_change(engine, change(number, NOW - 10 * DAY))
    for number in range(3):
        record_change(engine, change(number))
    turn = audit_turn(engine, 5)
    assert [turn(NOW) for _ in range(4)] == [True, True, False, False]
    assert broken(engine) == (3, None)
    chain = show_chain(engine)
    assert chain.cut_rows == 10
    assert chain.cut_up_to == pytest.approx(NOW - 10 * DAY + 9 / 7)
    with engine.begin() as connection:
        oldest = list_changes(engine).items[-1].id
        connection.execute(delete(audit).where(audit.c.id == oldest))  # more than was said
    assert broken(engine)[1] is not None
    with engine.begin() as connection:
        connection.execute(update(audit_chain).values(digest="0" * 64))
    assert broken(engine) == (0, {})


def test_everything_may_be_cut(engine: Engine) -> None:
    assert broken(engine) == (0, None)
    record_change(engine, change(1))
    assert audit_turn(engine, 1)(NOW + 9 * DAY) is False
    assert broken(engine) == (0, None)
    record_change(engine, change(2))
    assert broken(engine) == (1, None)


def test_the_command_line_checks_the_chain_itself(server: AdminServer) -> None:
    environment = {"WHEELTAPPER_URL": server.url, "WHEELTAPPER_API_TOKEN": server.token, "COLUMNS": "200"}
    with FleetClient(server.url, server.token) as client:
        for number in range(3):
            client.create_token(f"press-{number}")
        audit_turn(server.engine, 1)(time.time())
        said = CliRunner().invoke(app, ["audit", "--verify"], env=environment)
        assert (said.exit_code, "3 changes, none altered" in said.output) == (0, True), said.output
        assert show_chain(server.engine).digest in said.output
        with server.engine.begin() as connection:
            connection.execute(update(audit).where(audit.c.status == 201).values(who="eve"))
        with pytest.raises(FleetError, match=r"was altered.*\[audit\.broken\]"):
            client.verify_audit()
    said = CliRunner().invoke(app, ["audit", "--verify"], env=environment)
    assert said.exit_code == 1

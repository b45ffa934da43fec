"""Many devices at once, and how one of them does, on the page."""

from __future__ import annotations

import time

from sqlalchemy import Engine, select

from tests.browser import Page
from tests.fleet.api.harness import MODEL, AdminServer
from tests.fleet.promotion.test_quality import classifier, published, say
from tests.fleet.ui.looks import asking, look
from wheeltapper_fleet import tables
from wheeltapper_fleet.campaigns.views import list_device_executions
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.commands import list_commands


def states(server: AdminServer) -> dict[str, str]:
    with reading(server.engine) as connection:
        return {row.id: row.state for row in connection.execute(select(tables.devices.c.id, tables.devices.c.state))}


def test_what_a_query_selects_is_counted_and_then_changed(server: AdminServer, browser: Page) -> None:
    for number in range(16):
        server.add_device(f"press-{number:02}", online=number % 2 == 0)
    browser.set_cookie(server.url, server.sign_in())
    browser.open(server.url + "/devices")
    browser.evaluate("document.getElementById('q').value = 'not online or or'")
    browser.evaluate("document.querySelector('form.query').requestSubmit()")
    browser.wait_for("document.querySelector('#devices [role=alert]')?.textContent.includes('^')")
    assert "column 15" in browser.evaluate("document.querySelector('#devices [role=alert]').textContent")
    browser.evaluate("document.getElementById('q').value = 'not online'")
    browser.evaluate("document.querySelector('form.query').requestSubmit()")
    browser.wait_for("document.querySelectorAll('[data-id]').length === 8")
    browser.evaluate("document.querySelector('a[href^=\"/bulk\"]').click()")
    browser.wait_for("document.getElementById('meant')?.textContent === '8'")
    look(browser, server, "/bulk?q=not+online", "bulk")
    assert set(states(server).values()) == {"active"}
    browser.evaluate("window.confirm = () => true")
    browser.evaluate("document.querySelector('#ask [name=type]').value = 'restart-pipeline'")
    browser.evaluate("document.querySelector('#ask [name=pipeline]').value = 'bearing'")
    browser.evaluate("document.querySelector('#ask form').requestSubmit()")
    browser.wait_for(
        "document.readyState === 'complete' && document.querySelector('#ask [name=pipeline]')?.value === ''"
    )
    found = list_commands(server.engine, None, time.time()).items
    assert {each.device for each in found} == {f"press-{number:02}" for number in range(1, 16, 2)}
    assert {(each.type, each.who) for each in found} == {("restart-pipeline", "first")}
    browser.evaluate("window.confirm = () => true")
    browser.evaluate("document.querySelector('[data-bulk=quarantine] [name=why]').value = 'they smell'")
    browser.evaluate("document.querySelector('[data-bulk=quarantine] form').requestSubmit()")
    browser.wait_for("document.querySelector('[data-bulk=reinstate]') !== null && document.readyState === 'complete'")
    changed = {name for name, state in states(server).items() if state == "quarantined"}
    assert changed == {f"press-{number:02}" for number in range(1, 16, 2)}
    browser.evaluate("window.confirm = () => true")
    browser.evaluate("document.querySelector('#tags textarea').value = 'line=a b\\nsite='")
    browser.evaluate("document.querySelector('#tags form').requestSubmit()")
    browser.wait_for("document.readyState === 'complete' && document.querySelector('#tags textarea')?.value === ''")
    with reading(server.engine) as connection:
        query = select(tables.devices.c.id, tables.devices.c.tags)
        tags = {row.id: row.tags for row in connection.execute(query)}
    assert tags["press-01"] == {"line": "a b"}
    assert tags["press-02"] == {"site": "hall-1"}
    assert browser.problems == []


def test_a_count_that_is_not_true_any_more_changes_nothing(server: AdminServer, browser: Page) -> None:
    server.add_device("press-1")
    browser.set_cookie(server.url, server.sign_in())
    browser.open(server.url + '/bulk?q=id+like("press-*")')
    server.add_device("press-2")
    browser.evaluate("window.confirm = () => true")
    browser.evaluate("document.querySelector('[data-bulk=retire] [name=why]').value = 'sold'")
    browser.evaluate("document.querySelector('[data-bulk=retire] form').requestSubmit()")
    browser.wait_for("document.querySelector('[data-bulk=retire] .acted').textContent !== ''")
    said = browser.evaluate("document.querySelector('[data-bulk=retire] .acted').textContent")
    assert said == "2 devices match, not 1: look at them again"
    assert set(states(server).values()) == {"active"}


def test_who_may_not_change_devices_only_counts_them(server: AdminServer) -> None:
    server.add_device("press-1")
    for role, forms in {"viewer": 0, "approver": 0, "operator": 5}.items():
        with asking(server, role) as client:
            assert client.get("/bulk?q=online").text.count("data-api=") == forms, role
            assert ("/bulk" in client.get("/devices?q=online").text) == bool(forms), role
            wrong = client.get("/bulk?q=online+and+and")
            assert (wrong.status_code, "^" in wrong.text) == (200, True)
            assert "data-api=" not in client.get("/bulk").text


def test_how_a_device_does(server: AdminServer, browser: Page) -> None:
    now = time.time()
    made = published(server, classifier())
    status = {"online": True, "pipelines": {"main": {"model": MODEL, "release": 3, "windows": 9}}}
    server.add_device("press-1", status=status)
    server.add_scores("press-1", [0.2] * 30 + [1.4], "warning", pipeline="main")
    say(server, made, "press-1", [0.2] * 200, 100, now - 60)
    row = {"id": "x-1", "campaign": "cmp-1", "device": "press-1", "wave": 0, "state": "REJECTED", "updated_at": now}
    same = {"version": 3, "state": "PAUSED", "reason": "", "created_at": 1e9, "updated_at": 1e9}
    server.insert(tables.campaigns, id="cmp-1", spec={"model": MODEL, "release": 3}, waves=[], **same)
    server.insert(tables.executions, **row, code="golden.output", detail="0.2 is not 0.1", pipelines=["main"])
    browser.set_cookie(server.url, server.sign_in())
    look(browser, server, "/devices/press-1/health", "device-health")
    said = browser.evaluate("document.querySelector('[data-pipeline=main]').textContent")
    assert "31 windows, 0 without a score" in said
    assert "200 windows; score PSI" in said
    look(browser, server, "/devices/press-1/executions", "device-executions")
    assert "golden.output" in browser.evaluate("document.querySelector('[data-execution=x-1]').textContent")
    with asking(server, "viewer") as client:
        assert client.get("/devices/nothing/health").status_code == 404
        assert "/devices/press-1/health" in client.get("/devices/press-1").text
    assert browser.problems == []


def test_executions_of_a_device_come_in_pages(engine: Engine) -> None:
    with engine.begin() as connection:
        for number in range(7):
            row = {"id": f"x-{number}", "default_release": "d-1", "device": "press-1", "wave": 0, "state": "COMMITTED"}
            connection.execute(tables.executions.insert().values(**row, updated_at=float(number // 2)))
        other = {"id": "y", "default_release": "d-1", "device": "press-2", "wave": 0, "state": "COMMITTED"}
        connection.execute(tables.executions.insert().values(**other, updated_at=9.0))
    first = list_device_executions(engine, "press-1", 4)
    second = list_device_executions(engine, "press-1", 4, first.next)
    assert [each.id for each in first.items + second.items] == [f"x-{number}" for number in (6, 5, 4, 3, 2, 1, 0)]
    assert second.next is None

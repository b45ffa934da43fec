"""The start of a shift: who needs a person, what to do, what changed since the last visit."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import httpx
import pytest
from sqlalchemy import event, insert

from tests.browser import open_page
from tests.fleet.alerts.world import Works
from tests.fleet.api.harness import MODEL, AdminServer
from tests.fleet.ui.axe import serious_findings
from tests.fleet.ui.pictures import keep_picture
from tests.fleet.ui.test_cases import a_day, signed_in
from wheeltapper_fleet import tables
from wheeltapper_fleet.alerts.views import get_case, list_shown
from wheeltapper_fleet.devices.connections import Change, gone_since, record_connections
from wheeltapper_fleet.ui.advice import next_step
from wheeltapper_fleet.ui.shift import PAUSE_SECONDS, by_machine, visit

DAY = 86_400.0


def a_night(server: AdminServer) -> None:
    """Cases of a day; a release, a campaign that was paused, and devices of which one is away."""
    a_day(server)
    now = time.time()
    release = {"model": MODEL, "release": 7, "path": "p", "sha256": "0" * 64, "length": 1, "manifest": {}}
    server.insert(tables.releases, **release, published_at=now - 3000, published_by="ann")
    row = {"id": "cmp-9", "version": 3, "state": "PAUSED", "reason": "2 of 2 were refused", "updated_at": now}
    row |= {"spec": {"model": MODEL, "release": 7}, "waves": [{"state": "FAILED"}], "created_at": now - 2500}
    server.insert(tables.campaigns, **row)
    server.insert(tables.campaign_tallies, campaign="cmp-9", wave=0, state="REJECTED", n=2, assigned=2)
    for event_, at in (("created", 2500), ("started", 2400), ("paused", 2000)):
        log = {"campaign": "cmp-9", "at": now - at, "who": "ann", "event": event_, "detail": ""}
        server.insert(tables.campaign_log, **log)
    server.add_device("gw-8", online=False)
    server.add_device("gw-9")
    with server.engine.begin() as connection:
        record_connections(
            connection, [Change("gw-8", False, "lost", ""), Change("gw-9", False, "ended", "")], now - 900
        )
        record_connections(connection, [Change("gw-9", True, "connected", "")], now - 800)


def lines(text: str, begin: str) -> list[str]:
    """The entries of the list that follows ``begin``, as text."""
    part = text.partition(begin)[2].partition("</ul>")[0]
    return [" ".join(re.sub(r"<[^>]+>", " ", each).split()) for each in re.findall(r"<li.*?</li>", part, re.DOTALL)]


def test_it_says_who_needs_a_person_what_to_do_and_what_changed(server: AdminServer) -> None:
    a_night(server)
    with signed_in(server) as http:
        text = http.get("/").text
        assert re.findall(r'data-machine="([^"]+)"', text) == ["fan", "press"], "by risk"
        flat = " ".join(re.sub(r"<[^>]+>", " ", text).split())
        assert "To do Listen to a recording and inspect the machine today" in flat
        assert "3.1 times the warning threshold" in flat
        assert "Too early to say of gw-4/main" in flat
        changes = lines(text, 'id="changes-title"')
        assert changes[0] == "4 cases opened, 1 of them resolved, 1 handled by triage"
        assert changes[1].startswith(f"Release {MODEL} r7 was published")
        assert [each.split(" 20")[0] for each in changes[2:4]] == ["cmp-9 paused by ann", "cmp-9 started by ann"]
        assert changes[4] == "1 device went offline and is away: gw-8 (lost)", "gw-9 came back"
        assert "2 of 2 were refused" in flat
        handled = lines(text, 'id="handled-title"')
        assert "a single warning that cleared by itself after 1 minute" in handled[0]
        assert "Acknowledge" in text
    with signed_in(server, "viewer") as http:
        assert "data-api" not in http.get("/").text
        assert http.get("/fragments/shift-nothing").status_code == 404


def test_the_next_page_of_a_visit_tells_the_same_and_the_next_visit_tells_what_is_new() -> None:
    since, kept = visit(None, 10 * DAY)
    assert since == 9 * DAY, "the first visit looks a day back"
    again, kept = visit(kept, 10 * DAY + 60)
    assert again == since, "reading on is the same visit"
    later, kept = visit(kept, 10 * DAY + 60 + PAUSE_SECONDS + 1)
    assert later == 10 * DAY + 60, "since the last page of the visit before"
    assert visit(kept, 400 * DAY)[0] == 369 * DAY, "a month at most"


@pytest.mark.parametrize("kept", ["", "1", "nan-nan", "5-4", "inf-inf", "1-9e99", "a-b", "1-2-3"])
def test_a_cookie_that_means_nothing_is_a_first_visit(kept: str) -> None:
    assert visit(kept, 10 * DAY)[0] == 9 * DAY


def test_each_name_has_its_own_last_visit(server: AdminServer) -> None:
    with signed_in(server) as http:
        http.get("/")
        first = {each.name for each in http.cookies.jar if each.name.startswith("wheeltapper_visit_")}
        cookie = httpx.Client(base_url=server.url, cookies=http.cookies, trust_env=False)
        headers = cookie.get("/").headers["set-cookie"]
    assert "HttpOnly" in headers
    assert "SameSite=strict" in headers
    with signed_in(server, "viewer") as other:
        other.get("/")
        assert first.isdisjoint(each.name for each in other.cookies.jar)


def test_in_a_browser_it_is_live_and_one_click_acknowledges(server: AdminServer, tmp_path: Path) -> None:
    a_night(server)
    fan = list_shown(server.engine).items[0]
    out = Path(os.environ.get("WHEELTAPPER_TEST_IMAGES", tmp_path))
    with open_page() as page:
        page.emulate(1440, 1000)
        page.set_cookie(server.url, server.sign_in())
        page.open(server.url + "/")
        page.wait_for("document.getElementById('live')?.dataset.state === 'live'")
        page.png(out / "shift.png")
        keep_picture(page, "shift")
        assert serious_findings(page) == []
        page.evaluate("document.querySelector('[data-machine=fan] form').requestSubmit()")
        page.wait_for("document.querySelector('[data-machine=fan] .standing')?.textContent.includes('acknowledged')")
        page.wait_for("document.getElementById('live')?.dataset.state === 'live'")
        page.wait_for("Number(document.body.dataset.refreshed || 0) > 0")
        works, now = Works(server.engine), time.time()
        works.alert(now - 9000, "gw-77", moved="z.rms")
        works.turn(now)
        page.wait_for("document.querySelector('[data-machine=\"gw-77/main\"]') !== null")
        page.emulate(390, 844, dark=True, scale=2)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert serious_findings(page) == []
        page.png(out / "shift-phone.png")
        assert page.problems == []
    assert get_case(server.engine, fan.id).state == "acknowledged"


def test_many_devices_cost_no_more(server: AdminServer) -> None:
    """The statements and the page are bounded, however many devices come and go."""
    a_night(server)
    asked: list[str] = []
    readers = server.engine.get_execution_options().get("wheeltapper_readers", server.engine)

    @event.listens_for(readers, "before_cursor_execute")
    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    with signed_in(server) as http:
        http.get("/")
        asked.clear()
        few = len(http.get("/").content)
        statements = len(asked)
        rows = [{"id": f"far-{number:05}", "tags": {}, "online": False} for number in range(3000)]
        now = time.time()
        with server.engine.begin() as connection:
            connection.execute(insert(tables.devices), rows)
            record_connections(connection, [Change(str(each["id"]), False, "lost", "") for each in rows], now - 60)
        asked.clear()
        many = http.get("/")
    assert len(asked) == statements
    assert len(many.content) - few < 2000
    assert "500+" in " ".join(many.text.split())
    gone = gone_since(server.engine, now - 100)
    assert (len(gone.devices), gone.cut) == (500, True)


def test_cases_of_one_machine_are_one_line(server: AdminServer) -> None:
    a_day(server)
    cases = list_shown(server.engine).items
    other = cases[0].model_copy(update={"id": 99, "risk": 1.0})
    loose = cases[0].model_copy(update={"id": 98, "machine": None, "point": None})
    found = by_machine([*cases, other, loose])
    assert [(each.name, len(each.cases)) for each in found] == [("fan", 2), ("press", 1), (f"{loose.device}/main", 1)]


def test_what_to_do_follows_from_the_case(server: AdminServer) -> None:
    a_day(server)
    case = list_shown(server.engine).items[0]
    assert "inspect the machine today" in next_step(case)
    assert "release before" in next_step(case.model_copy(update={"kind": "release"}))
    assert "sensor" in next_step(case.model_copy(update={"label": "model.no_score"}))
    assert "back to normal" in next_step(case.model_copy(update={"raised": False}))
    assert "(WO-7)" in next_step(case.model_copy(update={"state": "in_work", "work_order": "WO-7"}))
    warned = case.model_copy(update={"severity": "warning"})
    assert "acknowledge it" in next_step(warned)
    assert "Plan the inspection" in next_step(warned.model_copy(update={"state": "acknowledged"}))
    assert "Nothing yet" in next_step(warned.model_copy(update={"attention": "waiting"}))
    assert next_step(case.model_copy(update={"state": "resolved"})) == ""

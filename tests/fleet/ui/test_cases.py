"""Pages of cases: ranked by risk with reasons, filtered, and acted on by forms in a real browser."""

from __future__ import annotations

import html
import os
import re
import time
from pathlib import Path

import httpx
import pytest
from sqlalchemy import event, select

from tests.browser import open_page
from tests.fleet.alerts.world import Works
from tests.fleet.api.harness import AdminServer
from tests.fleet.ui.axe import serious_findings
from tests.fleet.ui.pictures import keep_picture
from wheeltapper_fleet import tables
from wheeltapper_fleet.access.authenticator import Authenticator
from wheeltapper_fleet.access.sessions import COOKIE
from wheeltapper_fleet.alerts.service import Feedback
from wheeltapper_fleet.alerts.views import SHOWN, get_case, list_shown
from wheeltapper_protocols.wire.messages import Severity

EVIL = "<b onclick=\"document.title='owned'\">x</b>"


def a_day(server: AdminServer) -> Works:
    """A critical machine that was seen, a warning at another, one that cleared by itself, one that is young."""
    works, now = Works(server.engine), time.time()
    for device in ("gw-1", "gw-2", "gw-3", "gw-4"):
        server.add_device(device)
    works.alert(now - 7200, "gw-2", moved="hub.rms")
    works.alert(now - 3600, "gw-2", moved="hub.rms", severity=Severity.CRITICAL, score=3.1)
    works.alert(now - 5400, "gw-1", moved="x.rms")
    works.alert(now - 4000, "gw-3", moved="z.rms")
    works.alert(now - 3900, "gw-3", moved="z.rms", raised=False, score=0.4, severity=Severity.NORMAL)
    works.alert(now - 60, "gw-4", moved="z.rms")
    works.turn(now)
    server.add_scores("gw-1", [0.4 + 0.01 * index for index in range(120)], now=now - 10, pipeline="main")
    return works


def signed_in(server: AdminServer, *roles: str) -> httpx.Client:
    cookie = Authenticator(server.engine, time.time).sign_in(server.token_of(*roles)) if roles else server.sign_in()
    return httpx.Client(base_url=server.url, cookies={COOKIE: cookie}, trust_env=False, timeout=20)


def shown(text: str) -> list[str]:
    return [" ".join(each.split()) for each in re.findall(r'<h3><a href="/cases/\d+">(.*?)</a>', text, re.DOTALL)]


def test_the_list_ranks_filters_and_says_why(server: AdminServer) -> None:
    a_day(server)
    with signed_in(server) as http:
        people = http.get("/cases").text
        assert shown(people) == ["hub", "front"]
        assert "criticality of the machine: high" in people
        assert shown(http.get("/cases", params={"within": "press"}).text) == ["front"]
        assert shown(http.get("/cases", params={"within": "hub"}).text) == ["hub"]
        assert shown(http.get("/cases", params={"site": "elsewhere"}).text) == []
        handled = http.get("/cases", params={"show": "handled"}).text
        assert shown(handled) == ["gw-3/main"]
        assert "a single warning that cleared by itself after 1 minute" in handled
        assert shown(http.get("/cases", params={"show": "waiting"}).text) == ["gw-4/main"]
        assert shown(http.get("/cases", params={"show": "resolved"}).text) == ["gw-3/main"]
        unknown = http.get("/cases", params={"within": "nowhere"})
        assert unknown.status_code == 200
        assert "there is no asset" in unknown.text
        assert ">2<" in http.get("/fragments/totals").text, "two cases need a person"


def test_a_long_list_is_shown_page_by_page(server: AdminServer) -> None:
    works, now = Works(server.engine), time.time()
    for number in range(120):
        works.alert(now - 9000, f"gw-{number + 100}", moved="z.rms")
    works.turn(now)
    with signed_in(server) as http:
        seen, path = [], "/cases"
        for _ in range(3):
            text = http.get(path).text
            assert len(text) < 100_000
            seen.append(shown(text))
            following = re.search(r'rel="next" href="([^"]+)"', text)
            path = html.unescape(following[1]) if following else ""
        assert [len(each) for each in seen] == [50, 50, 20]
        assert len({name for each in seen for name in each}) == 120
        assert path == ""


def test_a_case_shows_evidence_and_takes_what_was_found(server: AdminServer, tmp_path: Path) -> None:
    a_day(server)
    front = next(case for case in list_shown(server.engine).items if case.point == "front")
    out = Path(os.environ.get("WHEELTAPPER_TEST_IMAGES", tmp_path))
    with open_page() as page:
        page.emulate(1440, 1000)
        page.call("Emulation.setTimezoneOverride", timezoneId="Europe/Berlin")
        page.set_cookie(server.url, server.sign_in())
        page.open(server.url + "/cases")
        page.wait_for("document.getElementById('live')?.dataset.state === 'live'")
        page.png(out / "cases.png")
        page.open(f"{server.url}/cases/{front.id}")
        page.wait_for("document.getElementById('live')?.dataset.state === 'live'")
        assert page.evaluate("document.querySelector('#case .alert td').textContent") == "x.rms overall vibration"
        assert page.evaluate("document.querySelectorAll('.curve .line').length") >= 1
        page.png(out / "case.png")
        page.evaluate("document.querySelector('[data-api$=acknowledge] button').click()")
        page.wait_for("document.querySelector('#case [data-state=acknowledged]') && document.readyState === 'complete'")
        page.evaluate("document.querySelector('[name=part]').value = 'outer race'")
        page.evaluate("document.querySelector('select[name=verdict]').value = 'true_fault'")
        page.evaluate("document.querySelector('[data-api$=resolve] [name=work_order]').value = 'WO-7'")
        page.evaluate("document.querySelector('[name=failed_at]').value = '2026-01-02T03:04:05'")
        page.evaluate("document.querySelector('[data-api$=resolve]').requestSubmit()")
        page.wait_for("document.querySelector('#case [data-state=resolved]') && document.readyState === 'complete'")
        assert page.problems == []
        page.emulate(390, 844, dark=True, scale=2)
        assert page.evaluate("document.documentElement.scrollWidth <= 390")
        assert page.evaluate("document.querySelector('.acts').getBoundingClientRect().left") < 30, "below, not over it"
        page.png(out / "case-phone.png")
        page.open(server.url + "/cases")
        assert page.evaluate("document.documentElement.scrollWidth <= 390")
        page.png(out / "cases-phone.png")
    done = get_case(server.engine, front.id)
    assert (done.state, done.verdict, done.part, done.work_order) == ("resolved", "true_fault", "outer race", "WO-7")
    assert done.failed_at == 1767323045.0 - 3600, "the form takes the reader's time, here an hour ahead of UTC"
    with server.engine.connect() as connection:
        labels = connection.execute(select(tables.labels.c.verdict, tables.labels.c.part)).all()
        audited = connection.execute(select(tables.audit.c.route, tables.audit.c.status)).all()
    assert [tuple(each) for each in labels] == [("true_fault", "outer race")]
    assert ("POST /cases/{case}/resolve", 200) in [tuple(each) for each in audited]


def test_a_case_shows_what_looked_alike_and_one_click_says_what_it_was(server: AdminServer) -> None:
    works, now = a_day(server), time.time()
    first = next(case for case in list_shown(server.engine).items if case.point == "front")
    works.cases.resolve(
        first.id, first.version, "ann", now, Feedback(verdict="true_fault", part="outer race", note="it was loud")
    )
    works.alert(now - 3000, "gw-6", moved="drive.rms")
    works.turn(now)
    again = next(case for case in list_shown(server.engine).items if case.device == "gw-6")
    server.insert(
        tables.captures, command="auto-6", device="gw-6", pipeline="main", sha256="0" * 64, length=1, snapshots=1,
        received_at=now - 2900,
    )  # fmt: skip
    with open_page() as page:
        page.emulate(1440, 1000)
        page.set_cookie(server.url, server.sign_in())
        page.open(f"{server.url}/cases/{first.id}")
        assert page.evaluate("document.querySelector('h1 a').getAttribute('href')") == "/machines/press#front"
        page.open(f"{server.url}/cases/{again.id}")
        shown = " ".join(page.evaluate("document.querySelector('.similar tbody').textContent").split())
        assert shown.startswith(f"{first.id}100 %true faultouter racefront")
        assert "it was loud" in shown
        assert page.evaluate("document.querySelector('a[href=\"/diagnosis/auto-6\"]') !== null")
        assert page.evaluate("document.querySelector('#case .todo').textContent").startswith("To do Look at its trend")
        assert serious_findings(page) == []
        keep_picture(page, "case")
        page.evaluate("document.querySelector('button[value=false_alarm]').click()")
        page.wait_for("document.querySelector('#case [data-state=resolved]') && document.readyState === 'complete'")
        page.emulate(390, 844)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert serious_findings(page) == []
        assert page.problems == []
    assert get_case(server.engine, again.id).verdict == "false_alarm"
    with server.http() as http:
        found = http.get(f"/api/v1/cases/{again.id}/similar").json()
    assert [(each["id"], each["agreement"], each["verdict"]) for each in found["similar"]] == [
        (first.id, 1.0, "true_fault")
    ]


def test_cases_change_on_the_screen_and_a_refusal_is_said(server: AdminServer) -> None:
    works, now = a_day(server), time.time()
    front = next(case for case in list_shown(server.engine).items if case.point == "front")
    with open_page() as page:
        page.set_cookie(server.url, server.sign_in())
        page.open(server.url + "/cases")
        page.wait_for("document.getElementById('live')?.dataset.state === 'live'")
        works.alert(now - 9000, "gw-9", moved="z.rms")
        works.turn(now)
        page.wait_for("document.querySelectorAll('#cases [data-case]').length === 3")
        assert page.problems == []
        page.open(f"{server.url}/cases/{front.id}")
        page.wait_for("document.getElementById('live')?.dataset.state === 'live'")
        works.cases.work(front.id, front.version, "ben", time.time(), "WO-1")
        page.wait_for("document.querySelector('#case [data-state=in_work]') !== null")
        page.wait_for("!document.getElementById('stale').hidden")
        page.evaluate("document.querySelector('[data-api$=acknowledge]').requestSubmit()")
        page.wait_for("document.querySelector('[data-api$=acknowledge] .acted').textContent.includes('is in_work')")


def test_a_viewer_sees_no_forms_and_a_form_needs_the_csrf_token(server: AdminServer) -> None:
    a_day(server)
    number = list_shown(server.engine).items[0].id
    with signed_in(server, "viewer") as http:
        assert "data-api" not in http.get(f"/cases/{number}").text
        assert http.get("/cases/999").status_code == 404
    with signed_in(server) as http:
        text = http.get(f"/cases/{number}").text
        body = {"expected_version": get_case(server.engine, number).version}
        path = f"/api/v1/cases/{number}/acknowledge"
        assert http.post(path, json=body).status_code == 401
        found = re.search(r'name="csrf" content="([0-9a-f]+)"', text)
        assert found is not None
        assert http.post(path, json=body, headers={"X-CSRF-Token": found[1]}).status_code == 200


def test_markup_in_a_case_is_shown_as_text(server: AdminServer) -> None:
    works = a_day(server)
    case = list_shown(server.engine).items[0]
    works.cases.comment(case.id, case.version, EVIL, time.time(), EVIL)
    with signed_in(server) as http:
        text = http.get(f"/cases/{case.id}").text
        assert EVIL not in text
        assert html.escape(EVIL, quote=False).split("=")[0] in text


@pytest.mark.parametrize("show", SHOWN)
def test_each_view_reads_an_index_in_its_order(server: AdminServer, show: str) -> None:
    """Neither all cases nor all open ones are read and sorted for a page of fifty."""
    asked: list[tuple[str, tuple[object, ...]]] = []

    readers = server.engine.get_execution_options().get("wheeltapper_readers", server.engine)

    @event.listens_for(readers, "before_cursor_execute")
    def note(connection: object, cursor: object, statement: str, parameters: tuple[object, ...], *_: object) -> None:
        asked.append((statement, parameters))

    list_shown(server.engine, show)
    list_shown(server.engine, show, site="works")
    statements = [each for each in asked if "FROM cases" in each[0]]
    event.remove(readers, "before_cursor_execute", note)
    assert len(statements) == 2
    with server.engine.connect() as connection:
        for statement, parameters in statements:
            plan = [str(row[-1]) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            assert not any("TEMP B-TREE" in step for step in plan), plan
            assert not any(step.startswith("SCAN cases") and "INDEX" not in step for step in plan), plan

"""Data and learning on the page: recordings, datasets, runs, policies, candidates."""

from __future__ import annotations

import re
from pathlib import Path

import httpx

from tests.browser import Page
from tests.fleet.api.harness import MODEL, AdminServer
from tests.fleet.ui import learned
from tests.fleet.ui.looks import asking, look
from wheeltapper_fleet.captures.rules import Capture
from wheeltapper_fleet.captures.store import insert_capture
from wheeltapper_fleet.learning.candidates.views import get_candidate
from wheeltapper_fleet.learning.policies.views import get_policy
from wheeltapper_fleet.learning.runs.service import report_progress
from wheeltapper_fleet.learning.runs.views import get_run

EVIL = "<img src=x onerror=\"document.title='owned'\">"


def test_from_data_to_a_run_to_its_end(server: AdminServer, tmp_path: Path, browser: Page) -> None:
    learned.datasets(server)
    learned.policy(server)
    one = learned.succeeded(server, tmp_path / "one", 1, 0.4)
    other = learned.succeeded(server, tmp_path / "other", 2, 0.3, policy="fan-speed")
    going = learned.run_under_way(server, 0.25)
    browser.set_cookie(server.url, server.sign_in())
    for name, path in {
        "data": "/data",
        "runs": "/data/runs",
        "run": f"/data/runs/{one}",
        "compare": f"/data/compare?run={one}&run={other}",
        "datasets": "/data/datasets",
        "dataset": "/data/datasets/fans",
        "diff": "/data/datasets/fans/diff?one=1&other=2",
        "recordings": "/data/recordings",
        "policies": "/data/policies",
        "policy": "/data/policies/fan-speed",
        "candidates": "/data/candidates",
        "candidate": f"/data/candidates/k-{other[2:]}",
    }.items():
        look(browser, server, path, f"data-{name}")

    browser.open(server.url + "/data")
    assert browser.evaluate("document.querySelector('#waiting [data-candidate]').dataset.candidate") == f"k-{other[2:]}"
    report_progress(server.engine, going, 1, progress=0.4, text="net 1 of 2", now=learned.AT + 505)
    browser.wait_for("document.querySelector('#going tbody td').textContent.includes('40 %')")
    report_progress(server.engine, going, 1, progress=0.25, text="net 1 of 2", now=learned.AT + 506)
    browser.evaluate(f"document.querySelector('#going [data-run={going}] a').click()")
    browser.wait_for("document.querySelector('#run .moved')?.getAttribute('width') === '25.0'")
    report_progress(server.engine, going, 1, progress=0.75, text="net 2 of 2", now=learned.AT + 510)
    browser.wait_for("document.querySelector('#run .moved').getAttribute('width') === '75.0'")
    assert "net 2 of 2" in browser.evaluate("document.querySelector('#run [role=status]').textContent")
    browser.evaluate("document.querySelector('summary').click()")
    browser.evaluate("document.querySelector('form.act button').click()")
    browser.wait_for("document.querySelector('#run [data-state]')?.dataset.state === 'CANCELLED'")
    assert get_run(server.engine, going).ended_by == "first"

    browser.open(f"{server.url}/data/runs/{one}")
    browser.evaluate("document.getElementById('make').requestSubmit()")
    browser.wait_for("document.getElementById('command') !== null")
    assert get_candidate(server.engine, f"k-{one[2:]}").policy == ""
    browser.open(server.url + "/data/runs")
    said = browser.evaluate(f"document.querySelector('[data-run={one}] .metric').textContent")
    assert said == "rmse 0.4"
    for run in (one, other):
        browser.evaluate(f"document.querySelector('input[value={run}]').click()")
    browser.evaluate("document.querySelector('form[action=\"/data/compare\"]').requestSubmit()")
    browser.wait_for("document.querySelectorAll('.compared thead a').length === 2")
    marked = browser.evaluate("[...document.querySelectorAll('tr.other th')].map(each => each.textContent)")
    assert marked == ["seed", "rmse", "seed", "model"]
    browser.wait_for(
        "[...document.images].every(each => each.complete && (each.naturalWidth > 0 || each.loading === 'lazy'))"
    )
    assert browser.problems == []


def test_a_policy_is_paused_and_a_candidate_is_rejected_with_a_reason(
    server: AdminServer, tmp_path: Path, browser: Page
) -> None:
    learned.policy(server)
    run = learned.succeeded(server, tmp_path / "one", 1, 0.4, policy="fan-speed")
    browser.emulate(390, 844)
    browser.set_cookie(server.url, server.sign_in())
    browser.open(server.url + "/data/policies/fan-speed")
    assert browser.evaluate("document.querySelector('.steps [aria-current]').textContent") == "watching"
    browser.evaluate("document.querySelector('form.act input').value = 'holidays'")
    browser.evaluate("document.querySelector('form.act').requestSubmit()")
    browser.wait_for("document.querySelector('[data-paused]')?.dataset.paused === 'yes'")
    assert get_policy(server.engine, "fan-speed").paused
    browser.evaluate("document.querySelector('[data-event] a[aria-label]').click()")
    browser.wait_for("document.querySelector('.happenings')?.textContent.includes('holidays')")
    assert browser.evaluate("document.querySelectorAll('.happenings > li').length") == 2

    browser.open(server.url + f"/data/candidates/k-{run[2:]}")
    command = browser.evaluate("document.getElementById('command').textContent")
    assert command == f"wheeltapper candidate approve k-{run[2:]} --key team.pem"
    browser.evaluate("document.querySelector('form.act input').value = 'too few machines'")
    browser.evaluate("document.querySelector('form.act').requestSubmit()")
    browser.wait_for("document.querySelector('section[data-state]')?.dataset.state === 'REJECTED'")
    found = get_candidate(server.engine, f"k-{run[2:]}")
    assert (found.state, found.why, found.decided_by) == ("REJECTED", "too few machines", "first")
    assert browser.problems == []


def test_who_may_not_do_a_thing_does_not_see_its_button(server: AdminServer, tmp_path: Path) -> None:
    learned.policy(server)
    run = learned.succeeded(server, tmp_path / "one", 1, 0.4, policy="fan-speed")
    going = learned.run_under_way(server, 0.25)
    paths = ("/data/policies/fan-speed", f"/data/candidates/k-{run[2:]}", f"/data/runs/{going}")
    wanted = {"viewer": [0, 0, 0], "operator": [1, 0, 0], "approver": [0, 1, 0], "release-manager": [1, 1, 1]}
    for role, counts in wanted.items():
        with asking(server, role) as client:
            assert [client.get(path).text.count("data-api=") for path in paths] == counts, role


def test_a_recording_is_followed_to_its_devices(server: AdminServer) -> None:
    learned.datasets(server)
    server.add_device("press-1")
    capture = Capture(
        command="cmd-1",
        device="press-1",
        pipeline="bearing",
        snapshots=6,
        sha256="ab" * 32,
        length=9000,
        received_at=1.79e9,
    )
    with server.engine.begin() as connection:
        insert_capture(connection, capture)
    with asking(server) as client:
        assert "ab" * 32 in client.get("/data/recordings").text
        assert "ab" * 32 in client.get("/data/recordings?device=press-1").text
        assert "ab" * 32 not in client.get("/data/recordings?device=press-2").text
        assert "/devices/press-1" in client.get(f"/data/recordings/{'ab' * 32}").text
        missing = client.get(f"/data/recordings/{'cd' * 32}")
        assert (missing.status_code, "lineage.recording" in missing.text) == (404, True)
        assert client.get("/data/datasets/nothing").status_code == 404
        assert client.get("/data/datasets/fans/diff?one=1&other=1").status_code == 400
        assert 'data-kind="added">1<' in client.get("/data/datasets/fans/diff?one=1&other=2").text


def test_a_hundred_runs_are_shown_and_compared_at_once(server: AdminServer) -> None:
    learned.many_runs(server, 130)
    with asking(server) as client:
        first = client.get("/data/runs").text
        assert len(re.findall("data-run=", first)) == 50
        assert len(first) < 60_000
        following = re.search(r'rel="next" href="([^"]+)"', first)
        assert following is not None
        second = client.get(following[1]).text
        assert not set(re.findall(r'data-run="([^"]+)"', first)) & set(re.findall(r'data-run="([^"]+)"', second))
        chosen = re.findall(r'data-run="([^"]+)"', first)
        compared = client.get("/data/compare", params={"run": chosen[:4]})
        assert compared.status_code == 200
        assert compared.text.count("<code>metric-") == 500
        assert len(compared.text) < 200_000
        for wrong in (chosen[:1], chosen[:5], []):
            assert client.get("/data/compare", params={"run": wrong}).status_code == 422
        assert client.get("/data/runs", params={"state": "SUCCEEDED", "model": MODEL}).text.count("data-run=") == 0


def test_markup_of_trainers_is_shown_as_text(server: AdminServer) -> None:
    run = learned.run_under_way(server, 0.5)
    report_progress(server.engine, run, 1, progress=0.5, text=EVIL, now=learned.AT + 502)
    with asking(server) as client:
        for path in (f"/data/runs/{run}", f"/fragments/run?run={run}"):
            text = client.get(path).text
            assert "<img src=x" not in text
            assert "&lt;img src=x" in text
    with httpx.Client(base_url=server.url, trust_env=False) as nobody:
        assert nobody.get(f"/fragments/run?run={run}").status_code == 401
        assert "sign-in" in nobody.get("/data").text

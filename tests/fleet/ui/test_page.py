"""The page in a real browser."""

from __future__ import annotations

import html
import math
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.browser import open_page, screenshot
from tests.fleet.api.harness import MODEL, AdminServer
from wheeltapper_fleet import tables
from wheeltapper_fleet.access.authenticator import Authenticator
from wheeltapper_fleet.access.sessions import COOKIE

EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>'\"&"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AdminServer]:
    with AdminServer(tmp_path / "data") as running:
        yield running


def fill(server: AdminServer) -> None:
    for number in range(1, 6):
        server.add_device(f"press-{number}", online=number != 4)
        scores = [0.45 + 0.12 * math.sin(index * 1.7 + number) for index in range(120)]
        if number == 2:
            scores = [score + max(0.0, index - 70) ** 2 / 1500 for index, score in enumerate(scores)]
        server.add_scores(f"press-{number}", scores, "critical" if number == 2 else "normal")
    reasons = [
        {"feature": "vibration.envelope_bpfo", "value": 0.81, "usual": 0.12, "share": 0.58},
        {"feature": "vibration.kurtosis", "value": 7.9, "usual": 3.1, "share": 0.27},
        {"feature": "vibration.band_2560_5120", "value": 0.052, "usual": 0.013, "share": 0.11},
    ]
    server.add_alert("press-2", reasons, severity="warning", score=1.12, at=1.79e9 - 60)
    server.add_alert("press-2", reasons, score=2.05)
    for number, (state, reason) in enumerate(
        [("COMPLETED", ""), ("PAUSED", "1 of 1 executed were refused in SELF_TEST (golden.output)"), ("RUNNING", "")]
    ):
        row = {"id": f"cmp-000{number}", "version": 3, "state": state, "reason": reason, "updated_at": 1.79e9}
        spec = {"model": MODEL, "release": number + 1}
        waves = [{"state": "FAILED" if number == 1 else "PASSED"}, {"state": ("PASSED", "PENDING", "RUNNING")[number]}]
        server.insert(tables.campaigns, **row, spec=spec, waves=waves, created_at=1.79e9 + number)
        states = (["COMMITTED"] * 5, ["REJECTED"], ["COMMITTED", "COMMITTED", "SELF_TEST", "PROBATION"])[number]
        for device, end in enumerate(states, start=1):
            execution = {"id": f"x{number}-{device}", "campaign": f"cmp-000{number}", "device": f"press-{device}"}
            server.insert(tables.executions, **execution, wave=device > 1, state=end, updated_at=1.79e9)


def test_the_page_shows_changes_live(server: AdminServer, tmp_path: Path) -> None:
    fill(server)
    out = Path(os.environ.get("WHEELTAPPER_TEST_IMAGES", tmp_path))
    with open_page() as page:
        page.emulate(1280, 800)
        page.open(server.url + "/")
        assert "Sign in" in page.evaluate("document.title")
        page.png(out / "sign-in.png")
        page.evaluate(f"document.getElementById('token').value = '{server.token}'")
        page.evaluate("document.querySelector('form').requestSubmit()")
        page.wait_for("document.title.startsWith('Shift')")
        page.open(server.url + "/devices")
        page.wait_for("document.getElementById('live')?.dataset.state === 'live'")
        page.wait_for("Number(document.body.dataset.refreshed || 0) > 0")
        assert page.evaluate("document.querySelectorAll('#devices .device').length") == 5
        assert server.token not in page.evaluate("document.cookie + document.documentElement.outerHTML")
        page.png(out / "page.png")
        server.add_device("press-6")
        server.add_alert("press-6", [], severity="warning")
        page.wait_for("document.querySelectorAll('#devices .device').length === 6")
        page.wait_for("document.querySelector('#alerts h3').textContent.includes('press-6')")
        assert page.evaluate("document.documentElement.scrollWidth <= 1280")
        page.emulate(390, 844, dark=True, scale=2)
        assert page.evaluate("document.documentElement.scrollWidth <= 390")
        page.png(out / "phone.png")
        assert page.problems == []


def test_markup_in_data_from_devices_is_shown_as_text(server: AdminServer, tmp_path: Path) -> None:
    status = {"pipelines": {EVIL: {"model": EVIL, "release": EVIL, "source": EVIL}}, "execution_state": EVIL}
    server.add_device("press-1", status={"pipelines": {"bearing": {"model": EVIL, "release": 1, "source": EVIL}}})
    server.add_device("press-2", status={**status, "pipelines": {EVIL: {"model": EVIL, "release": 2}}})
    server.add_scores("press-1", [0.1, float("1e308")], "critical")
    server.add_alert("press-1", [{"feature": EVIL, "value": 1.0, "usual": "x", "share": 7.0}], pipeline=EVIL[:60])
    row = {"id": "c1", "version": 1, "state": "PAUSED", "reason": EVIL, "created_at": 1e9, "updated_at": 1e9}
    server.insert(tables.campaigns, **row, spec={"model": EVIL, "release": EVIL}, waves=[EVIL])
    screenshot(server.url + "/devices", server.sign_in(), tmp_path / "page.png", dark=True)
    assert (tmp_path / "page.png").stat().st_size > 10_000
    with open_page() as page:
        page.set_cookie(server.url, server.sign_in())
        page.open(server.url + "/devices")
        page.wait_for("Number(document.body.dataset.refreshed || 0) > 0")
        assert page.evaluate("document.title") == "Devices · Wheeltapper"
        assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0
        assert EVIL in page.evaluate("document.querySelector('#alerts .reasons td').textContent")
        assert page.problems == []


def test_fragments_need_a_session(server: AdminServer) -> None:
    assert httpx.get(server.url + "/fragments/devices", trust_env=False).status_code == 401
    assert "sign-in" in httpx.get(server.url + "/", trust_env=False).text
    cookies = {"wheeltapper_session": server.sign_in()}
    assert httpx.get(server.url + "/fragments/base", cookies=cookies, trust_env=False).status_code == 404


def signed_in(server: AdminServer) -> httpx.Client:
    return httpx.Client(base_url=server.url, cookies={COOKIE: server.sign_in()}, trust_env=False, timeout=20)


def test_a_large_fleet_is_shown_page_by_page(server: AdminServer, tmp_path: Path) -> None:
    for number in range(130):
        server.add_device(f"press-{number:03}", online=number % 2 == 0)
    server.add_scores("press-007", [0.4, 1.31], "warning")
    with signed_in(server) as http:
        found = []
        path = "/devices"
        for _ in range(3):
            text = http.get(path).text
            found.append(re.findall(r'data-id="(press-\d+)"', text))
            following = re.search(r'rel="next" href="([^"]+)"', text)
            path = html.unescape(following[1]) if following else ""
        assert path == ""
        assert [len(names) for names in found] == [50, 50, 30]
        assert [name for names in found for name in names] == [f"press-{number:03}" for number in range(130)]
        shown = http.get("/devices", params={"q": 'not online and id like("press-00*")'}).text
        assert re.findall(r'data-id="(press-\d+)"', shown) == [f"press-00{number}" for number in (1, 3, 5, 7, 9)]
        wrong = http.get("/devices", params={"q": "online and and <i>"})
        assert wrong.status_code == 200
        assert 'role="alert"' in wrong.text
        assert "<i>" not in wrong.text
    out = Path(os.environ.get("WHEELTAPPER_TEST_IMAGES", tmp_path))
    with open_page() as page:
        page.emulate(1280, 800)
        page.set_cookie(server.url, server.sign_in())
        page.open(server.url + "/devices")
        page.wait_for("document.getElementById('live')?.dataset.state === 'live'")
        row = "document.querySelector('[data-id=press-007]')"
        assert page.evaluate(f"{row}.dataset.severity") == "warning"
        server.add_scores("press-008", [0.4, 2.5], "critical")
        page.wait_for("document.querySelector('[data-id=press-008]').dataset.severity === 'critical'")
        assert page.evaluate("document.querySelector('[data-id=press-008] [data-field=score]').textContent") == "2.50"
        assert page.evaluate("document.documentElement.scrollWidth <= 1280")
        page.png(out / "list.png")
        assert page.problems == []


def test_a_device_and_a_campaign_have_pages(server: AdminServer, tmp_path: Path) -> None:
    fill(server)
    with signed_in(server) as http:
        device = http.get("/devices/press-2").text
        assert "hall-1" in device
        assert 'class="line"' in device
        campaign = http.get("/campaigns/cmp-0001").text
        assert "REJECTED" in campaign
        assert 'data-action="resume"' in campaign
        only = http.get("/campaigns/cmp-0002", params={"state": "PROBATION"}).text
        assert re.findall(r'<th scope="row"><a href="/devices/([^"]+)"', only) == ["press-4"]
        assert http.get("/devices/nothing").status_code == 404
        assert http.get("/campaigns/nothing").status_code == 404
        cookie = Authenticator(server.engine, time.time).sign_in(server.token_of("viewer"))
        seen = httpx.get(f"{server.url}/campaigns/cmp-0001", cookies={COOKIE: cookie}, trust_env=False).text
        assert "data-action" not in seen
    out = Path(os.environ.get("WHEELTAPPER_TEST_IMAGES", tmp_path))
    with open_page() as page:
        page.emulate(1280, 800)
        page.set_cookie(server.url, server.sign_in())
        page.open(server.url + "/devices/press-2")
        page.wait_for("document.getElementById('live')?.dataset.state === 'live'")
        page.png(out / "device.png")
        page.open(server.url + "/campaigns/cmp-0001")
        page.wait_for("document.getElementById('live')?.dataset.state === 'live'")
        page.png(out / "campaign.png")
        page.evaluate("document.querySelector('[data-action=resume]').click()")
        page.wait_for("document.querySelector('[data-action=pause]') !== null")
        assert page.problems == []

"""The page in a real browser."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.browser import open_page, screenshot
from tests.fleet.api.harness import MODEL, AdminServer
from wheeltapper_fleet import tables

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
    server.add_scores("press-1", [0.1, float("1e308")], EVIL[:16])
    server.add_alert("press-1", [{"feature": EVIL, "value": 1.0, "usual": "x", "share": 7.0}], pipeline=EVIL[:60])
    row = {"id": "c1", "version": 1, "state": "PAUSED", "reason": EVIL, "created_at": 1e9, "updated_at": 1e9}
    server.insert(tables.campaigns, **row, spec={"model": EVIL, "release": EVIL}, waves=[EVIL])
    screenshot(server.url + "/", server.sign_in(), tmp_path / "page.png", dark=True)
    assert (tmp_path / "page.png").stat().st_size > 10_000
    with open_page() as page:
        page.set_cookie(server.url, server.sign_in())
        page.open(server.url + "/")
        page.wait_for("Number(document.body.dataset.refreshed || 0) > 0")
        assert page.evaluate("document.title") == "Fleet · Wheeltapper"
        assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0
        assert EVIL in page.evaluate("document.querySelector('#alerts .reasons td').textContent")
        assert page.problems == []


def test_fragments_need_a_session(server: AdminServer) -> None:
    assert httpx.get(server.url + "/fragments/devices", trust_env=False).status_code == 401
    assert "sign-in" in httpx.get(server.url + "/", trust_env=False).text
    cookies = {"wheeltapper_session": server.sign_in()}
    assert httpx.get(server.url + "/fragments/base", cookies=cookies, trust_env=False).status_code == 404

"""What all pages have: the way between them, times in the reader's zone, and nothing that axe-core calls serious."""

from __future__ import annotations

import re
import time
from pathlib import Path

import httpx
import pytest

from tests.browser import open_page
from tests.fleet.alerts.world import Works
from tests.fleet.api.harness import AdminServer
from tests.fleet.ui.axe import serious_findings
from tests.fleet.ui.test_page import fill
from wheeltapper_fleet.access.sessions import COOKIE
from wheeltapper_fleet.ui.navigation import NAVIGATION, Entry, is_current
from wheeltapper_fleet.ui.rendering import FOLDER, template
from wheeltapper_fleet.ui.words import feature_words, ordinal, score_words, zone_words

PAGES = [
    "/cases?show=open",
    "/cases/1",
    "/devices/press-2",
    "/campaigns/cmp-0001",
    "/why/press-2",
    "/devices/press-2/log",
]


def filled(server: AdminServer) -> None:
    fill(server)
    works, now = Works(server.engine), time.time()
    works.alert(now - 7200, "press-2", moved="vibration.bpfo_3", pipeline="bearing")
    works.turn(now)


def test_every_page_is_clear_to_everybody(server: AdminServer) -> None:
    """axe-core, light on a desk and dark on a phone; nothing overflows, and the console says nothing."""
    filled(server)
    with open_page() as page:
        page.open(server.url + "/")
        assert serious_findings(page) == [], "the form to sign in"
        page.set_cookie(server.url, server.sign_in())
        for path in [*(entry.path for entry in NAVIGATION), *PAGES]:
            page.emulate(1440, 900)
            page.open(server.url + path)
            assert page.evaluate("document.querySelector('h1') !== null"), path
            assert serious_findings(page) == [], path
            page.emulate(390, 844, dark=True)
            assert serious_findings(page) == [], f"{path} on a phone"
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        page.evaluate("document.querySelector('main').innerHTML = '<img src=\"/static/icon.svg\"><button></button>'")
        assert len(serious_findings(page)) == 2, "it sees what is wrong"
        assert page.problems == []


def test_the_header_folds_on_a_phone_and_works_by_keyboard(server: AdminServer) -> None:
    def key(name: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if name == "Enter" and kind == "keyDown" else {}
            page.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code, **text)

    shown = "getComputedStyle(document.getElementById('pages')).display !== 'none'"
    with open_page() as page:
        page.set_cookie(server.url, server.sign_in())
        page.emulate(1440, 900)
        page.open(server.url + "/cases")
        assert page.evaluate(shown)
        assert page.evaluate("document.querySelector('nav [aria-current=page]').textContent") == "Cases"
        page.emulate(390, 844)
        assert not page.evaluate(shown)
        key("Tab", 9)
        assert page.evaluate("document.activeElement.className") == "skip"
        assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0, "it is seen when it is reached"
        key("Enter", 13)
        page.wait_for("location.hash === '#main' && document.activeElement.id === 'main'")
        page.evaluate("document.getElementById('menu').focus()")
        key("Enter", 13)
        assert page.evaluate(shown)
        assert page.evaluate("document.getElementById('menu').getAttribute('aria-expanded')") == "true"
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        key("Escape", 27)
        assert not page.evaluate(shown)
        assert page.evaluate("document.activeElement.id") == "menu"
        assert page.problems == []


def test_times_are_in_the_readers_zone(server: AdminServer) -> None:
    """Summer time of 2026 in New York is four hours behind UTC; without scripts a page says that its times are UTC."""
    server.add_device("press-1", last_seen_at=1782907200.0)
    with open_page() as page:
        page.set_cookie(server.url, server.sign_in())
        page.call("Emulation.setTimezoneOverride", timezoneId="America/New_York")
        page.open(server.url + "/devices/press-1")
        seen = "[...document.querySelectorAll('time')].find((each) => each.dateTime === '2026-07-01T12:00:00Z')"
        assert page.evaluate(f"{seen}.textContent") == "2026-07-01 08:00:00"
        assert page.evaluate(f"{seen}.title") == "2026-07-01 12:00:00 UTC"
        assert "America/New_York" in page.evaluate("document.querySelector('footer').textContent")
    with httpx.Client(cookies={COOKIE: server.sign_in()}, trust_env=False) as http:
        text = http.get(f"{server.url}/devices/press-1").text
    assert '<time datetime="2026-07-01T12:00:00Z">2026-07-01 12:00:00</time>' in text
    assert "Times are UTC." in text


def test_each_page_has_the_script_once_and_somewhere_to_skip_to() -> None:
    """Twice, and each form would be sent twice."""
    for file in Path(FOLDER / "templates").glob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert text.count('src="/static/page.js"') == (file.name == "base.html"), file.name
        assert "<main" not in text or 'id="main"' in text, file.name
        assert "<time>" not in text, f"{file.name}: the filter `moment` writes times"


def test_entries_are_current_on_their_pages_and_below() -> None:
    fleet, devices = Entry("/", "Fleet"), Entry("/devices", "Devices", ("/why",))
    assert [is_current(fleet, here) for here in ("/", "/devices", "/cases/1")] == [True, False, False]
    found = [is_current(devices, here) for here in ("/devices", "/devices/a/log", "/why/a", "/devices-x", "/")]
    assert found == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("drive.bpfo", "outer race"),
        ("drive end.bpfi_3", "inner race, 3rd harmonic"),
        ("vibration.envelope_bpfo", "outer race"),
        ("x.kurtosis", "impulsiveness (how rare and high the impacts are)"),
        ("x.band_2560_5120", "vibration from 2.56 kHz to 5.12 kHz"),
        ("x.band_0_100_hz", "vibration from 0 Hz to 100 Hz"),
        ("x.envelope_0.5_25_hz", "repeated impacts from 0.5 Hz to 25 Hz"),
        ("iso20816.x.velocity_mm_s", "vibration velocity by ISO 20816"),
        ("outer race (BPFO 104.6 Hz, 3 harmonics)", ""),
        ("speed", ""),
        ("", ""),
    ],
)
def test_features_in_words(name: str, said: str) -> None:
    assert feature_words(name) == said


def test_scores_and_zones_in_words() -> None:
    assert score_words(0.2) == "as usual"
    assert score_words(0.82) == "above the usual, at 82 % of the warning threshold"
    assert score_words(1.0) == "at the warning threshold"
    assert score_words(3.14) == "3.1 times the warning threshold"
    assert "no score" in score_words(None)
    assert "no score" in score_words(float("nan"))
    assert zone_words("C") == "may run for a limited time only"
    assert zone_words(None) == ""
    assert [ordinal(number) for number in (1, 2, 3, 4, 11, 12, 13, 21, 102)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd"
    ]  # fmt: skip


def test_a_form_names_its_request(server: AdminServer) -> None:
    """The macro that pages make forms with, as the script reads it."""
    from wheeltapper_fleet.ui.rendering import _TEMPLATES

    made = _TEMPLATES.from_string(
        "{% from 'form.html' import act %}{% call act('/api/v1/x', 'Go', version=3, confirm='Sure?') %}"
        '<input name="a">{% endcall %}'
    ).render()
    assert re.search(r'<form class="act" data-api="/api/v1/x" data-version="3" data-confirm="Sure\?">', made)
    assert '<input name="a">' in made
    assert "csrf" in template("base.html", csrf="0123")

"""The page of a device: twin, what it reported, commands with answers, when it came and went, what was done to it."""

from __future__ import annotations

import html
import os
import re
import time
from pathlib import Path
from typing import Any

import httpx

from tests.browser import open_page
from tests.fleet.api.harness import MODEL, AdminServer
from wheeltapper_fleet.access.authenticator import Authenticator
from wheeltapper_fleet.access.sessions import COOKIE
from wheeltapper_fleet.devices.commands import answer_command, create_command, list_commands
from wheeltapper_fleet.devices.connections import Change, record_connections
from wheeltapper_fleet.devices.log import Entry, write_log
from wheeltapper_fleet.devices.settings import change_settings, get_settings

LONG = "press-with-a-name-that-is-as-long-as-a-name-may-be-in-this-flee"


def a_device(server: AdminServer, name: str = "press-1") -> None:
    status: dict[str, Any] = {"online": True, "at": 1.79e9, "profile": "raspberry-pi-4", "agent_version": "0.9.1"}
    status |= {"pipelines": {"bearing": {"model": MODEL, "release": 1, "windows": 9}}}
    status |= {"settings_version": 1, "settings": {"log_level": "INFO", "batch_seconds": 5.0}}
    status |= {"captures": {"sent_bytes": 64 * 2**20, "limit_bytes": 256 * 2**20, "waiting": 3}}
    status |= {"attributes": {"os": "Debian GNU/Linux 12", "lib.numpy": "2.1.0"}}
    server.add_device(name, status=status)
    now = time.time()
    change_settings(server.engine, name, {"log_level": "DEBUG"}, who="ann", why="a fault is looked for", now=now)
    done = create_command(server.engine, name, {"type": "diagnostics"}, now=now - 60, who="ann")
    create_command(server.engine, name, {"type": "restart-pipeline", "pipeline": "bearing"}, now=now, who="ben")
    with server.engine.begin() as connection:
        answer_command(connection, name, done, {"code": "diagnostics.failed", "detail": "no room"}, now)
        for number in range(60):
            online = number % 2 == 0
            reason = "connected" if online else "lost"
            record_connections(connection, [Change(name, online, reason, "10.0.0.7")], now + number)
        write_log(connection, [Entry(name, "quarantine", "quarantined", "", "it smells")], "ann", now)


def cookie_of(server: AdminServer, *roles: str) -> dict[str, str]:
    return {COOKIE: Authenticator(server.engine, time.time).sign_in(server.token_of(*roles))}


def test_the_page_tells_what_was_asked_and_what_came_of_it(server: AdminServer) -> None:
    a_device(server)
    with httpx.Client(base_url=server.url, cookies=cookie_of(server, "viewer"), trust_env=False) as http:
        text = " ".join(http.get("/devices/press-1").text.split())
        for said in (
            "version 1 of 2",
            "<td>DEBUG</td>",
            "not yet",
            "64.0 of 256.0 MB sent, 3 wait",
            "raspberry-pi-4",
            "diagnostics.failed no room",
            "restart pipeline bearing",
            "it smells",
            "10.0.0.7",
        ):
            assert said in text, said
        assert "data-api" not in text, "a viewer changes nothing"
        assert len(text) < 60_000
        more = " ".join(http.get("/fragments/device-more", params={"device": "press-1"}).text.split())
        assert "diagnostics.failed no room" in more
        assert http.get("/devices/press-1/nothing").status_code == 404
        assert http.get("/devices/nothing/log").status_code == 404


def test_its_lists_are_shown_page_by_page(server: AdminServer) -> None:
    a_device(server)
    with httpx.Client(base_url=server.url, cookies=cookie_of(server, "viewer"), trust_env=False) as http:
        first = http.get("/devices/press-1/connections").text
        assert first.count("10.0.0.7") == 50
        following = re.search(r'rel="next" href="([^"]+)"', first)
        assert following is not None
        assert http.get(html.unescape(following[1])).text.count("10.0.0.7") == 10
        assert "it smells" in http.get("/devices/press-1/log").text
        assert "no room" in http.get("/devices/press-1/commands").text


def test_a_twin_without_what_a_device_does_not_say(server: AdminServer) -> None:
    server.add_device("old", status={"pipelines": {}, "captures": {"sent_bytes": "many"}})
    assert get_settings(server.engine, "old").captures is None
    with server.http() as http:
        assert http.get("/api/v1/devices/old/settings").json()["captures"] is None
    a_device(server)
    found = get_settings(server.engine, "press-1").captures
    assert found is not None
    assert (found.sent_bytes, found.limit_bytes, found.waiting, found.at) == (64 * 2**20, 256 * 2**20, 3, 1.79e9)


def test_forms_want_settings_and_ask_for_something(server: AdminServer, tmp_path: Path) -> None:
    a_device(server, LONG)
    out = Path(os.environ.get("WHEELTAPPER_TEST_IMAGES", tmp_path))
    with open_page() as page:
        page.emulate(1440, 1800)
        page.set_cookie(server.url, server.sign_in())
        page.open(f"{server.url}/devices/{LONG}")
        page.wait_for("document.getElementById('live')?.dataset.state === 'live'")
        page.png(out / "device-whole.png")
        form = "document.querySelector('[data-wrap=settings]')"
        page.evaluate(f"{form}.status_seconds.value = '12'")
        page.evaluate(f"{form}.log_level.value = ''")
        page.evaluate("window.before = true")
        page.evaluate(f"{form}.requestSubmit()")
        page.wait_for("window.before === undefined && document.readyState === 'complete'")
        wanted = {name: each.value for name, each in get_settings(server.engine, LONG).desired.items()}
        assert wanted == {"log_level": None, "status_seconds": 12.0}, "what was not changed is not wanted"
        page.evaluate(f"{form}.status_seconds.value = '0.5'")
        page.evaluate(f"{form}.requestSubmit()")
        page.wait_for(f"{form}.querySelector('.acted').textContent.includes('status_seconds')")
        page.evaluate("window.before = true")
        page.evaluate("document.querySelector('[data-api$=captures]').requestSubmit()")
        page.wait_for("window.before === undefined && document.readyState === 'complete'")
        asked = [each.type for each in list_commands(server.engine, LONG, time.time()).items]
        assert asked[0] == "capture"
        page.emulate(390, 844, scale=2)
        assert page.evaluate("document.documentElement.scrollWidth <= 390")
        page.png(out / "device-phone.png")


def test_the_page_tells_what_a_device_learnt_of_its_machine(server: AdminServer) -> None:
    shift = {"feature": "rms(x)", "shift": 2.25, "ratio": 1.5, "limited": True}
    learned = {"phase": "learned", "learned": 300, "windows": 300, "limited": 1, "features": [shift]}
    of: dict[str, Any] = {
        "a": {"baseline": learned, "partly_scored": 7, "unknown_conditions": 12},
        "b": {"baseline": {"phase": "learning", "learned": 40, "windows": 160, "outside": 3}},
        "c": {"baseline": {"phase": "refused", "outside": 51}},
        "d": {"partly_scored": 5},
        "e": {},
    }
    pipelines = {name: {"model": MODEL, "release": 1, "windows": 9, **said} for name, said in of.items()}
    server.add_device("press-1", status={"online": True, "at": 1.79e9, "pipelines": pipelines})
    with httpx.Client(base_url=server.url, cookies=cookie_of(server, "operator"), trust_env=False) as http:
        text = " ".join(http.get("/devices/press-1").text.split())
        for said in (
            "learned from 300 windows; 1 of its features differ more than the release allows",
            "<code>rms(x)</code> +2.2, spread ×1.5 (held)",
            '<td class="n">7</td><td class="n">12</td>',
            "learning: 40 of 160 windows, 3 were far outside or not healthy",
            'width="25.0"',
            "refused: 51 windows",
            "none: the release learns none",
            "Reset baseline",
        ):
            assert said in text, said
        assert text.count("data-phase=") == 4, "of a pipeline without a word of it, nothing is shown"
        server.add_device("press-2", status={"online": True, "at": 1.79e9})
        assert "What its scores stand on" not in http.get("/devices/press-2").text
        again = http.get("/fragments/device", params={"device": "press-1"}).text
        assert "refused: 51 windows" in again

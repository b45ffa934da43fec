"""How pages look: nothing overflows on a phone or a desk, whatever the names are; text can be read in light and dark;
no view grows with the fleet."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert

from tests.browser import open_page
from tests.fleet.alerts.world import Works
from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet import tables
from wheeltapper_fleet.access.sessions import COOKIE
from wheeltapper_fleet.ui.rendering import FOLDER

LONG = "a-name-that-goes-on-for-as-long-as-a-name-may-go-on-in-a-fleet"
BACKGROUNDS = ("bg", "card", "track", "warm", "hot")
TEXTS = ("ink", "soft", "accent", "good", "warn", "bad")


def colours() -> list[dict[str, str]]:
    """The colours of both schemes, by name: first light, then dark."""
    blocks = re.findall(r":root {(.*?)}", (FOLDER / "static" / "page.css").read_text(encoding="utf-8"), re.DOTALL)
    return [dict(re.findall(r"--(\w+): (#[0-9a-f]+)", block)) for block in blocks]


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    digits = colour.removeprefix("#")
    digits = "".join(2 * each for each in digits) if len(digits) == 3 else digits
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("text", TEXTS)
def test_every_text_can_be_read_on_every_background(scheme: int, text: str) -> None:
    found = colours()[scheme]
    for background in BACKGROUNDS:
        dark, light = sorted((luminance(found[text]), luminance(found[background])))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{text} on {background}: WCAG 2.2 AA, 1.4.3"


def a_large_fleet(server: AdminServer, count: int) -> None:
    """Devices with the longest names, cases at them, and a campaign of a hundred waves."""
    pipelines = {f"{LONG[:50]}-{number}": {"model": LONG, "release": 999_999_999} for number in range(2)}
    row: dict[str, Any] = {"tags": {}, "site": "a site with a name that is rather long " * 3, "enrolled_at": 1.79e9}
    row |= {"certificate_sha256": "0" * 64, "online": True, "counter": 1, "last_seen_at": 1.79e9}
    row |= {"status": {"pipelines": pipelines, "execution_state": "ROLLING_BACK"}, "certificate_expires_at": 1.8e9}
    rows = [{**row, "id": f"{LONG[:57]}-{number:05}", "site": row["site"][:120]} for number in range(count)]
    with server.engine.begin() as connection:
        connection.execute(insert(tables.devices), rows)
    works, now = Works(server.engine), time.time()
    for number in range(60):
        works.alert(now - 9000, f"{LONG[:57]}-{number:05}", moved=f"{LONG}.rms", pipeline=LONG, model=LONG)
    works.turn(now)
    waves = [{"state": "PASSED" if number < 40 else "PENDING", "since": 1.0} for number in range(100)]
    spec = {"model": LONG, "release": 1, "waves": [{"count": 1}] * 99 + [{}]}
    for number in range(12):
        same = {"id": f"cmp-{number}", "version": 1, "state": "RUNNING", "reason": "", "updated_at": 1e9}
        server.insert(tables.campaigns, **same, spec=spec, waves=waves, created_at=1e9 + number)
        tallies = [
            {"campaign": f"cmp-{number}", "wave": wave, "state": state, "n": 1000, "assigned": 1000}
            for wave in range(100)
            for state in ("COMMITTED", "FAILED", "REJECTED", "ROLLED_BACK", "PROBATION", "FETCHING")
        ]
        with server.engine.begin() as connection:
            connection.execute(insert(tables.campaign_tallies), tallies)


def test_no_view_grows_with_the_fleet(server: AdminServer) -> None:
    sizes: list[list[int]] = []
    paths = [
        "/",
        "/devices",
        "/cases",
        "/cases?show=open",
        "/cases/1",
        f"/devices/{LONG[:57]}-00001",
        "/campaigns/cmp-1",
    ]
    with httpx.Client(base_url=server.url, trust_env=False, cookies={COOKIE: server.sign_in()}, timeout=30) as http:
        a_large_fleet(server, 1000)
        sizes.append([len(http.get(path).content) for path in paths])
        more = [{"id": f"z-{number:05}", "tags": {}, "online": False} for number in range(4000)]
        with server.engine.begin() as connection:
            connection.execute(insert(tables.devices), more)
        sizes.append([len(http.get(path).content) for path in paths])
    assert max(sizes[0]) < 300_000, dict(zip(paths, sizes[0], strict=True))
    for path, few, many in zip(paths, *sizes, strict=True):
        assert abs(many - few) < 2000, path


def test_nothing_overflows(server: AdminServer, tmp_path: Path) -> None:
    a_large_fleet(server, 1000)
    out = Path(os.environ.get("WHEELTAPPER_TEST_IMAGES", tmp_path))
    paths = {
        "shift": "/",
        "devices": "/devices",
        "cases": "/cases",
        "case": "/cases/1",
        "device": f"/devices/{LONG[:57]}-00001",
    }
    paths |= {"campaign": "/campaigns/cmp-1", "why": f"/why/{LONG[:57]}-00001", "none": "/cases?show=resolved"}
    with open_page() as page:
        page.set_cookie(server.url, server.sign_in())
        for name, path in paths.items():
            page.emulate(390, 844)
            page.open(server.url + path)
            for width, dark in ((390, False), (1440, True)):
                page.emulate(width, 844 if width == 390 else 1000, dark=dark)
                assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} at {width}"
                page.png(out / f"large-{name}-{width}.png")
        assert page.problems == []

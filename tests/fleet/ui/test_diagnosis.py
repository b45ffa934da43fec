"""Diagnosis of recordings: markers that move with the speed, zoom, two beside each other, a waterfall, listening."""

from __future__ import annotations

import html
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser import open_page
from tests.fleet.api.harness import MODEL, AdminServer
from tests.fleet.ui.axe import serious_findings
from tests.fleet.ui.pictures import keep_picture
from tests.fleet.ui.recordings import BPFO_HZ, RATE_HZ, SHAFT_HZ, a_bearing, keep, worn
from tests.fleet.ui.test_cases import signed_in
from wheeltapper_fleet import tables
from wheeltapper_fleet.assets.schemas import Bearing
from wheeltapper_fleet.captures.diagnosis import MOST_BYTES
from wheeltapper_fleet.ui.spectrum_chart import MOST_HARMONICS, MOST_SIDES, WIDTH, faults_of, markers

CLASS = {"iso20816": {"group": 2, "foundation": "rigid"}}


def a_life(server: AdminServer) -> None:
    """A bearing whose outer race gets worse over six recordings."""
    a_bearing(server, **CLASS)
    now = time.time()
    for number in range(6):
        keep(server, f"auto-{number:016x}", worn(0.4 * number, seed=number), now - 86_400 * (6 - number))


def text_of(page: str) -> str:
    return html.unescape(" ".join(re.sub(r"<[^>]+>", " ", page).split()))


def test_it_says_what_the_envelope_says(server: AdminServer) -> None:
    a_life(server)
    with signed_in(server, "viewer") as http:
        bad = text_of(http.get("/diagnosis/auto-0000000000000005").text)
        assert re.search(r"outer race BPFO 104\.6 Hz 10[3-6][.\d]* Hz stands out, [\d.]+ times noise", bad)
        assert len(re.findall("stands out, ", bad)) == 1
        assert "cage FTF 11.62 Hz – the windows are too short to tell" in bad
        assert "Speed 1750 rpm from the point" in bad
        assert re.search(r"Velocity by ISO 20816 [\d.]+ mm/s RMS zone [A-D] ", bad)
        good = text_of(http.get("/diagnosis/auto-0000000000000000").text)
        assert "stands out, " not in good
        asked = http.get("/diagnosis/auto-0000000000000005", params={"rpm": "900", "channel": "1"})
        assert "The speed is" not in asked.text
        assert "The bearing is not known" in asked.text, "no point is measured by the channel y"
        assert http.get("/diagnosis/nothing").status_code == 404
        for nonsense in ({"low": "x", "high": "nan"}, {"low": "9", "high": "3"}, {"carrier_low": "1e9"}, {"rpm": "-1"}):
            assert http.get("/diagnosis/auto-0000000000000005", params=nonsense).status_code == 200, nonsense


def test_a_part_of_the_spectrum_is_drawn_from_all_its_bins(server: AdminServer) -> None:
    a_bearing(server)
    keep(server, "auto-00000000000000aa", worn(1.0, snapshots=1, samples=65_536), time.time())
    with signed_in(server) as http:
        whole = http.get("/diagnosis/auto-00000000000000aa").text
        part = http.get("/diagnosis/auto-00000000000000aa", params={"low": "25", "high": "34"}).text
    assert len(whole.encode()) < 400_000
    lines = re.findall(r'data-low="([\d.]+)" data-high="([\d.]+)".*?class="line" points="([^"]+)"', part, re.DOTALL)
    assert lines[0][:2] == ("25.0", "34.0")
    points = [tuple(map(float, each.split(","))) for each in lines[0][2].split()]
    assert len(points) >= 9 / (RATE_HZ / 65_536) - 2, "a bin is 0.2 Hz"
    highest = min(points, key=lambda point: point[1])
    assert 25 + highest[0] / WIDTH * 9 == pytest.approx(SHAFT_HZ, abs=0.3), "the shaft"


def test_where_bearing_and_speed_are_known_from(server: AdminServer) -> None:
    """A channel, a tag, the recording's meta and the release say the speed; the release may know the bearing."""
    a_bearing(server, speed={"kind": "channel", "name": "y"})
    speed = np.full((2, 512), 25.0, dtype=np.float32)
    samples = np.stack([worn(1.0, 2, 512), speed], axis=2)
    keep(server, "auto-1", speed, 1.79e9 + 1e8, samples=samples, units=("g", "Hz"))
    keep(server, "auto-2", worn(1.0, 2, 512), 1.79e9 + 1e8, channels=("x", "z"), meta={"rpm": 1200})
    with signed_in(server) as http:
        assert "Speed 1500 rpm from the channel y" in text_of(http.get("/diagnosis/auto-1").text)
        assert "Speed 1200 rpm from the recording" in text_of(http.get("/diagnosis/auto-2").text)
        assert "Speed 600 rpm from you" in text_of(http.get("/diagnosis/auto-2", params={"rpm": "600"}).text)
    server.add_device("gw-2")
    server.add_scores("gw-2", [0.1, 0.2], pipeline="main")
    manifest: dict[str, Any] = {
        "bearing": {"geometry": {}, "shaft_hz": 20.0, "carrier_low_hz": 1, "carrier_high_hz": 9}
    }
    row = {"model": MODEL, "release": 1, "path": "p", "sha256": "1" * 64, "length": 1, "manifest": manifest}
    server.insert(tables.releases, **row, published_at=1.0, published_by="ann")
    keep(server, "auto-3", worn(1.0, 2, 512), 1.79e9, device="gw-2")
    with signed_in(server) as http:
        assert "Speed 1200 rpm from the release; bearing from the release" in text_of(
            http.get("/diagnosis/auto-3").text
        )


def test_recordings_that_cannot_be_looked_at_are_refused(server: AdminServer) -> None:
    a_bearing(server)
    now = time.time()
    keep(server, "auto-1", worn(1.0, 2, 512), now)
    row = {"device": "gw-1", "pipeline": "main", "snapshots": 1, "received_at": now}
    server.insert(tables.captures, **row, command="auto-large", sha256="1" * 64, length=MOST_BYTES + 1)
    server.insert(tables.captures, **row, command="auto-gone", sha256="2" * 64, length=1)
    server.insert(tables.captures, **row, command="auto-broken", sha256="3" * 64, length=1)
    (server.data_dir / "captures" / f"{'3' * 64}.npz").write_bytes(b"nothing")
    with signed_in(server) as http:
        for name, code in (("large", "too_large"), ("gone", "not_found"), ("broken", "invalid")):
            assert http.get(f"/diagnosis/auto-{name}").json()["code"] == f"capture.{code}"
            assert "problem" in http.get("/diagnosis/auto-1", params={"beside": f"auto-{name}"}).text
        shown = text_of(http.get("/diagnosis/auto-1/waterfall").text)
        assert "1 recordings, the oldest at the back" in shown
        assert "3 recordings could not be shown" in shown
        assert http.get("/diagnosis/auto-1/sound.wav", params={"channel": "7"}).status_code == 404
        heard = http.get("/diagnosis/auto-1/sound.wav")
        assert (heard.headers["content-type"], heard.content[:4]) == ("audio/wav", b"RIFF")
        http.cookies.clear()
        assert http.get("/diagnosis/auto-1/sound.wav").status_code == 401
        assert "Sign in" in http.get("/diagnosis/auto-1").text


def test_a_waterfall_follows_the_point_over_devices(server: AdminServer) -> None:
    a_life(server)
    server.add_device("gw-5")
    with server.http() as http:
        body = {"device": "gw-5", "channel": "x", "replace": True, "from_at": time.time() - 1000}
        assert http.post("/api/v1/assets/front/mappings", json=body).status_code in (200, 201)
    for number in range(40):
        keep(server, f"auto-5{number:02}", worn(0.1 * number, 1, 512, seed=number), time.time() + number, device="gw-5")
    with signed_in(server) as http:
        page = http.get("/diagnosis/auto-539/waterfall", params={"high": "1000"})
    assert page.text.count("<polygon") == 24
    assert "gw-1" in page.text
    assert len(page.content) < 250_000


def test_markers_move_charts_zoom_and_it_can_be_heard(server: AdminServer, tmp_path: Path) -> None:
    a_life(server)
    out = Path(os.environ.get("WHEELTAPPER_TEST_IMAGES", tmp_path))

    def key(name: str, **more: Any) -> None:
        page.call("Input.dispatchKeyEvent", type="keyDown", key=name, code=name, **more)
        page.call("Input.dispatchKeyEvent", type="keyUp", key=name, code=name)

    def drag(kind: str, begin: float, end: float) -> None:
        box = page.evaluate(
            f"(() => {{ const svg = document.querySelector('svg[data-kind={kind}]');"
            " svg.scrollIntoView({block: 'center'}); const b = svg.getBoundingClientRect();"
            " return [b.left, b.top + b.height / 2, b.width]; })()"
        )
        for kind_, part in (("mousePressed", begin), ("mouseMoved", (begin + end) / 2), ("mouseReleased", end)):
            place = {"x": box[0] + box[2] * part, "y": box[1]}
            page.call("Input.dispatchMouseEvent", type=kind_, button="left", buttons=1, clickCount=1, **place)

    def fill_in(name: str, value: float) -> None:
        page.evaluate(f"document.querySelector('[name={name}]').value = {value}")
        page.evaluate(f"document.querySelector('[name={name}]').dispatchEvent(new Event('input', {{bubbles: true}}))")

    envelope = "document.querySelector('svg[data-kind=envelope]')"
    first = f'{envelope}.querySelector(\'[data-fault=bpfo][data-n="1"][data-side="0"]\')'
    shown = f"{envelope}.querySelectorAll('[data-fault=bpfo]:not(.off)').length"
    with open_page() as page:
        page.emulate(1440, 1500)
        page.set_cookie(server.url, server.sign_in())
        page.open(f"{server.url}/diagnosis/auto-0000000000000005?beside=auto-0000000000000001")
        page.png(out / "diagnosis.png")
        keep_picture(page, "diagnosis", 900)
        page.emulate(1440, 1500)
        assert serious_findings(page) == []
        high = page.evaluate(f"Number({envelope}.dataset.high)")
        x = page.evaluate(f"Number({first}.getAttribute('x1'))")
        assert x / WIDTH * high == pytest.approx(BPFO_HZ, rel=0.01)
        fill_in("rpm", SHAFT_HZ * 60 * 1.1)
        assert page.evaluate(f"Number({first}.getAttribute('x1'))") == pytest.approx(1.1 * x, rel=0.01)
        before = page.evaluate(shown)
        fill_in("sides", 0)
        assert page.evaluate(shown) < before
        page.evaluate("document.querySelector('[data-show=bpfo]').click()")
        assert page.evaluate(shown) == 0
        page.evaluate("document.querySelector('[data-show=bpfo]').click()")

        drag("envelope", 0.25, 0.5)
        page.wait_for("Number(document.body.dataset.drawn || 0) === 1")
        low, zoomed = page.evaluate(f"[Number({envelope}.dataset.low), Number({envelope}.dataset.high)]")
        assert low == pytest.approx(high / 4, rel=0.03)
        assert zoomed == pytest.approx(high / 2, rel=0.03)
        assert "envelope_low=" in page.evaluate("location.search"), "it can be sent to a colleague"
        page.evaluate(f"{envelope}.focus()")
        key("ArrowRight")
        said = page.evaluate("document.querySelector('.readout[data-of=envelope]').textContent")
        assert "Hz" in said
        assert "Nearest: " in said
        key("-")
        page.wait_for("Number(document.body.dataset.drawn) === 2")
        assert page.evaluate(f"Number({envelope}.dataset.high)") > zoomed
        key("0")
        page.wait_for("Number(document.body.dataset.drawn) === 3")
        assert page.evaluate(f"{envelope}.dataset.low") == "0.0"
        assert page.evaluate("document.activeElement.dataset.kind") == "envelope", "the keyboard stays where it was"

        page.evaluate("document.querySelector('audio').preload = 'auto'")
        page.evaluate("document.querySelector('audio').load()")
        page.wait_for("document.querySelector('audio').duration > 1.5")
        page.open(f"{server.url}/diagnosis/auto-0000000000000005/waterfall?high=5000")
        page.png(out / "waterfall.png")
        assert serious_findings(page) == []
        page.emulate(390, 844, dark=True, scale=2)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.open(f"{server.url}/diagnosis/auto-0000000000000005")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert serious_findings(page) == []
        page.png(out / "diagnosis-phone.png")
        assert page.problems == []


def test_markers_stand_where_the_faults_strike() -> None:
    """Orders of an SKF 6205: 3.585, 5.415, twice 2.357, 0.398 turns of the shaft."""
    bearing = Bearing(rolling_elements=9, ball_diameter_mm=7.94, pitch_diameter_mm=39.04)
    faults = faults_of(bearing)
    assert [round(each.order, 3) for each in faults] == [3.585, 5.415, 4.713, 0.398]
    found = markers(faults, 10.0, 0.0, 100.0, 2, 1)
    assert len(found) == 3 * MOST_HARMONICS * (2 * MOST_SIDES + 1) + MOST_HARMONICS
    shown = {(each.fault, each.harmonic, each.side): each.x for each in found if each.shown}
    assert shown["bpfo", 2, 0] == pytest.approx(717, abs=1)
    assert shown["bpfi", 1, -1] == pytest.approx(441.5, abs=1), "the shaft modulates the inner race"
    assert shown["bsf", 1, 1] == pytest.approx(511.1, abs=1), "the cage modulates a rolling element"
    assert ("bpfi", 2, 0) not in shown, "it is beyond the chart"
    assert all(each.x == -10.0 for each in found if not each.x >= 0)

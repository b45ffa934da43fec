"""Pages of machines: what each point says now against what is known of it, and how it came to that."""

from __future__ import annotations

import html
import math
import os
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event

from tests.browser import open_page
from tests.fleet.alerts.world import Works
from tests.fleet.api.harness import MODEL, AdminServer
from tests.fleet.telemetry.test_feature_curves import NAMES, manifest, reported
from tests.fleet.ui.axe import serious_findings
from tests.fleet.ui.pictures import keep_picture
from tests.fleet.ui.test_cases import signed_in
from wheeltapper_fleet import tables
from wheeltapper_fleet.assets.machines import get_machine, list_machines
from wheeltapper_fleet.assets.schemas import ImportedAsset
from wheeltapper_fleet.assets.service import import_assets
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.telemetry.schemas import PointView
from wheeltapper_fleet.telemetry.store import store_messages
from wheeltapper_fleet.ui.trend import gauge, trend
from wheeltapper_protocols.wire.messages import Severity, Telemetry, TelemetryRecord

MANIFEST: dict[str, Any] = {
    "decision": {"critical_level": 3.0},
    "remaining_life": {
        "unit": "hours",
        "cap": 500.0,
        "warn_at": 50.0,
        "interval": {"coverage": 0.9, "edges": [], "below": [30.0], "above": [60.0]},
    },
}


def a_machine(server: AdminServer) -> Works:
    """A press whose front point has two weeks of scores by two releases, a zone and a remaining life, and a case."""
    works, now = Works(server.engine), time.time()
    attributes = {"iso20816": {"group": 2, "foundation": "rigid"}}
    press = {"id": "press", "kind": "machine", "parent": "works", "name": "Press 4", "attributes": attributes}
    import_assets(server.engine, [ImportedAsset.model_validate(press)], False, now)
    for device in ("gw-1", "gw-2"):
        server.add_device(device)
    for release in (1, 2):
        row = {"model": MODEL, "release": release, "path": f"p{release}", "sha256": f"{release}" * 64, "length": 1}
        server.insert(tables.releases, **row, manifest=MANIFEST, published_at=now, published_by="ann")
    records = [
        TelemetryRecord(
            seq=number + 1,
            pipeline="main",
            window=number,
            t_s=now - 14 * 86_400 + number * 3600.0,
            model=MODEL,
            release=1 if number < 250 else 2,
            score=0.4 + 0.05 * math.sin(number) + max(0.0, number - 290) ** 2 / 1500,
            severity=Severity.WARNING if number == 335 else Severity.NORMAL,
            zone="C" if number == 335 else "B",
            value=180.0 - number / 3,
        )
        for number in range(336)
    ]
    with server.engine.begin() as connection:
        store_messages(connection, [("gw-1", Telemetry(epoch="0" * 16, oldest=1, records=records), b"")], now)
    works.alert(now - 7200, "gw-1", moved="x.bpfo", model=MODEL, release=2)
    works.turn(now)
    return works


def test_the_list_says_how_each_machine_is(server: AdminServer) -> None:
    a_machine(server)
    with signed_in(server) as http:
        text = " ".join(re.sub(r"<[^>]+>", " ", http.get("/machines").text.partition("<tbody>")[2]).split())
        assert "Press 4 press works normal warning 1.80" in text
        assert "zone C may run for a limited time only 2 of 2 1 risk" in text
        assert "fan works high nothing is measured now" in text
        assert re.findall(r'data-machine="(\w+)"', http.get("/machines", params={"within": "fan"}).text) == ["fan"]
        unknown = http.get("/machines", params={"within": "nowhere"})
        assert unknown.status_code == 200
        assert "there is no asset" in unknown.text


def test_a_machine_shows_zone_band_trend_life_and_cases(server: AdminServer) -> None:
    a_machine(server)
    with signed_in(server) as http:
        page = http.get("/machines/press", params={"days": "31"}).text
        text = html.unescape(" ".join(re.sub(r"<[^>]+>", " ", page).split()))
        assert "Press 4 press, site works, criticality normal" in text
        assert "zone C may run for a limited time only" in text
        assert "A < 1.4 B < 2.8 C < 4.5 D mm/s RMS, group 2, rigid" in text
        assert "Remaining life 68.3 hours, 90 % interval 38.3 to 128" in text
        assert f"{MODEL}/1 → {MODEL}/2" in text
        assert 'aria-label="Score 1.80' in page
        assert "critical from 3.00" in page
        assert re.search(r"Cases: 1 open", text)
        assert "rear" in text
        assert http.get("/machines/press", params={"days": "1"}).text.count('class="line"') <= 2
        assert http.get("/machines/press", params={"days": "5"}).status_code == 422
        led = http.get("/machines/front")
        assert (led.status_code, led.headers["location"]) == (303, "/machines/press#front")
        assert http.get("/machines/works").status_code == 404
        assert http.get("/machines/nothing").status_code == 404
        assert "data-api" in page
    with signed_in(server, "viewer") as http:
        assert "data-api" not in http.get("/machines/press").text


def test_features_of_a_point_over_time_in_one_condition(server: AdminServer, tmp_path: Path) -> None:
    a_machine(server)
    now = time.time()
    made = manifest(*NAMES)
    with server.engine.begin() as connection:
        connection.execute(tables.releases.update().values(model="m", manifest=made))
    for number in range(48):
        speed = 1.0 + number % 2
        reported(server.engine, 1000 + number, (speed, 1.0 + number / 24, speed), now - (48 - number) * 3600)
    bare = ImportedAsset.model_validate({"id": "bare", "kind": "point", "parent": "press"})
    import_assets(server.engine, [bare], False, now)
    with signed_in(server, "viewer") as http:
        asked = {"point": "front", "condition": "speed.value", "low": "1.5", "high": "2.5"}
        text = http.get("/machines/press/features", params=asked).text
        assert re.findall(r'data-feature="([^"]+)"', text) == ["x.bpfo", "speed.value", "x.rms"]
        assert "24 of 48 reports" in " ".join(text.split()).replace('<a href="/devices/gw-1">gw-1</a>', "")
        assert "outer race" in text
        assert "+3.9 deviations" in text
        nonsense = http.get("/machines/press/features", params={"condition": "x", "low": "nan", "high": "a"})
        assert "No report of that time and condition" in nonsense.text
        assert "Nothing measures it now" in http.get("/machines/press/features", params={"point": "bare"}).text
        found = http.get("/api/v1/devices/gw-1/features", params={"pipeline": "main", "reports": 5}).json()
        assert [len(each["points"]) for each in found["curves"]] == [5, 5, 5]
        wrong = http.get("/api/v1/devices/gw-1/features", params={"pipeline": "main", "from": 9, "to": 1})
        assert wrong.json()["code"] == "history.range"
    out = Path(os.environ.get("WHEELTAPPER_TEST_IMAGES", tmp_path))
    with open_page() as page:
        page.emulate(1440, 1000)
        page.set_cookie(server.url, server.sign_in())
        page.open(server.url + "/machines/press/features?point=front")
        page.png(out / "features.png")
        assert page.evaluate("document.querySelectorAll('.small .line').length") == 3
        assert serious_findings(page) == []
        page.emulate(390, 844, dark=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert serious_findings(page) == []
        assert page.problems == []


def test_in_a_browser(server: AdminServer, tmp_path: Path) -> None:
    a_machine(server)
    out = Path(os.environ.get("WHEELTAPPER_TEST_IMAGES", tmp_path))
    with open_page() as page:
        page.set_cookie(server.url, server.sign_in())
        for path, name in (("/machines", "machines"), ("/machines/press?days=31", "machine")):
            page.emulate(1440, 1000)
            page.open(server.url + path)
            assert page.evaluate("document.querySelector('h1') !== null")
            page.png(out / f"{name}.png")
            if name == "machine":
                keep_picture(page, name)
            assert serious_findings(page) == [], name
            page.emulate(390, 844, dark=True, scale=2)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
            assert serious_findings(page) == [], name
            page.png(out / f"{name}-phone.png")
        page.evaluate("document.querySelector('[data-api$=captures]').requestSubmit()")
        page.wait_for("document.readyState === 'complete' && document.querySelector('.acted')?.textContent === ''")
        assert page.problems == []
    with server.engine.connect() as connection:
        asked = connection.execute(tables.commands.select()).all()
    assert [(row.device, row.body["type"]) for row in asked] == [("gw-1", "capture")]


def test_a_page_of_machines_costs_what_it_shows(server: AdminServer) -> None:
    """Neither the statements nor the page grow with the machines, and a machine of many points is shown in pages."""
    a_machine(server)
    more = [{"id": f"m-{number:03}", "kind": "machine", "parent": "works"} for number in range(300)]
    more += [{"id": f"p-{number:03}", "kind": "point", "parent": f"m-{number:03}"} for number in range(300)]
    more += [{"id": f"q-{number:03}", "kind": "point", "parent": "fan"} for number in range(30)]
    import_assets(server.engine, [ImportedAsset.model_validate(each) for each in more], False, 0.0)
    asked: list[str] = []
    readers = server.engine.get_execution_options().get("wheeltapper_readers", server.engine)

    @event.listens_for(readers, "before_cursor_execute")
    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT"):
            asked.append(statement)

    seen, after = [], None
    while True:
        asked.clear()
        found = list_machines(server.engine, time.time(), 50, after)
        assert len(asked) <= 4
        seen += [each.asset.id for each in found.items]
        after = found.next
        if after is None:
            break
    assert seen == sorted(["fan", "press", *(f"m-{number:03}" for number in range(300))])
    with signed_in(server) as http:
        assert len(http.get("/machines").content) < 60_000
        first = http.get("/machines/fan")
        assert len(first.content) < 60_000
        assert first.text.count('class="card point"') == 12
        following = re.search(r'href="(\?[^"]*after=[^"]+)"', first.text)
        assert following is not None
        assert http.get("/machines/fan" + html.unescape(following[1])).text.count('class="card point"') == 12


def test_a_point_without_a_device_and_one_that_takes_from_above(server: AdminServer) -> None:
    a_machine(server)
    state = get_machine(server.engine, "press", time.time(), 10)
    assert [each.asset.id for each in state.points] == ["front", "rear"]
    assert state.points[0].effective.iso20816 is not None, "it is the machine's"
    assert state.points[0].sources[0].device == "gw-1"
    with pytest.raises(FleetError) as refused:
        get_machine(server.engine, "front", time.time(), 10)
    assert refused.value.code == "asset.not_a_machine"


def test_a_trend_names_the_releases_under_it() -> None:
    same: dict[str, Any] = {"windows": 9, "scored": 9, "missing": 0, "deviation": 0.0, "min": 0.0}
    same |= {"latency_mean_ms": 1.0, "latency_max_ms": 1.0, "warnings": 0, "criticals": 0, "alerts": 0, "seconds": 1.0}
    points = [
        PointView(**same, at=float(at), mean=0.1 * at, max=0.2 * at, releases=["m/1"] if at < 10 else ["m/2"])
        for at in range(20)
    ]
    drawn = trend(points, [5.0, 50.0], critical=2.0)
    assert drawn is not None
    assert drawn.releases == ["m/1", "m/2"]
    assert [round(each.x) for each in drawn.strips] == [0, 379]
    assert drawn.strips[-1].x + drawn.strips[-1].width == pytest.approx(720, abs=0.2)
    assert drawn.critical_y is not None
    assert drawn.critical_y < drawn.curve.threshold_y
    assert len(drawn.curve.marks) == 1, "an alert outside of the time that is shown has no mark"
    assert trend(points[:1]) is None
    lower = trend(points, critical=100.0)
    assert lower is not None
    assert lower.critical_y is None, "a level above the chart is not drawn"


def test_a_gauge_is_within_its_scale() -> None:
    found = gauge(1.0, 3.0)
    assert found is not None
    assert found.value == found.warning
    above = gauge(1e9, 2.0)
    assert above is not None
    assert above.value == 100.0
    assert gauge(None, 2.0) is None
    assert gauge(math.nan, 2.0) is None


def test_a_manifest_that_cannot_be_read_costs_only_what_it_says(server: AdminServer) -> None:
    a_machine(server)
    with server.engine.begin() as connection:
        manifest = {"decision": {"critical_level": "high"}, "remaining_life": {"unit": "years"}}
        connection.execute(tables.releases.update().values(manifest=manifest))
    with httpx.Client(base_url=server.url, trust_env=False) as http, signed_in(server) as inside:
        assert "critical from 2.00" in inside.get("/machines/press").text
        assert "Remaining life" not in inside.get("/machines/press").text
        assert "Sign in" in http.get("/machines/press").text

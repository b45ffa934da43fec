"""Campaigns on the page: a new one with its live dry run, steering by role, gates, failures by reason."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Page
from tests.fleet.api.harness import MODEL, AdminServer, TableCampaigns
from tests.fleet.promotion.test_comparison import published
from tests.fleet.promotion.test_quality import classifier
from tests.fleet.ui.looks import asking, cookie, look
from wheeltapper_fleet import tables
from wheeltapper_fleet.campaigns import service
from wheeltapper_fleet.campaigns.creation import create_campaign
from wheeltapper_fleet.campaigns.views import get_campaign, list_campaigns
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ui.campaign_form import CampaignForm, spec_of

FORM = {"model": MODEL, "release": "3", "q": 'id like("press-*")', "waves": "1, 50 %, rest", "gates": "latency"}


class RealCampaigns(TableCampaigns):
    """The campaign service, without the keys that would have to stay valid."""

    def create(self, spec: Mapping[str, Any], who: str) -> str:
        return create_campaign(self.engine, spec, who=who, now=time.time())

    def act(self, campaign: str, action: str, expected_version: int, who: str) -> None:
        found = getattr(service, f"{action}_campaign")
        found(self.engine, campaign, version=expected_version, who=who, now=time.time())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AdminServer]:
    with AdminServer(tmp_path / "data", campaigns=RealCampaigns) as running:
        published(running, classifier())
        for number in range(6):
            pipeline = "main" if number < 5 else "other"
            status = {"online": True, "pipelines": {pipeline: {"model": MODEL, "release": 1, "windows": 9}}}
            running.add_device(f"press-{number}", status=status, online=number != 4)
        yield running


def write(page: Page, **fields: str) -> None:
    """Fill fields of the form, as somebody who types."""
    for name, value in fields.items():
        page.evaluate(f"document.querySelector('#campaign-form [name={name}]').value = {value!r}")
    page.evaluate("document.getElementById('campaign-form').dispatchEvent(new Event('input', {bubbles: true}))")


def test_a_campaign_is_made_with_a_live_dry_run_and_approved_by_another_person(
    server: AdminServer, browser: Page
) -> None:
    browser.set_cookie(server.url, cookie(server, "release-manager", name="ann"))
    browser.open(server.url + "/campaigns")
    browser.evaluate("document.querySelector('.head .button').click()")
    browser.wait_for("document.getElementById('campaign-form') !== null && document.readyState === 'complete'")
    write(browser, model=MODEL, release="3", q='id like("press-*") and and', waves="1, 50 %, rest")
    browser.wait_for("document.querySelector('#plan pre.problem')?.textContent.includes('column 24')")
    assert "^" in browser.evaluate("document.querySelector('#plan pre.problem').textContent")
    write(browser, q='id like("press-*")')
    browser.wait_for("document.querySelectorAll('#planned tbody tr').length === 6")
    outcomes = browser.evaluate("[...document.querySelectorAll('[data-outcome]')].map(each => each.textContent)")
    assert sorted(outcomes) == ["1 offline", "1 pipeline missing", "4 gets"]
    assert "it has no pipeline 'main'" in browser.evaluate("document.getElementById('planned').textContent")
    assert list_campaigns(server.engine).items == []
    browser.evaluate("document.querySelector('[name=needs_approval]').click()")
    browser.wait_for("document.querySelector('[data-create]')?.textContent.includes('another person')")
    query = "&".join(f"{name}={value}" for name, value in FORM.items()).replace(" ", "+").replace("%", "%25")
    look(browser, server, f"/campaigns/new?{query}", "campaigns-new")
    write(browser, needs_approval="yes")
    browser.evaluate("document.querySelector('[name=needs_approval]').click()")
    browser.wait_for("document.querySelector('[data-create]')?.textContent.includes('another person')")
    browser.evaluate("document.querySelector('[data-create]').click()")
    browser.wait_for("document.querySelector('[data-action=start]') !== null")
    made = list_campaigns(server.engine).items[0]
    assert (made.state, [each["percent"] for each in made.spec["waves"]]) == ("DRAFT", [None, 50.0, None])
    assert [each["kind"] for each in made.spec["gates"]] == ["latency"]
    browser.evaluate("document.querySelector('[data-action=start]').click()")
    browser.wait_for("document.querySelector('.campaign').dataset.state === 'AWAITING_APPROVAL'")
    assert browser.evaluate("document.querySelector('[data-action=approve]')") is None  # a release manager does not
    browser.set_cookie(server.url, cookie(server, "approver", name="bob"))
    browser.open(f"{server.url}/campaigns/{made.id}")
    browser.evaluate("document.querySelector('[data-action=approve]').click()")
    browser.wait_for("document.querySelector('.campaign').dataset.state !== 'AWAITING_APPROVAL'")
    assert get_campaign(server.engine, made.id).approved_by == ["bob"]
    assert browser.problems == []


def running(server: AdminServer) -> str:
    """A campaign whose first wave passed, whose second one failed on some devices, with a gate that broke."""
    waves = [{"state": "PASSED", "since": 1.0}, {"state": "RUNNING", "since": 1.0}, {"state": "PENDING", "since": 1.0}]
    spec = {"model": MODEL, "release": 3, "waves": [{"count": 2}, {"count": 10}, {}], "gates": [{"kind": "latency"}]}
    same = {"version": 3, "state": "RUNNING", "reason": "", "created_at": 1.79e9, "updated_at": 1.79e9}
    server.insert(tables.campaigns, id="cmp-1", spec=spec, waves=waves, **same)
    cells = {(0, "COMMITTED"): 2, (1, "COMMITTED"): 4, (1, "REJECTED"): 3, (1, "FAILED"): 1, (2, "PENDING"): 20}
    number = 0
    for (wave, state), count in cells.items():
        server.insert(tables.campaign_tallies, campaign="cmp-1", wave=wave, state=state, n=count, assigned=count)
        for _ in range(count):
            row = {
                "id": f"x-{number}",
                "campaign": "cmp-1",
                "device": f"pump-{number:02}",
                "wave": wave,
                "state": state,
            }
            if state in ("REJECTED", "FAILED"):
                row |= {
                    "code": "golden.output" if state == "REJECTED" else "fetch.timeout",
                    "detail": f"on pump {number}",
                }
            server.insert(tables.executions, updated_at=1.79e9, assigned_at=1.79e9, **row)
            number += 1
    sentence = "latency: +50 % (limit +10 %), on 6 updated devices against as many that are not updated"
    gate = {"campaign": "cmp-1", "gate": 0, "kind": "latency", "wave": 1, "state": {}, "verdict": "HOLD", "devices": 6}
    server.insert(tables.campaign_gates, **gate, sentence=sentence, p_value=0.2, judged_at=1.79e9)
    for devices in range(1, 7):
        point = {"evidence": devices * math.log(2) / 2, "mean": 0.4 + devices / 100, "control_mean": 0.01 * devices}
        server.insert(
            tables.metadata.tables["gate_points"], campaign="cmp-1", gate=0, devices=devices, at=1.79e9, **point
        )
    return "cmp-1"


def test_failures_stand_by_reason_with_the_devices_behind_them(server: AdminServer, browser: Page) -> None:
    campaign = running(server)
    browser.set_cookie(server.url, server.sign_in())
    look(browser, server, "/campaigns", "campaigns")
    look(browser, server, f"/campaigns/{campaign}", "campaigns-one")
    assert browser.evaluate("document.querySelectorAll('.picture .waves g').length") == 3
    assert browser.evaluate("document.querySelectorAll('[data-gate=latency] polyline').length") == 3
    assert "odds of 8 to 1; it stops at 20 to 1" in browser.evaluate(
        "document.querySelector('[data-gate]').textContent"
    )
    rows = browser.evaluate("[...document.querySelectorAll('#failures [data-code]')].map(each => each.dataset.code)")
    assert rows == ["golden.output", "fetch.timeout"]
    browser.evaluate("document.querySelector('[data-code=\"golden.output\"] a').click()")
    browser.wait_for("location.search.includes('golden.output') && document.readyState === 'complete'")
    shown = browser.evaluate("[...document.querySelectorAll('#executions tbody th')].map(each => each.textContent)")
    assert shown == ["pump-06", "pump-07", "pump-08"]
    browser.evaluate("document.querySelector('[data-action=pause]').click()")
    browser.wait_for("document.querySelector('.campaign').dataset.state === 'PAUSED'")
    assert get_campaign(server.engine, campaign).state == "PAUSED"
    assert browser.problems == []


def test_what_a_campaign_brought_is_rolled_back(server: AdminServer, browser: Page) -> None:
    published(server, classifier(release=2))
    campaign = running(server)
    with server.engine.begin() as connection:
        mine = tables.executions.c.state == "COMMITTED"
        for number, row in enumerate(connection.execute(tables.executions.select().where(mine)).all()):
            moved = tables.executions.update().where(tables.executions.c.id == row.id)
            connection.execute(moved.values(device=f"press-{number}"))
    browser.set_cookie(server.url, server.sign_in())
    browser.open(f"{server.url}/campaigns/{campaign}")
    browser.evaluate("document.querySelector('#rollback [name=release]').value = '2'")
    browser.evaluate("document.querySelector('#rollback [name=why]').value = 'too many alarms'")
    browser.evaluate("document.querySelector('#rollback').requestSubmit()")
    browser.wait_for("!location.pathname.endsWith('cmp-1') && document.readyState === 'complete'")
    assert get_campaign(server.engine, campaign).state == "ABORTED"
    newest = list_campaigns(server.engine).items[0]
    assert newest.spec["audience"]["committed_in"] == campaign
    assert browser.problems == []


def test_who_may_not_steer_does_not_see_the_buttons(server: AdminServer) -> None:
    campaign = running(server)
    wanted = {"viewer": set(), "approver": set(), "operator": {"pause", "abort", "rollback"}}
    wanted["release-manager"] = {"pause", "abort", "rollback", "create"}
    for role, may in wanted.items():
        with asking(server, role) as client:
            text, every = client.get(f"/campaigns/{campaign}").text, client.get("/campaigns").text
            seen = {name for name in ("pause", "abort", "start") if f'data-action="{name}"' in text}
            seen |= {"rollback"} if 'id="rollback"' in text else set()
            seen |= {"create"} if "/campaigns/new" in every else set()
            assert seen == may, role
            assert client.get("/campaigns/new").status_code == (200 if "create" in may else 403)
    with asking(server) as client:
        assert client.get("/campaigns/nothing").status_code == 404


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": ""}, "model"),
        ({"release": "three"}, "release"),
        ({"waves": "1, many"}, "waves"),
        ({"waves": "1.5, rest"}, "waves"),
        ({"soak_minutes": "-1"}, "soak minutes"),
        ({"abort_percent": "1e9"}, "abort percent"),
    ],
)
def test_a_field_that_cannot_be_read_is_named(changes: dict[str, str], field: str) -> None:
    with pytest.raises(FleetError, match=f"^{field}: "):
        spec_of(CampaignForm.model_validate({"model": "m", "release": "1", **changes}))


def test_a_form_is_a_specification() -> None:
    form = CampaignForm(
        model="m", release="4", q="online", waves="5, 10 %, 2.5%, rest", soak_minutes="30", deadline_hours="2",
        success="95", gates=["quality", "latency", "unknown"], needs_approval="yes", pipelines="main, spare",
    )  # fmt: skip
    assert spec_of(form) == {
        "model": "m",
        "release": 4,
        "pipelines": ["main", "spare"],
        "audience": {"query": "online"},
        "waves": [{"count": 5}, {"percent": 10.0}, {"percent": 2.5}, {}],
        "success": {"percent": 95.0},
        "soak_seconds": 1800.0,
        "abort": [{"percent": 20.0}],
        "execution_deadline_seconds": 7200.0,
        "gates": [{"kind": "latency"}, {"kind": "quality"}],
        "needs_approval": True,
    }

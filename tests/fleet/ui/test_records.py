"""Trust, value and settings on the page."""

from __future__ import annotations

import time

from sqlalchemy import update

from tests.browser import Page
from tests.fleet.api.harness import MODEL, AdminServer
from tests.fleet.ui.looks import asking, cookie, look
from wheeltapper_fleet import tables
from wheeltapper_fleet.access.tokens import list_api_tokens
from wheeltapper_fleet.alerts.policy import list_limits
from wheeltapper_fleet.alerts.value import list_budgets
from wheeltapper_fleet.notify.views import list_targets


def verdicts(server: AdminServer, now: float) -> None:
    """Of ten weeks of one machine: two true faults, one of which became a failure, and three false alarms."""
    for number, verdict in enumerate(("true_fault", "true_fault", "false_alarm", "false_alarm", "false_alarm")):
        at = now - 86_400.0 * (10 + number)
        row = {
            "case_id": number + 1,
            "episode": 1,
            "device": "press-1",
            "pipeline": "main",
            "model": MODEL,
            "release": 1,
        }
        row |= {"site": "hall-1", "verdict": verdict, "from_at": at - 3 * 86_400, "to_at": at, "resolved_at": at}
        row |= {"from_t_s": 0.0, "to_t_s": 1.0, "who": "ann", "failed_at": at if number == 1 else None}
        server.insert(tables.labels, **row)
    for week in range(10):
        row = {"day": int((now - week * 7 * 86_400) // 86_400) * 86_400, "model": MODEL, "site": "hall-1"}
        server.insert(tables.exposure, **row, seconds=7 * 86_400.0)


def test_trust_shows_keys_and_follows_the_log(server: AdminServer, browser: Page) -> None:
    with server.http() as http:
        for number in range(3):
            assert http.post("/api/v1/tokens", json={"device": f"press-{number}"}).status_code == 201
    browser.set_cookie(server.url, server.sign_in())
    look(browser, server, "/trust", "trust")
    assert browser.evaluate("document.querySelector('[data-life=root] td').textContent") == "1 of 1 keys"
    days = browser.evaluate("Number(document.querySelector('[data-life=timestamp] td:nth-child(4)').textContent)")
    assert days >= 0
    assert browser.evaluate("document.getElementById('verified').dataset.verified") == "yes"
    assert "POST /tokens" in browser.evaluate("document.querySelector('[data-change] code').textContent")
    with server.engine.begin() as connection:
        connection.execute(update(tables.audit).where(tables.audit.c.id == 2).values(who="nobody"))
    browser.open(server.url + "/trust")
    assert browser.evaluate("document.getElementById('verified').dataset.verified") == "no"
    assert "change 2 does not follow" in browser.evaluate("document.getElementById('verified').textContent")
    with asking(server, "operator") as client:
        text = client.get("/trust").text
        assert "data-life" in text
        assert "data-change" not in text
    assert browser.problems == []


def test_value_adds_up_what_people_found(server: AdminServer, browser: Page) -> None:
    now = time.time()
    verdicts(server, now)
    browser.set_cookie(server.url, server.sign_in())
    look(browser, server, "/value?days=90", "value")
    sums = {
        name: f"document.querySelector('[data-sum={name}]').textContent"
        for name in ("true_faults", "saves", "failures")
    }
    assert {name: browser.evaluate(script) for name, script in sums.items()} == {
        "true_faults": "2", "saves": "1", "failures": "1"
    }  # fmt: skip
    assert browser.evaluate("document.getElementById('rate').firstChild.textContent") == "30"
    assert "3 days" in browser.evaluate("document.querySelector('#ledger tbody tr').textContent")
    browser.evaluate("document.querySelector('[name=per_100_machine_weeks]').value = '2'")
    browser.evaluate("document.querySelector('[name=days][type=number]').value = '90'")
    browser.evaluate("document.querySelector('form[data-api$=\"alert-budgets\"]').requestSubmit()")
    browser.wait_for("document.querySelector('[data-budget]')?.textContent.includes('exceeded')")
    assert list_budgets(server.engine, now).items[0].per_100_machine_weeks == 2
    browser.evaluate("document.querySelector('[data-budget] form').requestSubmit()")
    browser.wait_for("document.querySelector('#budgets') !== null && document.querySelector('[data-budget]') === null")
    with asking(server, "operator") as client:
        assert "data-api" not in client.get("/value").text
        assert 'data-sum="true_faults">0<' in client.get("/value?site=elsewhere").text
    assert browser.problems == []


def test_a_token_is_made_and_shown_once(server: AdminServer, browser: Page) -> None:
    browser.set_cookie(server.url, server.sign_in())
    look(browser, server, "/settings", "settings")
    look(browser, server, "/settings/tokens", "settings-tokens")
    browser.evaluate("document.querySelector('#new-token [name=name]').value = 'bench-1'")
    browser.evaluate("document.querySelector('#new-token [name=roles]').value = 'trainer'")
    browser.evaluate("document.querySelector('#new-token').requestSubmit()")
    browser.wait_for("document.querySelector('#new-token output').textContent !== ''")
    secret = browser.evaluate("document.querySelector('#new-token output').textContent")
    made = next(each for each in list_api_tokens(server.engine).items if each.name == "bench-1")
    assert made.roles == ["trainer"]
    with server.http(secret) as http:
        assert http.get("/api/v1/who").json()["name"] == "bench-1"
    browser.open(server.url + "/settings/tokens")
    assert secret not in browser.evaluate("document.documentElement.outerHTML")
    assert browser.evaluate(f"document.querySelector('[data-token=\"{made.id}\"] form') !== null")
    for role in ("viewer", "operator", "release-manager", "approver"):
        with asking(server, role) as client:
            refused = client.get("/settings/tokens")
            assert (refused.status_code, "bench-1" in refused.text) == (403, False)
    assert browser.problems == []


def test_webhooks_and_limits_are_set(server: AdminServer, browser: Page) -> None:
    browser.set_cookie(server.url, server.sign_in())
    browser.open(server.url + "/settings/webhooks")
    browser.evaluate("document.querySelector('#new-target [name=id]').value = 'ops'")
    browser.evaluate("document.querySelector('#new-target [name=address]').value = 'https://ops.example/hook'")
    browser.evaluate("document.querySelector('#new-target').requestSubmit()")
    browser.wait_for("document.querySelector('#new-target output').textContent !== ''")
    look(browser, server, "/settings/webhooks", "settings-webhooks")
    browser.evaluate("document.querySelector('[data-target=ops] form[data-method=PATCH]').requestSubmit()")
    browser.wait_for("document.querySelector('[data-target=ops] th')?.textContent.includes('off')")
    assert not list_targets(server.engine).items[0].enabled
    look(browser, server, "/settings/limits", "settings-limits")
    limit = list_limits(server.engine)[0]
    wanted = limit.low if limit.value != limit.low else limit.high
    browser.evaluate(f"document.querySelector('[name={limit.name}]').value = '{wanted:g}'")
    browser.evaluate("document.querySelector('form[data-wrap=limits]').requestSubmit()")
    browser.wait_for("document.querySelector('form[data-wrap=limits]')?.textContent.includes('set by first')")
    assert list_limits(server.engine)[0].value == wanted
    assert [each.set_by for each in list_limits(server.engine)[1:]] == [None] * (len(list_limits(server.engine)) - 1)
    browser.set_cookie(server.url, cookie(server, "operator"))
    for path in ("/settings/webhooks", "/settings/limits"):
        browser.open(server.url + path)
        assert browser.evaluate("document.querySelector('main form[data-api]')") is None
    assert browser.problems == []

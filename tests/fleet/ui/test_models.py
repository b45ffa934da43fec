"""Models on the page: releases, aliases, promotions by two persons, two releases side by side, lineage both ways."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Engine, insert

from tests.browser import Page
from tests.fleet.api.harness import MODEL, AdminServer
from tests.fleet.promotion.test_comparison import gate, published
from tests.fleet.promotion.test_quality import classifier, runs, say
from tests.fleet.ui import learned
from tests.fleet.ui.looks import asking, cookie, look
from wheeltapper_fleet import tables
from wheeltapper_fleet.lineage.contents import index_turn
from wheeltapper_fleet.registry.aliases import get_alias, set_alias
from wheeltapper_fleet.registry.promotion import set_rule
from wheeltapper_fleet.registry.promotion_rules import PromotionRule
from wheeltapper_fleet.registry.views import list_model_releases, list_models


@pytest.fixture
def two(server: AdminServer, tmp_path: Path) -> AdminServer:
    """Releases 3 and 4 of a model; 3 is the champion, is trained on ``fans@1`` by a run, and runs on a device."""
    learned.datasets(server)
    run = learned.succeeded(server, tmp_path / "bundle", 1, 0.4)
    lineage = {"dataset": "fans@1", "run": run, "parameters": '{"epochs":5}'}
    made = classifier(gates=[gate("auroc", 0.9), gate("int8_agreement", 0.02)], lineage=lineage)
    published(server, made)
    published(server, msgspec.structs.replace(made, release=4, gates=[gate("auroc", 0.95)]))
    server.insert(
        tables.release_datasets, dataset="fans", version=1, model=MODEL, release=3, split="machine", sha256=""
    )
    set_alias(server.engine, MODEL, "champion", 3, who="ann", why="quiet for a week", now=1.79e9)
    runs(server, "press-1")
    say(server, made, "press-1", [0.2] * 200, 1, time.time() - 60)
    return server


def test_a_promotion_takes_two_persons(two: AdminServer, browser: Page) -> None:
    set_rule(two.engine, MODEL, "champion", PromotionRule(approvals=1), who="ann", why="", now=1.79e9)
    browser.set_cookie(two.url, two.sign_in())
    for name, path in {"models": "/models", "model": f"/models/{MODEL}", "release": f"/models/{MODEL}/3"}.items():
        look(browser, two, path, f"models-{name}")
    look(browser, two, f"/models/{MODEL}/compare?one=3&other=4", "models-compare")
    look(browser, two, f"/models/{MODEL}/3/recordings", "models-recordings")
    browser.open(f"{two.url}/models/{MODEL}")
    browser.evaluate("document.querySelector('#ask [name=alias]').value = 'champion'")
    browser.evaluate("document.querySelector('#ask [name=release]').value = '4'")
    browser.evaluate("document.querySelector('#ask').requestSubmit()")
    browser.wait_for("document.querySelector('[data-promotion]') !== null")
    assert "1 by others than who asked" in browser.evaluate("document.querySelector('[data-promotion]').textContent")
    assert browser.evaluate("document.querySelector('form[data-api$=approve]')") is None
    look(browser, two, f"/models/{MODEL}", "models-waiting")
    browser.set_cookie(two.url, cookie(two, "approver", name="bob"))
    browser.open(f"{two.url}/models/{MODEL}")
    assert browser.evaluate("document.getElementById('ask')") is None
    browser.evaluate("document.querySelector('form[data-api$=approve]').requestSubmit()")
    browser.wait_for("document.querySelector('#aliases [data-alias=champion] a')?.textContent === 'r4'")
    assert get_alias(two.engine, MODEL, "champion").release == 4
    assert "from r3 to r4" in browser.evaluate("document.getElementById('changes').textContent.replace(/\\s+/g, ' ')")
    assert browser.problems == []


def test_lineage_is_walked_both_ways_by_links(two: AdminServer, browser: Page) -> None:
    index_turn(two.engine, lambda: two.app.state.context.datasets)(time.time())
    browser.set_cookie(two.url, two.sign_in())
    browser.open(f"{two.url}/models/{MODEL}/3")
    follow = "document.querySelector('{0}').click()"
    assert "press-1" in browser.evaluate("document.getElementById('devices').textContent")
    browser.evaluate(follow.format('#lineage a[href^="/data/runs/"]'))
    browser.wait_for("document.querySelector('#run [data-state]')?.dataset.state === 'SUCCEEDED'")
    browser.evaluate(follow.format('main a[href^="/data/datasets/fans"]'))
    browser.wait_for("document.getElementById('items') !== null")
    browser.evaluate(follow.format('#items a[href^="/data/recordings/"]'))
    browser.wait_for("document.getElementById('releases') !== null")
    assert "press-1" in browser.evaluate("document.getElementById('devices').textContent")
    browser.evaluate(follow.format('#releases a[href^="/models/"]'))
    browser.wait_for("document.getElementById('lineage') !== null")
    assert browser.problems == []


def test_two_releases_side_by_side(two: AdminServer) -> None:
    with asking(two) as client:
        text = client.get(f"/models/{MODEL}/compare?one=3&other=4").text
        assert text.index("auroc") < text.index("int8_agreement")
        assert "200 windows of 1 devices" in text
        assert "accuracy, estimated over a week" in text
        assert client.get(f"/models/{MODEL}/compare?one=3&other=3").status_code == 400
        missing = client.get(f"/models/{MODEL}/compare?one=3&other=9")
        assert (missing.status_code, "release.not_found" in missing.text) == (404, True)
        assert client.get("/models/nothing").status_code == 404
        release = client.get(f"/models/{MODEL}/3").text
        assert "int8 beside float" in release
        assert "int8 beside float" not in client.get(f"/models/{MODEL}/4").text


def test_models_and_their_releases_come_in_pages(engine: Engine) -> None:
    row = {"path": "p", "sha256": "0" * 64, "length": 1, "manifest": {}, "published_at": 1e9, "published_by": "a"}
    rows = [{**row, "model": f"m-{model}", "release": release} for model in range(5) for release in range(1, 4)]
    with engine.begin() as connection:
        connection.execute(insert(tables.releases), rows)
    set_alias(engine, "m-3", "champion", 2, who="ann", why="", now=1e9)
    first = list_models(engine, 3)
    second = list_models(engine, 3, first.next)
    assert [each.model for each in first.items + second.items] == [f"m-{number}" for number in range(5)]
    assert {(each.newest, each.releases) for each in first.items} == {(3, 3)}
    assert (second.items[0].aliases, second.items[1].aliases, second.next) == ({"champion": 2}, {}, None)
    newest = list_model_releases(engine, "m-1", 2)
    assert [each.release for each in newest.items] == [3, 2]
    assert [each.release for each in list_model_releases(engine, "m-1", 2, newest.next).items] == [1]

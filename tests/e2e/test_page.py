"""The page with real processes: its content after a short version of the demo's story, and a screenshot."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Page, open_page
from wheeltapper_fleet.demo.stage import Stage
from wheeltapper_fleet.demo.story import Story

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]
MAX_IMAGE_BYTES = 300_000


def sign_in(page: Page, stage: Stage) -> None:
    """Sign in as a person does, with the token in the form."""
    page.open(stage.url + "/")
    token = (stage.data_dir / "api-token").read_text(encoding="utf-8").strip()
    page.evaluate(f"document.getElementById('token').value = '{token}'")
    page.evaluate("document.querySelector('form').requestSubmit()")
    page.wait_for("document.title.startsWith('Shift')")
    page.open(stage.url + "/devices")
    page.wait_for("document.getElementById('live')?.dataset.state === 'live'")


def texts(page: Page, selector: str) -> list[str]:
    """The text of every element that ``selector`` matches, with single spaces."""
    found = page.evaluate(f"[...document.querySelectorAll({selector!r})].map((item) => item.textContent)")
    return [" ".join(text.split()) for text in found]


def take_picture(page: Page) -> None:
    """Write ``build/page.png``, and on request the picture in the documentation."""
    picture = ROOT / "build" / "page.png"
    page.png(picture)
    assert 20_000 < picture.stat().st_size < MAX_IMAGE_BYTES
    if os.environ.get("WHEELTAPPER_UPDATE_IMAGES") == "1":
        target = ROOT / "docs" / "images" / "page.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(picture, target)


def check_page(page: Page, story: Story, alert: dict[str, Any]) -> None:
    """Check that the text of the live page shows the story's devices, campaigns and alert."""
    worn = story.fault["device"]
    assert sorted(texts(page, "#devices .device h3")) == sorted(story.device_ids)
    assert texts(page, "#devices .device .pill") == ["online"] * len(story.device_ids)
    runs = texts(page, "#devices .device .runs:first-of-type")
    assert len(runs) == len(story.device_ids)
    assert all("bearing-anomaly r1" in text for text in runs)
    assert page.evaluate("document.querySelectorAll('#devices .threshold').length") == len(story.device_ids)
    campaigns = dict(zip(texts(page, "#campaigns h3"), texts(page, "#campaigns .state"), strict=True))
    assert campaigns == {"bearing-anomaly r2": "paused", "bearing-anomaly r1": "completed"}
    waves = texts(page, "#campaigns .campaign[data-state=COMPLETED] .wave .count")
    assert waves == ["2 of 2 committed", f"{len(story.device_ids) - 2} of {len(story.device_ids) - 2} committed"]
    assert "2 rejected" in " ".join(texts(page, "#campaigns .campaign[data-state=PAUSED] .states li"))
    assert {text.split()[0] for text in texts(page, "#alerts .alert h3")} == {worn}
    shown = texts(page, "#alerts .reasons .feature")
    assert set(shown) >= {reason["feature"] for reason in alert["reasons"][:2]}


def test_the_page_tells_the_story(stage: Stage, bundle: Path) -> None:
    story = Story(stage, report=lambda text: print(f"{time.monotonic():.1f} {text}"))
    with open_page() as page:
        page.emulate(1360, 1000)
        story.enrol()
        sign_in(page, stage)
        story.await_campaign(story.campaign(story.publish(bundle)), "COMPLETED")
        story.await_campaign(story.campaign(story.publish(story.break_release(bundle), tested=False)), "PAUSED")
        story.wear_out(wall_seconds=22.0)
        alert = story.await_alert()
        # The page was not reloaded: new content came with server-sent events.
        page.wait_for(f"document.querySelector('#alerts h3')?.textContent.includes('{alert['device']}')")
        page.wait_for("document.querySelectorAll('#devices .pill.on').length === 5")
        worn = "document.querySelector('#devices :is([data-severity=warning], [data-severity=critical]) h3')"
        page.wait_for(f"{worn}?.textContent === '{alert['device']}'")
        take_picture(page)
        check_page(page, story, alert)
        assert page.problems == []

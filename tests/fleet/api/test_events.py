"""Live events: a burst of changes cuts nobody off, a slow listener gets the newest state, one bad row ends nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, insert, update

from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet.api.events import EventHub
from wheeltapper_fleet.api.screens import Key, Screens
from wheeltapper_fleet.api.totals import FleetNumbers
from wheeltapper_fleet.api.view import View
from wheeltapper_fleet.db.engine import open_database
from wheeltapper_fleet.ground.paging import write_cursor
from wheeltapper_fleet.tables import devices

MANY = 700
ALL = View(subjects=frozenset({"devices"}), limit=1000)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    database = open_database(f"sqlite:///{tmp_path}/fleet.db")
    row = {"tags": {}, "enrolled_at": 0.0, "certificate_sha256": "0" * 64, "certificate_expires_at": 1e10}
    with database.begin() as connection:
        connection.execute(insert(devices), [{**row, "id": f"dev-{number:04}"} for number in range(MANY)])
    yield database
    database.dispose()


def set_counter(engine: Engine, counter: int) -> None:
    with engine.begin() as connection:
        connection.execute(update(devices).values(counter=counter))


async def take(events: Any, wanted: str, count: int) -> list[str]:
    """Events of the devices that hold ``wanted``, until there are ``count``."""
    found: list[str] = []
    async for text in events:
        if text.startswith("event: device") and wanted in text:
            found.append(text)
        if len(found) == count:
            break
    return found


def test_a_listener_outlives_a_change_of_all_devices_at_once(engine: Engine) -> None:
    async def listen() -> None:
        hub = EventHub(engine, FleetNumbers(engine), period_seconds=0.05)
        events = hub.listen(ALL)
        await take(events, '"counter":0', MANY)
        for counter in (1, 2):
            await asyncio.to_thread(set_counter, engine, counter)
            texts = await asyncio.wait_for(take(events, f'"counter":{counter}', MANY), 30)
            assert len(set(texts)) == MANY
        await hub.close()

    asyncio.run(listen())


def test_a_slow_listener_gets_the_newest_state_once(engine: Engine) -> None:
    async def listen() -> None:
        hub = EventHub(engine, FleetNumbers(engine), period_seconds=0.02)
        slow, quick = hub.listen(ALL), hub.listen(ALL)
        await take(slow, '"counter":0', MANY)
        await take(quick, '"counter":0', MANY)
        for counter in (1, 2, 3):
            await asyncio.to_thread(set_counter, engine, counter)
            await asyncio.wait_for(take(quick, f'"counter":{counter}', MANY), 30)
        texts = await asyncio.wait_for(take(slow, '"counter":', MANY), 30)
        assert len({text for text in texts if '"counter":3' in text}) == MANY
        await hub.close()

    asyncio.run(listen())


def test_a_reading_that_fails_ends_no_listener(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, failures, listening = Screens.read, [ValueError("a row that nobody can read")] * 3, [False]

    def read(screens: Screens, views: Sequence[View]) -> dict[View, dict[Key, str]]:
        if listening[0] and failures:
            raise failures.pop()
        return real(screens, views)

    monkeypatch.setattr(Screens, "read", read)

    async def listen() -> None:
        hub = EventHub(engine, FleetNumbers(engine), period_seconds=0.01)
        events = hub.listen(ALL)
        await take(events, '"counter":0', MANY)
        listening[0] = True
        await asyncio.to_thread(set_counter, engine, 1)
        await asyncio.wait_for(take(events, '"counter":1', MANY), 30)
        await hub.close()

    asyncio.run(listen())
    assert not failures
    assert [record.levelname for record in caplog.records if "live events" in record.getMessage()].count("ERROR") == 1


def test_closing_ends_every_listener(engine: Engine) -> None:
    async def listen() -> None:
        hub = EventHub(engine, FleetNumbers(engine), period_seconds=0.05)
        events = [hub.listen(ALL) for _ in range(3)]
        for each in events:
            await take(each, '"counter":0', MANY)
        await hub.close()
        for each in events:
            assert [text async for text in each] == []
        assert [text async for text in hub.listen(ALL)] == []

    asyncio.run(asyncio.wait_for(listen(), 30))


async def texts_until(events: AsyncIterator[str], kind: str, wanted: str) -> list[str]:
    """Events up to the first of ``kind`` that holds ``wanted``."""
    found: list[str] = []
    async for text in events:
        found.append(text)
        if text.startswith(f"event: {kind}") and wanted in text:
            break
    return found


def test_a_screen_hears_of_what_it_shows_and_of_nothing_else(engine: Engine) -> None:
    async def listen() -> None:
        hub = EventHub(engine, FleetNumbers(engine), period_seconds=0.02)
        few = hub.listen(View(subjects=frozenset({"devices"}), limit=3))
        one = hub.listen(View(subjects=frozenset(), device="dev-0500"))
        some = hub.listen(View(subjects=frozenset({"devices"}), q='id like("dev-06*")', limit=5))
        assert len(await take(few, "dev-", 3)) == 3
        assert len(await take(one, "dev-", 1)) == 1
        assert [text.count("dev-06") for text in await take(some, "dev-", 5)] == [1] * 5
        await asyncio.to_thread(set_counter, engine, 1)
        heard = await asyncio.wait_for(texts_until(few, "device", "dev-0002"), 30)
        assert len(heard) == 3
        assert all('"counter":1' in text for text in heard)
        (alone,) = await asyncio.wait_for(texts_until(one, "device", "dev-0500"), 30)
        assert '"counter":1' in alone
        await hub.close()

    asyncio.run(listen())


def test_a_reading_costs_what_is_shown_however_large_the_fleet(engine: Engine) -> None:
    said: list[str] = []
    readers = engine.get_execution_options()["wheeltapper_readers"]
    event.listen(readers, "before_cursor_execute", lambda *arguments: said.append(arguments[2]))
    screens = Screens(engine, FleetNumbers(engine))
    cursors = [write_cursor(f"dev-0{n}00") for n in range(7)] + [None]
    views = [View(subjects=frozenset({"devices"}), limit=50, after=after) for after in cursors]
    views += [View(subjects=frozenset({"devices", "totals", "campaigns", "alerts"}), limit=50)] * 3
    for repeated in (False, True):
        said.clear()
        found = screens.read(views)
        statements = [text for text in said if text.startswith("SELECT")]
        pages = 0 if repeated else 8  # which devices are on a screen is not asked every second
        rows = 3
        lists = 3 + (0 if repeated else 5)  # campaigns with their counts, alerts; the totals not every second
        assert len(statements) <= pages + rows + lists, statements
        assert {len(things) for things in found.values()} <= {50, 51, 52}


def test_a_wrong_query_is_refused_before_anything_is_sent(server: AdminServer) -> None:
    with server.http() as http:
        for wrong in ("q=nonsense(", "after=abc", "view=everything", "limit=0", "device=A"):
            answer = http.get(f"/api/v1/events?{wrong}")
            assert answer.status_code in (400, 422), wrong
            assert "." in answer.json()["code"]

"""Live events: a burst of changes cuts nobody off, a slow listener gets the newest state, one bad row ends nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert, update

from wheeltapper_fleet.api.events import EventHub
from wheeltapper_fleet.db.engine import open_database
from wheeltapper_fleet.tables import devices

MANY = 700


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
        hub = EventHub(engine, period_seconds=0.05)
        events = hub.listen()
        await take(events, '"counter":0', MANY)
        for counter in (1, 2):
            await asyncio.to_thread(set_counter, engine, counter)
            texts = await asyncio.wait_for(take(events, f'"counter":{counter}', MANY), 30)
            assert len(set(texts)) == MANY
        await hub.close()

    asyncio.run(listen())


def test_a_slow_listener_gets_the_newest_state_once(engine: Engine) -> None:
    async def listen() -> None:
        hub = EventHub(engine, period_seconds=0.02)
        slow, quick = hub.listen(), hub.listen()
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
    real, failures = EventHub._snapshot, [ValueError("a row that nobody can read")] * 3

    def snapshot(hub: EventHub) -> dict[tuple[str, str], str]:
        if hub._known and failures:
            raise failures.pop()
        return real(hub)

    monkeypatch.setattr(EventHub, "_snapshot", snapshot)

    async def listen() -> None:
        hub = EventHub(engine, period_seconds=0.01)
        events = hub.listen()
        await take(events, '"counter":0', MANY)
        await asyncio.to_thread(set_counter, engine, 1)
        await asyncio.wait_for(take(events, '"counter":1', MANY), 30)
        await hub.close()

    asyncio.run(listen())
    assert not failures
    assert [record.levelname for record in caplog.records if "live events" in record.getMessage()].count("ERROR") == 1


def test_closing_ends_every_listener(engine: Engine) -> None:
    async def listen() -> None:
        hub = EventHub(engine, period_seconds=0.05)
        events = [hub.listen() for _ in range(3)]
        for each in events:
            await take(each, '"counter":0', MANY)
        await hub.close()
        for each in events:
            assert [text async for text in each] == []
        assert [text async for text in hub.listen()] == []

    asyncio.run(asyncio.wait_for(listen(), 30))

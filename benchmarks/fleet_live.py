"""What the live view of ten open pages costs while 10,000 devices report once a second.

The pages are listeners of the service's own hub, in this process, whose CPU time is what is measured: reading the
database once a second, comparing, and making the events. A process beside it writes what 10,000 devices change in a
second: their newest scores and when they were seen, in one transaction a second. What a browser does with it is not
counted, nor is the ingest.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import tempfile
import time
from pathlib import Path

from fleet_data import LargeFleet, device_name, fill
from rig import Row, main, row
from sqlalchemy import text

from wheeltapper_fleet.api.events import EventHub
from wheeltapper_fleet.api.totals import FleetNumbers
from wheeltapper_fleet.api.view import View
from wheeltapper_fleet.db.engine import open_database
from wheeltapper_fleet.ground.paging import write_cursor

DEVICES = 10_000
PAGES = 10
SECONDS = 20.0
CORES = 0.3
_SHOWN = 50


def _report(url: str) -> None:
    """Write once a second what all devices change."""
    database = open_database(url)
    turn = 0
    while True:
        began, turn = time.time(), turn + 1
        with database.begin() as connection:
            changed = {"now": began, "turn": turn}
            connection.execute(text("UPDATE devices SET last_seen_at = :now WHERE online"), changed)
            connection.execute(
                text(
                    "UPDATE latest SET at = :now, received_at = :now, last_t_s = :now, windows = windows + 1,"
                    " score = 0.3 + (windows + :turn) % 7 * 0.01"
                ),
                changed,
            )
        time.sleep(max(0.0, 1.0 - (time.time() - began)))


async def _watch(url: str) -> tuple[float, int]:
    """Keep ten pages open; returns the CPU seconds a second, and how many events were sent."""
    database, sent = open_database(url), 0
    hub = EventHub(database, FleetNumbers(database))
    subjects = frozenset({"totals", "devices", "campaigns", "alerts"})

    async def page(number: int) -> None:
        nonlocal sent
        after = write_cursor(device_name(number * DEVICES // PAGES)) if number else None
        async for _ in hub.listen(View(subjects=subjects, after=after, limit=_SHOWN)):
            sent += 1

    pages = [asyncio.create_task(page(number)) for number in range(PAGES)]
    await asyncio.sleep(3.0)
    cpu, began, before = time.process_time(), time.monotonic(), sent
    await asyncio.sleep(SECONDS)
    found = (time.process_time() - cpu) / (time.monotonic() - began), sent - before
    await hub.close()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*pages)
    database.dispose()
    return found


def rows() -> list[Row]:
    """The figures."""
    with tempfile.TemporaryDirectory(prefix="wheeltapper-bench-") as folder:
        url = f"sqlite:///{Path(folder) / 'fleet.db'}"
        fill(url, LargeFleet(devices=DEVICES, records_each=100, alerts=1_000))
        reporter = multiprocessing.get_context("spawn").Process(target=_report, args=(url,), daemon=True)
        reporter.start()
        try:
            cores, events = asyncio.run(_watch(url))
        finally:
            reporter.kill()
            reporter.join()
    return [
        row(f"live view, {PAGES} pages, {DEVICES} devices a second: cores", cores, CORES),
        row("live view: events a second and page", events / SECONDS / PAGES),
    ]


if __name__ == "__main__":
    main(rows, "The live view")

"""Processes over PostgreSQL and Mosquitto: two ingests share a subscription; each is killed once, and comes back."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.e2e.test_roles import Service
from tests.fleet.broker.external import MosquittoAlone
from tests.fleet.conftest import postgres_server, postgres_url  # noqa: F401  # fixtures
from tests.fleet.sim.test_simulate import Simulated
from wheeltapper_fleet import tables
from wheeltapper_fleet.db.engine import open_database
from wheeltapper_fleet.demo.stage import Stage, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]

DEVICES = 12
NAMES = ("api-1", "ingest-1", "ingest-2", "engine-1")


@pytest.fixture
def service(tmp_path: Path, stage: Stage, postgres_url: str) -> Iterator[Service]:  # noqa: F811  # the fixture
    stage.make_keys()
    broker = MosquittoAlone(tmp_path / "broker", stage.data_dir, *NAMES)
    database = open_database(postgres_url)
    config = tmp_path / "fleet.toml"
    config.write_text(f'database_url = "{postgres_url}"\n{broker.settings.read_text(encoding="utf-8")}')
    try:
        yield Service(stage, config, database)
    finally:
        stage.close()
        broker.stop()
        database.dispose()


def test_an_ingest_is_killed_and_nothing_is_lost_or_stored_twice(service: Service) -> None:
    stage = service.stage
    for name in NAMES:
        service.start(name)
    for name in NAMES:
        wait_for(f"{name} to be ready", lambda name=name: service.ready(name), 60.0)  # type: ignore[misc]  # bound now
    shutil.copy(stage.data_dir / "serve-api-1.json", stage.data_dir / "serve.json")  # for commands of this machine
    options = ["--devices", str(DEVICES), "--rate", "4", "--batch-seconds", "1", "--seconds", "600"]
    simulated = Simulated(stage, *options)
    online = sa.select(sa.func.count()).select_from(tables.devices).where(tables.devices.c.online.is_(True))
    wait_for("every device to be online", lambda: service.scalar(online) == DEVICES, 90.0)
    stored = sa.select(sa.func.coalesce(sa.func.sum(tables.spools.c.contiguous), 0))
    for name in ("ingest-1", "ingest-2"):
        stage.kill(name)
        before = service.scalar(stored)
        wait_for("the other one to store", lambda before=before: service.scalar(stored) > before + 200, 60.0)  # type: ignore[misc]  # bound now
        (stage.data_dir / f"serve-{name}.json").unlink()
        service.start(name)
        wait_for(f"{name} to be ready again", lambda name=name: service.ready(name), 60.0)  # type: ignore[misc]  # bound now
        time.sleep(2.0)
    figures = simulated.end()
    contiguous = service.scalar(stored)
    kept = service.scalar(sa.select(sa.func.sum(tables.messages.c.records)))
    assert (figures["dropped"], figures["connected"]) == (0, DEVICES)
    assert figures["acked"] <= contiguous <= figures["records"]
    assert kept == contiguous, "a record is stored twice"

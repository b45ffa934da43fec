"""A service that is six processes over PostgreSQL and three nodes of NATS: two of each role; one of each is killed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.fleet.broker.external import NatsCluster
from tests.fleet.conftest import postgres_server, postgres_url  # noqa: F401  # fixtures
from tests.fleet.sim.test_simulate import Simulated
from tests.fleet.trust.bundles import write_bundle
from tests.fleet.trust.world import PASSED
from wheeltapper_fleet import tables
from wheeltapper_fleet.client.fleet_client import FleetClient
from wheeltapper_fleet.db.engine import open_database
from wheeltapper_fleet.demo.stage import Stage, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

DEVICES = 24
ROLES = ("api", "ingest", "engine")


class Service:
    """The processes, by name; each takes free ports."""

    def __init__(self, stage: Stage, config: Path, database: sa.Engine) -> None:
        self.stage, self.config, self.database = stage, config, database
        self.names = [f"{role}-{number}" for role in ROLES for number in (1, 2)]
        self.counters: dict[tuple[str, int], str] = {}

    def start(self, name: str) -> None:
        role = name.partition("-")[0]
        arguments = ["serve", "--config", str(self.config), "--data-dir", str(self.stage.data_dir)]
        arguments += ["--role", role, "--name", name, "--admin-port", "0", "--device-port", "0"]
        self.stage.start(name, "wheeltapper_fleet", *arguments)

    def ready(self, name: str) -> dict[str, Any] | None:
        self.stage.check_alive()
        file = self.stage.data_dir / f"serve-{name}.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    def client(self, name: str) -> FleetClient:
        token = (self.stage.data_dir / "api-token").read_text(encoding="utf-8").strip()
        found = self.ready(name)
        assert found is not None
        return FleetClient(found["admin_url"], token)

    def leader(self) -> tuple[str, int]:
        """Who leads, and its epoch."""
        query = sa.select(tables.leadership.c.holder, tables.leadership.c.epoch)
        with self.database.connect() as connection:
            row = connection.execute(query).one_or_none()
        return ("", 0) if row is None else (row.holder, row.epoch)

    def scalar(self, query: sa.Select[Any]) -> Any:
        with self.database.connect() as connection:
            return connection.execute(query).scalar()


@pytest.fixture
def service(tmp_path: Path, stage: Stage, postgres_url: str) -> Iterator[Service]:  # noqa: F811  # the fixture
    stage.make_keys()
    broker = NatsCluster(tmp_path / "broker", stage.data_dir)
    database = open_database(postgres_url)
    config = tmp_path / "fleet.toml"
    config.write_text(f'database_url = "{postgres_url}"\n{broker.settings.read_text(encoding="utf-8")}')
    try:
        yield Service(stage, config, database)
    finally:
        stage.close()
        broker.stop()
        database.dispose()


def test_one_of_each_is_killed_and_nothing_is_lost_or_done_twice(service: Service) -> None:
    stage = service.stage
    for name in service.names:
        service.start(name)
    for name in service.names:
        wait_for(f"{name} to be ready", lambda name=name: service.ready(name), 60.0)  # type: ignore[misc]  # bound now
    wait_for("one to lead", lambda: service.leader()[0].startswith("engine-"), 15.0)
    shutil.copy(stage.data_dir / "serve-api-2.json", stage.data_dir / "serve.json")  # for commands of this machine

    write_bundle(stage.folder / "bundle", stage.model, 1, (PASSED,))
    first, second = service.client("api-1"), service.client("api-2")
    first.publish_bundle(stage.folder / "bundle", stage.team_key)
    options = ["--devices", str(DEVICES), "--rate", "2", "--batch-seconds", "1", "--update-seconds", "6"]
    alive = {each["name"]: each["leads"] for each in first.processes() if each["alive"]}
    assert sorted(alive) == sorted(service.names)
    assert [name for name, leads in alive.items() if leads] == [service.leader()[0]]
    simulated = Simulated(stage, *options, "--seconds", "600")
    online = sa.select(sa.func.count()).select_from(tables.devices).where(tables.devices.c.online.is_(True))
    wait_for("every device to be online", lambda: service.scalar(online) == DEVICES, 90.0)

    # Each ingest process has stored something.
    created = first.create_campaign({"model": stage.model, "release": 1, "waves": [{"percent": 50}, {}]})
    first.act(created["id"], "start", created["version"])
    executions = sa.select(sa.func.count()).select_from(tables.executions)
    assigned = executions.where(tables.executions.c.assigned_at.is_not(None))
    wait_for("the first wave to be assigned", lambda: service.scalar(assigned) >= DEVICES // 2, 60.0)

    leader, epoch = service.leader()
    for name in (leader, "ingest-1", "api-1"):
        stage.kill(name)
    wait_for("another one to lead", lambda: service.leader()[1] > epoch, 10.0)
    assert service.leader()[0] != leader
    wait_for("the campaign to be completed", lambda: second.campaign(created["id"])["state"] == "COMPLETED", 120.0)
    service.start("ingest-1")  # it comes back, and takes its share
    wait_for("ingest-1 to be ready", lambda: service.ready("ingest-1"), 60.0)
    time.sleep(3.0)
    figures = simulated.end()

    states = sa.select(tables.executions.c.device, tables.executions.c.state)
    with service.database.connect() as connection:
        rows = connection.execute(states).all()
        assert sorted(row.device for row in rows) == sorted({row.device for row in rows})
        assert [row.state for row in rows] == ["COMMITTED"] * DEVICES
        counters = connection.execute(sa.select(tables.assignments.c.counter)).scalars().all()
        assert max(counters) <= 2, "more was signed than one assignment with the release, and one once it was committed"
        contiguous = connection.execute(sa.select(sa.func.sum(tables.spools.c.contiguous))).scalar_one()
        kept = connection.execute(sa.select(sa.func.sum(tables.messages.c.records))).scalar_one()
    assert (figures["dropped"], figures["connected"]) == (0, DEVICES)
    assert figures["acked"] + figures["unacknowledged"] == figures["records"]  # the last ones, at the end
    assert figures["acked"] <= contiguous <= figures["records"]
    assert kept == contiguous, "a record is stored twice"

"""The score that is shown of a device is the present one, of the model that it runs now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert

from wheeltapper_fleet.db.engine import open_database
from wheeltapper_fleet.devices.lifecycle import forget_device
from wheeltapper_fleet.devices.presence import store_statuses
from wheeltapper_fleet.devices.schemas import DeviceView
from wheeltapper_fleet.devices.views import get_device, list_devices
from wheeltapper_fleet.tables import devices
from wheeltapper_fleet.telemetry.store import store_messages
from wheeltapper_protocols.wire import messages as wire
from wheeltapper_protocols.wire.messages import PipelineStatus, Severity, Status, TelemetryRecord

START = 1000.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(f"sqlite:///{tmp_path}/fleet.db")
    enrol(engine, START)
    yield engine
    engine.dispose()


def enrol(engine: Engine, now: float) -> None:
    row: dict[str, Any] = {"id": "dev-1", "tags": {}, "enrolled_at": now, "certificate_sha256": "0" * 64}
    with engine.begin() as connection:
        connection.execute(insert(devices).values(**row, certificate_expires_at=1e10))


def runs(engine: Engine, now: float, **models: str | None) -> None:
    """The device says which model each of its pipelines runs."""
    pipelines = {name: PipelineStatus(model=model, release=1 if model else None) for name, model in models.items()}
    with engine.begin() as connection:
        store_statuses(connection, {"dev-1": (Status(online=True, at=now, pipelines=pipelines), "")}, now)


class Telemetry:
    """Windows of the device, as the ingest stores them."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.seq = engine, 0

    def window(self, at: float, score: float | None, severity: str = "normal", pipeline: str = "main") -> None:
        self.seq += 1
        place: dict[str, Any] = {"seq": self.seq, "pipeline": pipeline, "window": self.seq, "t_s": at}
        record = TelemetryRecord(**place, model="bearing", release=1, score=score, severity=Severity(severity))
        with self.engine.begin() as connection:
            store_messages(connection, [("dev-1", wire.Telemetry(epoch="0" * 16, oldest=1, records=[record]), b"")], at)


def shown(found: DeviceView) -> tuple[float | None, str | None, float | None]:
    return found.score, found.severity, found.no_score_since


def test_a_score_is_shown_until_it_is_five_windows_old(database: Engine) -> None:
    telemetry = Telemetry(database)
    runs(database, START, main="bearing")
    assert shown(get_device(database, "dev-1", START)) == (None, None, None)
    for minute in range(10):
        telemetry.window(START + 60.0 * minute, 0.5 + minute, "warning")
    last = START + 540.0
    assert shown(get_device(database, "dev-1", last + 299.0)) == (9.5, "warning", None)
    assert shown(get_device(database, "dev-1", last + 301.0)) == (None, None, last)
    (found,) = list_devices(database, last + 301.0).items
    assert shown(found) == (None, None, last)
    assert found.pipelines[0].scored_at == last
    assert len(get_device(database, "dev-1", last).scores) == 10
    assert found.scores == [], "a list reads no curves unless it is asked to"
    assert len(list_devices(database, last, curves=True).items[0].scores) == 10


def test_windows_without_a_score_do_not_renew_it(database: Engine) -> None:
    telemetry = Telemetry(database)
    runs(database, START, main="bearing")
    telemetry.window(START, 0.4)
    for second in range(1, 300):
        telemetry.window(START + second, None)
    assert shown(get_device(database, "dev-1", START + 50.0)) == (0.4, "normal", None)
    assert shown(get_device(database, "dev-1", START + 300.0)) == (None, None, START)
    telemetry.window(START + 300.0, 0.6)
    assert shown(get_device(database, "dev-1", START + 301.0)) == (0.6, "normal", None)


def test_each_pipeline_has_its_own_score_and_the_worst_is_the_device_s(database: Engine) -> None:
    telemetry = Telemetry(database)
    runs(database, START, fast="bearing", slow="gear", none=None)
    telemetry.window(START, 2.5, "critical", "slow")
    telemetry.window(START + 240.0, 2.4, "critical", "slow")
    for tenth in range(400):
        telemetry.window(START + 240.0 + 0.1 * tenth, 0.1, "normal", "fast")
    found = get_device(database, "dev-1", START + 281.0)
    assert shown(found) == (2.4, "critical", None)
    assert {each.name: each.score for each in found.pipelines} == {"fast": 0.1, "none": None, "slow": 2.4}
    found = get_device(database, "dev-1", START + 600.0)  # the slow one may take 20 minutes, the fast one may not
    assert shown(found)[:2] == (2.4, "critical")
    assert found.no_score_since == pytest.approx(START + 279.9)
    assert [each.no_score_since is not None for each in found.pipelines] == [True, False, False]


def test_without_a_model_there_is_no_score(database: Engine) -> None:
    telemetry = Telemetry(database)
    runs(database, START, main="bearing")
    telemetry.window(START, 3.0, "critical")
    runs(database, START + 1.0, main=None)
    found = get_device(database, "dev-1", START + 2.0)
    assert shown(found) == (None, None, None)
    assert found.scores == []
    assert found.pipelines[0].model is None


def test_a_device_that_is_enrolled_again_has_not_its_old_card(database: Engine) -> None:
    telemetry = Telemetry(database)
    runs(database, START, main="bearing")
    telemetry.window(START, 3.0, "critical")
    forget_device(database, "dev-1", who="ann", now=1.0)
    enrol(database, START + 10.0)
    found = get_device(database, "dev-1", START + 11.0)
    assert shown(found) == (None, None, None)
    assert (found.pipelines, found.scores) == ([], [])
    runs(database, START + 12.0, main="bearing")
    assert shown(get_device(database, "dev-1", START + 12.0)) == (None, None, None)
    telemetry.window(START + 13.0, 0.2)
    assert shown(get_device(database, "dev-1", START + 14.0)) == (0.2, "normal", None)

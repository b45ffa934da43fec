"""Presence, and the notice that two devices share one identity."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, insert, select, text

from wheeltapper_fleet.db.engine import open_database
from wheeltapper_fleet.devices.instances import Change, after_change, read_changes, sharing
from wheeltapper_fleet.devices.lifecycle import forget_device
from wheeltapper_fleet.devices.presence import store_statuses
from wheeltapper_fleet.devices.views import get_device, list_devices
from wheeltapper_fleet.tables import device_notices, devices
from wheeltapper_protocols.wire.messages import Status

A, B, C = "a" * 16, "b" * 16, "c" * 16
ROW: dict[str, Any] = {
    "id": "dev-1",
    "tags": {},
    "enrolled_at": 0.0,
    "certificate_sha256": "0" * 64,
    "certificate_expires_at": 1e10,
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(f"sqlite:///{tmp_path}/fleet.db")
    with engine.begin() as connection:
        connection.execute(insert(devices).values(ROW))
    yield engine
    engine.dispose()


def report(engine: Engine, instance: str | None, now: float, address: str = "", online: bool = True) -> None:
    with engine.begin() as connection:
        store_statuses(connection, {"dev-1": (Status(online=online, instance=instance), address)}, now)


def codes(engine: Engine) -> list[str]:
    return [each.code for each in get_device(engine, "dev-1").notices]


@pytest.mark.parametrize("turns", [A + A, "".join([A, B]), "".join([A, B, C])])
def test_an_agent_that_is_started_again_is_no_notice(database: Engine, turns: str) -> None:
    for now, start in enumerate(range(0, len(turns), 16)):
        for _ in range(3):
            report(database, turns[start : start + 16], float(now))
    assert codes(database) == []


def test_instances_that_take_turns_are_a_notice_said_once(database: Engine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for now in range(12):
            report(database, (A, B)[now % 2], float(now), ("10.0.0.5", "10.0.0.9")[now % 2])
    assert codes(database) == ["device.shared_identity"]
    [notice] = get_device(database, "dev-1").notices
    assert "10.0.0.5 and 10.0.0.9" in notice.detail
    assert (notice.first_at, notice.last_at, notice.count) == (3.0, 11.0, 9)
    assert len([record for record in caplog.records if "shared_identity" in record.getMessage()]) == 1
    assert [each.code for each in list_devices(database).items[0].notices] == ["device.shared_identity"]


def test_one_repeated_message_is_no_notice(database: Engine) -> None:
    for now, instance in enumerate([A, B, A]):
        report(database, instance, float(now))
    assert codes(database) == []


def test_the_will_of_a_replaced_connection_does_not_set_the_device_offline(database: Engine) -> None:
    report(database, A, 1.0)
    report(database, B, 2.0)
    report(database, A, 3.0, online=False)
    assert get_device(database, "dev-1").online
    report(database, B, 4.0, online=False)
    assert not get_device(database, "dev-1").online


def test_a_will_without_instance_sets_the_device_offline(database: Engine) -> None:
    report(database, None, 1.0)
    report(database, None, 2.0, online=False)
    assert not get_device(database, "dev-1").online


def test_a_device_that_is_enrolled_anew_has_no_notice(database: Engine) -> None:
    for now in range(6):
        report(database, (A, B)[now % 2], float(now))
    forget_device(database, "dev-1", who="ann", now=1.0)
    with database.begin() as connection:
        assert connection.execute(select(device_notices)).all() == []
        connection.execute(insert(devices).values(ROW))
    report(database, A, 9.0)
    assert codes(database) == []


def test_a_row_of_another_version_is_read_as_far_as_it_goes(database: Engine) -> None:
    with database.begin() as connection:
        connection.execute(text("UPDATE devices SET instances = '{\"x\": [1]}'"))
    for now in range(4):
        report(database, (A, B)[now % 2], float(now))
    assert codes(database) == ["device.shared_identity"]


@given(st.lists(st.sampled_from([A, B, C]), max_size=30), st.floats(0.1, 1e5))
def test_turns_need_an_instance_that_comes_back(instances: list[str], pause: float) -> None:
    changes: list[Change] = []
    for index, instance in enumerate(instances):
        changes = after_change(changes, Change(instance, index * pause))
    assert len(changes) <= 8
    assert all(one.instance != other.instance for one, other in itertools.pairwise(changes))
    found = sharing(changes, len(instances) * pause)
    assert len(found) != 1
    assert all([each.instance for each in changes].count(change.instance) > 1 for change in found)
    assert read_changes([[each.instance, each.at, each.address] for each in changes]) == changes

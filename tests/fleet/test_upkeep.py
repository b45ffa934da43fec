"""What the service renews by itself, and how it warns of the rest."""

from __future__ import annotations

import logging
import shutil

import pytest
from sqlalchemy import update

from tests.fleet.trust.world import MODEL, World
from wheeltapper_fleet.tables import devices
from wheeltapper_fleet.trust.ceremony import renew_roles
from wheeltapper_fleet.upkeep import Upkeep

DAY = 86_400.0


@pytest.fixture
def upkeep(world: World) -> Upkeep:
    world.ca.server_files()
    world.ca.ingest_files()
    duties = (("server", lambda: bool(world.ca.server_files())), ("ingest", lambda: bool(world.ca.ingest_files())))
    return Upkeep(world.repository, world.ca, world.engine, world.clock, duties=duties)


def names(upkeep: Upkeep) -> set[str]:
    return {life.name for life in upkeep.ending()}


def test_a_service_that_runs_is_warned_of_offline_roles_only_long_before_they_end(
    world: World, upkeep: Upkeep, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    first_warning = None
    for day in range(340):
        upkeep.turn()
        assert names(upkeep) <= {"root", "targets", MODEL, "pump-anomaly"}, "the service renews all the others"
        if caplog.records and first_warning is None:
            first_warning = day
        world.clock.now += DAY
    assert first_warning is not None
    assert 200 < first_warning < 365 - 60
    caplog.clear()
    for _ in range(48):
        world.clock.now += DAY / 48
        upkeep.turn()
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 4, warned  # each of the four once a day, however often the service looks
    assert all("wheeltapper keys renew" in text for text in warned)
    renew_roles(world.keys_dir, world.data_dir, [], clock=world.clock)
    caplog.clear()
    world.clock.now += 2 * DAY
    upkeep.turn()
    assert not caplog.records
    assert not upkeep.ending()


def test_a_service_that_was_down_for_a_year_renews_what_expired(world: World, upkeep: Upkeep) -> None:
    world.clock.now += 500 * DAY
    assert {"timestamp", "snapshot", "server certificate", "ingest certificate", "root"} <= names(upkeep)
    upkeep.turn()
    assert names(upkeep) == {"root", "targets", MODEL, "pump-anomaly"}


def test_devices_that_did_not_renew_are_named_with_their_number(world: World, upkeep: Upkeep) -> None:
    for device in ("press-1", "press-2", "press-3"):
        world.enrol(device)
    assert not upkeep.ending()
    with world.engine.begin() as connection:
        connection.execute(update(devices).where(devices.c.id == "press-3").values(state="revoked"))
    world.clock.now += 300 * DAY
    upkeep.turn()
    found = [life for life in upkeep.ending() if life.name == "device certificate"]
    assert [life.detail for life in found] == ["the first of 2 that end soon"]


def test_what_fails_keeps_nothing_else_from_being_renewed_and_is_logged_once_a_day(
    world: World, upkeep: Upkeep, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    kept = world.folder / "kept"
    shutil.move(world.repository.folder, kept)
    world.clock.now += 300 * DAY
    upkeep.turn()
    assert world.ca.lives()[1].expires_at > world.clock() + 300 * DAY, "the server's certificate was renewed"
    for _ in range(20):
        upkeep.ending()
    assert sum("TUF metadata" in record.getMessage() for record in caplog.records) == 1
    shutil.move(kept, world.repository.folder)
    upkeep.turn()
    assert "timestamp" not in names(upkeep)


@pytest.mark.parametrize("wrong_seconds", [-40 * 365 * DAY, 12 * 365 * DAY])
def test_certificates_made_while_the_clock_was_wrong_are_made_again(
    world: World, upkeep: Upkeep, wrong_seconds: float
) -> None:
    right = world.clock.now
    world.clock.now = max(right + wrong_seconds, 5000.0)
    upkeep.turn()
    world.clock.now = right
    upkeep.turn()
    online = [life for life in world.repository.lives() if life.name in {"snapshot", "timestamp"}]
    assert all(right < life.expires_at <= right + life.life_seconds for life in online)
    for life in world.ca.lives():
        assert right + 100 * DAY < life.expires_at < right + 3651 * DAY, life

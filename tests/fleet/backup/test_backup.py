"""Backups: whole, of one moment, restored on either database, and refused where they are damaged."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from tuf.ngclient import Updater

from tests.fleet.trust.world import World
from wheeltapper_fleet.backup.backup import VERSIONS_SKIPPED, create_backup, restore_backup, verify_backup
from wheeltapper_fleet.backup.rows import FIRST_ROWS, copy_rows, count_rows
from wheeltapper_fleet.campaigns.creation import create_campaign
from wheeltapper_fleet.campaigns.tables import campaign_log
from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.tables import devices, metadata
from wheeltapper_fleet.trust.repository import Repository, _FolderFetcher

AT = 1_700_000_000.0


def device_row(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": name,
        "tags": {"site": "nörd"},
        "enrolled_at": AT,
        "certificate_sha256": "0" * 64,
        "certificate_expires_at": AT + 1e8,
        **fields,
    }


def filled(world: World) -> World:
    """A fleet with a release, devices and a campaign."""
    world.publish(1)
    with world.engine.begin() as connection:
        rows = [device_row(f"press-{number}", status={"pipelines": {"main": {}}}) for number in range(3)]
        connection.execute(devices.insert(), rows)
    create_campaign(world.engine, {"model": "bearing-anomaly", "release": 1}, who="ann", now=AT)
    return world


def content(engine: Engine) -> dict[str, list[Any]]:
    """Every row of every table, as values."""
    with reading(engine) as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
            for table in metadata.sorted_tables
        }


def test_what_is_restored_is_what_was_saved(world: World, tmp_path: Path) -> None:
    filled(world)
    before = content(world.engine)
    contents = create_backup(world.data_dir, f"sqlite:///{world.data_dir / 'fleet.db'}", tmp_path / "saved")
    assert contents.rows["devices"] == 3
    assert verify_backup(tmp_path / "saved") == contents
    restore_backup(tmp_path / "saved", tmp_path / "new")
    restored = open_database(f"sqlite:///{tmp_path / 'new' / 'fleet.db'}")
    assert content(restored) == before
    restored.dispose()
    copies = {path.relative_to(tmp_path / "new") for path in (tmp_path / "new").rglob("*") if path.is_file()}
    kept = {path.relative_to(world.data_dir) for path in world.data_dir.rglob("*") if path.is_file()}
    missing = {str(path) for path in kept - copies}
    assert {name for name in missing if not name.startswith(("fleet.db", "broker"))} <= {"tuf/.lock", "serve.lock"}
    assert not any("offline" in str(path) for path in copies)


def test_a_backup_is_private(world: World, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        create_backup(world.data_dir, f"sqlite:///{world.data_dir / 'fleet.db'}", tmp_path / "saved")
        restore_backup(tmp_path / "saved", tmp_path / "new")
    finally:
        os.umask(before)
    for folder in (tmp_path / "saved", tmp_path / "new"):
        for path in (folder, *folder.rglob("*")):
            mode = path.stat().st_mode & 0o777
            public = folder.name == "new" and path.relative_to(folder).parts[:1] in (("tuf",), ("blobs",), ("ca",))
            assert mode & 0o077 == 0 or (public and mode & 0o022 == 0), (path, oct(mode))


def test_a_device_follows_a_restored_fleet(world: World, tmp_path: Path) -> None:
    """A device has seen newer metadata than the backup holds; it accepts what the restored fleet signs."""
    filled(world)
    cache = tmp_path / "device"
    create_backup(world.data_dir, f"sqlite:///{world.data_dir / 'fleet.db'}", tmp_path / "saved")
    for _ in range(5):
        world.clock.now += 40 * 86_400.0  # the fleet goes on and signs newer timestamps
        world.repository.refresh_timestamp()
    refreshed(world.data_dir / "tuf", cache, world.repository.trusted_root())
    shutil.rmtree(world.data_dir)
    restore_backup(tmp_path / "saved", tmp_path / "new")
    repository = Repository.open(tmp_path / "new", time.time)
    assert repository._timestamp().version > VERSIONS_SKIPPED
    refreshed(tmp_path / "new" / "tuf", cache, repository.trusted_root())
    assert repository.releases("bearing-anomaly").keys() == {1}


def refreshed(folder: Path, cache: Path, root: bytes) -> None:
    """Update a device's metadata; raises where the device would refuse them."""
    cache.mkdir(exist_ok=True)
    Updater(str(cache), folder.resolve().as_uri(), fetcher=_FolderFetcher(), bootstrap=root).refresh()


def test_rows_are_of_one_moment_while_the_service_writes(world: World, tmp_path: Path) -> None:
    filled(world)
    with world.engine.begin() as connection:
        connection.execute(devices.insert(), [device_row(f"other-{number}") for number in range(500)])
    stop, written = threading.Event(), [0]

    def write() -> None:
        while not stop.is_set():
            with world.engine.begin() as connection:  # both rows or none
                row = {"campaign": connection.execute(select(campaign_log.c.campaign)).scalar(), "at": AT, "who": "x"}
                connection.execute(campaign_log.insert().values(row | {"event": "pair"}))
                connection.execute(devices.insert().values(device_row(f"pair-{written[0]}")))
            written[0] += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(3):
            folder = tmp_path / f"saved-{number}"
            create_backup(world.data_dir, f"sqlite:///{world.data_dir / 'fleet.db'}", folder)
            saved = open_database(f"sqlite:///{folder / 'fleet.db'}")
            with reading(saved) as connection:
                pairs = len(connection.execute(select(campaign_log.c.id).where(campaign_log.c.event == "pair")).all())
                rows = len(connection.execute(select(devices.c.id).where(devices.c.id.startswith("pair-"))).all())
            saved.dispose()
            assert pairs == rows
    finally:
        stop.set()
        thread.join()
    assert written[0] > 0


def test_from_sqlite_to_postgresql_and_back(world: World, tmp_path: Path, postgres_url: str) -> None:
    filled(world)
    with world.engine.begin() as connection:  # what no version can read goes over too, where the database takes it
        connection.exec_driver_sql("UPDATE campaigns SET spec = '{\"newer\": 1}'")
    before = content(world.engine)
    create_backup(world.data_dir, f"sqlite:///{world.data_dir / 'fleet.db'}", tmp_path / "saved")
    restore_backup(tmp_path / "saved", tmp_path / "new", postgres_url)
    target = open_database(postgres_url)
    try:
        assert content(target) == before
        assert not (tmp_path / "new" / "fleet.db").exists()
        with target.begin() as connection:  # PostgreSQL numbers on after the rows that it was given
            campaign = connection.execute(select(campaign_log.c.campaign)).scalar()
            line = {"campaign": campaign, "at": AT, "who": "x", "event": "more"}
            connection.execute(campaign_log.insert().values(line))
        with pytest.raises(FleetError) as refused:
            restore_backup(tmp_path / "saved", tmp_path / "other", postgres_url)
        assert refused.value.code == "restore.not_empty"
        assert not (tmp_path / "other").exists()
        contents = create_backup(tmp_path / "new", postgres_url, tmp_path / "back")
        assert contents.database == "postgresql"
        after = content(target)
    finally:
        with target.begin() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
        target.dispose()
    verify_backup(tmp_path / "back")
    restore_backup(tmp_path / "back", tmp_path / "again")
    again = open_database(f"sqlite:///{tmp_path / 'again' / 'fleet.db'}")
    assert content(again) == after
    again.dispose()


def damage(folder: Path, how: str) -> None:
    contents = json.loads((folder / "backup.json").read_bytes())
    largest = max((each for each in contents["files"] if each["path"] != "fleet.db"), key=lambda each: each["length"])
    path = folder / largest["path"]
    match how:
        case "a bit":
            changed = bytearray(path.read_bytes())
            changed[len(changed) // 2] ^= 1
            path.write_bytes(changed)
        case "a file":
            path.unlink()
        case "cut":
            path.write_bytes(path.read_bytes()[:-1])
        case "database":
            changed = bytearray((folder / "fleet.db").read_bytes())
            changed[-2000] ^= 255
            (folder / "fleet.db").write_bytes(changed)
        case "unfinished":
            (folder / "backup.json").unlink()
        case "newer":
            (folder / "backup.json").write_text(json.dumps(contents | {"format": 2}))
        case "text":
            (folder / "backup.json").write_text("[")
        case "outside":
            contents["files"][0]["path"] = "data/../../../etc/passwd"
            (folder / "backup.json").write_text(json.dumps(contents))


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("a bit", "backup.damaged"),
        ("a file", "backup.damaged"),
        ("cut", "backup.damaged"),
        ("database", "backup.damaged"),
        ("unfinished", "backup.not_found"),
        ("newer", "backup.unreadable"),
        ("text", "backup.unreadable"),
        ("outside", "backup.unreadable"),
    ],
)
def test_what_is_damaged_is_refused(world: World, tmp_path: Path, how: str, code: str) -> None:
    create_backup(world.data_dir, f"sqlite:///{world.data_dir / 'fleet.db'}", tmp_path / "saved")
    damage(tmp_path / "saved", how)
    for act in (verify_backup, lambda folder: restore_backup(folder, tmp_path / "new")):
        with pytest.raises(FleetError) as refused:
            act(tmp_path / "saved")
        assert refused.value.code == code
    assert not (tmp_path / "new").exists()


def test_nothing_is_written_over(world: World, tmp_path: Path) -> None:
    url = f"sqlite:///{world.data_dir / 'fleet.db'}"
    create_backup(world.data_dir, url, tmp_path / "saved")
    with pytest.raises(FleetError) as refused:
        create_backup(world.data_dir, url, tmp_path / "saved")
    assert refused.value.code == "backup.exists"
    with pytest.raises(FleetError) as refused:
        restore_backup(tmp_path / "saved", world.data_dir)
    assert refused.value.code == "restore.not_empty"
    with pytest.raises(FleetError) as refused:
        create_backup(tmp_path, url, tmp_path / "other")
    assert refused.value.code == "backup.no_service"
    verify_backup(tmp_path / "saved")


def test_a_backup_that_cannot_be_finished_leaves_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wheeltapper_fleet.backup.backup.os.fsync", full)
    with pytest.raises(FleetError) as refused:
        create_backup(world.data_dir, f"sqlite:///{world.data_dir / 'fleet.db'}", tmp_path / "saved")
    assert refused.value.code == "backup.failed"
    assert "No space left" in refused.value.message
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("saved")] == []


def test_which_tables_of_a_new_database_have_rows(tmp_path: Path) -> None:
    new = open_database(f"sqlite:///{tmp_path}/new.db")
    with reading(new) as connection:
        assert {name for name, rows in count_rows(connection).items() if rows} == set(FIRST_ROWS)
    new.dispose()


def test_tables_of_more_rows_than_are_held_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wheeltapper_fleet.backup.rows.ROWS", 7)
    source, target = (open_database(f"sqlite:///{tmp_path}/{name}.db") for name in ("a", "b"))
    with source.begin() as connection:
        connection.execute(devices.insert(), [device_row(f"d-{number}") for number in range(50)])
    assert copy_rows(source, target)["devices"] == 50
    with reading(target) as connection:
        assert count_rows(connection)["devices"] == 50
    assert content(source) == content(target)
    source.dispose()
    target.dispose()

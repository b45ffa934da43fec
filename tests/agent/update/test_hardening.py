"""What a device must not forget, and what the world must not do to it: lost journals, floors, full disks, clocks."""

from __future__ import annotations

import errno
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.agent.bundles import MODEL_FILE, SMALL, make_bundle
from tests.agent.device import Device
from tests.agent.repository import Repository
from tests.agent.servers import DeviceServer, until
from wheeltapper_agent.ground import files
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.pipeline.ledger import MAX_PENDING
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.records.spool import Spool
from wheeltapper_agent.source.simulator import SimulatorSource
from wheeltapper_agent.update import floors, tuf_client
from wheeltapper_agent.update.floors import Floors, FloorStore, highest
from wheeltapper_agent.update.journal import Journal, JournalEntry
from wheeltapper_protocols.wire.messages import TelemetryRecord


class JumpingClock:
    """The real clock, with a wall clock that a test can set."""

    def __init__(self, offset_seconds: float = 0.0) -> None:
        self.offset_seconds = offset_seconds

    def now(self) -> float:
        return time.time() + self.offset_seconds

    def monotonic(self) -> float:
        return time.monotonic()


def _windows(device: Device) -> int:
    return device.pipeline.status().windows


def _scores_on(device: Device) -> None:
    count = _windows(device)
    until(lambda: _windows(device) > count + 1, 5, "windows")


# --- floors -----------------------------------------------------------------------------------------------------------


def test_floors_rise_only_and_survive_the_loss_of_any_copy(tmp_path: Path) -> None:
    paths = (tmp_path / "a.json", tmp_path / "slots/b.json")
    store = FloorStore(paths)
    store.raise_to(Floors(counter=5, payload_sha256="ab", newest_time_seconds=9.0, rollback_floors={"m": 3}))
    store.raise_to(Floors(counter=4, payload_sha256="cd", newest_time_seconds=1.0, rollback_floors={"m": 2, "n": 7}))
    expected = Floors(counter=5, payload_sha256="ab", newest_time_seconds=9.0, rollback_floors={"m": 3, "n": 7})
    for lost in (None, *paths):
        if lost is not None:
            lost.write_bytes(b"\xff{")
        assert FloorStore(paths).current == expected
    assert highest(Floors(), expected) == expected


def test_floors_of_another_version_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'{"counter":5,"payload_sha256":"ab","newest_time_seconds":9.0,"floors":{"m":3},"later":[1]}')
    store = FloorStore((path,))
    store.raise_to(Floors(metadata={"root": 2}))
    store.raise_to(Floors(counter=6, metadata={"root": 1, "x": 1}))
    assert FloorStore((path,)).current == Floors(
        counter=6, newest_time_seconds=9.0, rollback_floors={"m": 3}, metadata={"root": 2, "x": 1}
    )


def test_floors_outlast_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FloorStore((tmp_path / "a.json",))
    with monkeypatch.context() as patch:
        patch.setattr(floors, "write_atomic", _full)
        store.raise_to(Floors(counter=5))
    assert store.current.counter == 5
    store.raise_to(Floors())
    assert FloorStore((tmp_path / "a.json",)).current.counter == 5


@pytest.mark.parametrize(
    "lost", [("journal.json",), ("journal.json", "marks.json"), ("journal.json", "slots/marks.json")]
)
def test_an_old_assignment_is_refused_after_the_journal_was_lost(
    tmp_path: Path, server: DeviceServer, device: Device, lost: tuple[str, ...]
) -> None:
    old = server.repository.assign(server.repository.publish(2, make_bundle(2)), 2)
    current = server.repository.assign(server.repository.publish(3, make_bundle(3)), 3)
    device.updater.assign(current)
    until(lambda: "COMMITTED" in device.states("e3"), 10, "release 3")
    device.close()
    for name in lost:
        (tmp_path / "device" / name).write_bytes(b"\x00 lost")
    again = Device(tmp_path / "device", server)
    try:
        again.updater.assign(old)
        until(lambda: again.last() == ("refused", "assignment.counter"), 10, "the refusal")
        assert str(again.slots.active("main")).startswith("bearing-3-")
        reports = len(again.states("e3"))
        again.updater.assign(current)  # what was forgotten with the journal comes to its end again
        until(lambda: again.states("e3")[reports:] == ["ASSIGNED", "COMMITTED"], 10, "the newest one")
    finally:
        again.close()


def test_a_journal_with_one_byte_changed_is_put_aside(tmp_path: Path, device: Device) -> None:
    device.close()  # it would write the journal anew
    path = tmp_path / "device/journal.json"
    whole = path.read_bytes()
    damaged = whole.replace(b'"path":"releases/', b'"path":"releases?', 1)
    assert damaged != whole  # it is JSON of the right types, but no target of a pipeline
    path.write_bytes(damaged)
    assert Journal(path).read() == JournalEntry()
    assert path.with_name("journal.json.bad").read_bytes() == damaged


# --- the floor --------------------------------------------------------------------------------------------------------


def test_no_release_below_the_floor(tmp_path: Path, server: DeviceServer, device: Device) -> None:
    first = server.repository.publish(1, make_bundle(1))
    device.updater.assign(server.repository.assign(server.repository.publish(3, make_bundle(3, rollback_floor=2)), 2))
    until(lambda: "COMMITTED" in device.states("e2"), 10, "release 3")
    device.updater.assign(server.repository.assign(server.repository.publish(4, make_bundle(4, rollback_floor=1)), 3))
    until(lambda: "COMMITTED" in device.states("e3"), 10, "release 4, whose own floor is lower")
    device.close()
    (tmp_path / "device/journal.json").unlink()
    again = Device(tmp_path / "device", server)
    try:
        asked = len(server.requests)
        again.updater.assign(server.repository.assign(first, 4))
        until(lambda: "REJECTED" in again.states("e4"), 10, "the refusal")
        assert again.last() == ("REJECTED", "update.below_floor")
        assert not [path for path in server.requests[asked:] if "blobs" in path]
        second = server.repository.publish(2, make_bundle(2))
        again.updater.assign(server.repository.assign(second, 5))
        until(lambda: "COMMITTED" in again.states("e5"), 10, "release 2, which is at the floor")
    finally:
        again.close()


def test_a_damaged_release_does_not_fall_back_below_the_floor(
    tmp_path: Path, server: DeviceServer, device: Device
) -> None:
    device.updater.assign(server.repository.assign(server.repository.publish(2, make_bundle(2, rollback_floor=2)), 2))
    until(lambda: "COMMITTED" in device.states("e2"), 10, "release 2")
    active = str(device.slots.active("main"))
    device.close()
    model = tmp_path / "device/slots/releases" / active / MODEL_FILE
    model.unlink()
    model.write_bytes(b"damaged")
    again = Device(tmp_path / "device", server)
    try:
        _scores_on(again)
        assert again.pipeline.status().release is None
    finally:
        again.close()


def test_a_floor_above_its_own_release_is_malformed() -> None:
    with pytest.raises(ValueError, match="rollback_floor"):
        make_bundle(2, rollback_floor=3)


# --- windows that were missed -----------------------------------------------------------------------------------------


def test_windows_missed_by_a_late_reader_are_counted(tmp_path: Path) -> None:
    clock = JumpingClock()
    source = SimulatorSource(SMALL, tmp_path / "sim.json", clock)
    spool = Spool(tmp_path / "s.db")
    pipeline = Pipeline("main", source, spool, clock)
    windows = source.windows(0)
    next(windows)
    time.sleep(1.0)  # 50 windows; 20 are made up for
    next(windows)
    assert 20 <= source.dropped <= 40
    assert pipeline.status().dropped_windows == source.dropped
    spool.close()


# --- metadata that are older than they were --------------------------------------------------------------------------


def _cached(device: Device) -> Path:
    return device.slots.folder.parent / "tuf"


def _lose_cache(device: Device) -> None:
    for path in _cached(device).rglob("*.json"):
        path.write_bytes(b"")


def _refresh(device: Device) -> str:
    """How a look at the repository ends."""
    try:
        device.metadata.refresh(0.0)
    except AgentError as error:
        return error.code
    return ""


@pytest.mark.parametrize("restarted", [False, True])
def test_older_metadata_are_refused_also_where_the_cache_was_lost(
    tmp_path: Path, server: DeviceServer, device: Device, restarted: bool
) -> None:
    old = dict(server.repository.metadata)
    server.repository.publish(2, make_bundle(2))
    assert _refresh(device) == ""
    new = dict(server.repository.metadata)
    if restarted:
        device.close()
        device = Device(tmp_path / "device", server)
    server.repository.metadata = old
    assert _refresh(device) == "trust.version"
    _lose_cache(device)
    assert _refresh(device) == "trust.version"
    server.repository.metadata = new
    assert _refresh(device) == ""
    if restarted:
        device.close()


def test_an_older_root_is_refused_and_other_keys_begin_anew(server: DeviceServer, device: Device) -> None:
    for _ in range(5):
        server.repository.sign()
    assert _refresh(device) == ""
    old = dict(server.repository.metadata)
    server.repository.rotate(2)
    assert _refresh(device) == ""
    assert server.repository.version == 1
    _lose_cache(device)
    server.repository.metadata = old
    assert _refresh(device) == "trust.version"


def test_metadata_are_durable_when_they_count(
    server: DeviceServer, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    for name in ("fsync_file", "fsync_folder"):
        monkeypatch.setattr(tuf_client, name, lambda path: synced.append(path.name))
    assert _refresh(device) == ""
    assert synced == []
    server.repository.rotate(2)
    assert _refresh(device) == ""
    folders = ["root_history", "tuf"]
    assert sorted(synced) == sorted(["2.root.json", "snapshot.json", "targets.json", "timestamp.json", *folders])


# --- metadata that are refused for good -------------------------------------------------------------------------------


def test_refused_metadata_are_asked_for_ever_more_seldom(server: DeviceServer, device: Device) -> None:
    good = server.repository.assign(server.repository.publish(2, make_bundle(2, gain=0.7)), 2)
    asked, before = server.requests.count("/v1/tuf/timestamp.json"), len(device.bodies())
    server.planted["/v1/tuf/timestamp.json"] = (200, Repository().metadata["timestamp.json"])
    device.updater.assign(good)
    until(lambda: device.last() == ("refused", "trust.signature"), 10, "the refusal")
    time.sleep(1.6)
    assert server.requests.count("/v1/tuf/timestamp.json") - asked <= 5
    assert len(device.bodies()) == before + 1
    wrong = server.repository.assign(server.repository.publish(3, make_bundle(3)), 3, key=Repository().signers["root"])
    device.updater.assign(wrong)  # it replaces nothing
    del server.planted["/v1/tuf/timestamp.json"]
    until(lambda: "COMMITTED" in device.states("e2"), 15, "the good assignment, which was not given up")
    device.updater.assign(wrong)
    until(lambda: "assignment.signature" in [getattr(body, "code", "") for body in device.bodies()], 10, "the refusal")
    time.sleep(0.2)
    asked = len(server.requests)
    time.sleep(0.7)
    assert len(server.requests) == asked  # a wrong signature does not become right by asking again


# --- a disk that refuses ----------------------------------------------------------------------------------------------


def _full(*_args: Any, **_options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _read_only(*_args: Any, **_options: Any) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.parametrize(
    ("port", "fault", "code"),
    [
        ("blobs.fsync_folder", _full, "storage.full"),
        ("journal.write_atomic", _full, "storage.full"),
        ("journal.write_atomic", _read_only, "storage.read_only"),
        ("slots.write_once", _full, "storage.full"),
        ("slots.replace_link", _full, "storage.full"),
    ],
)
def test_a_disk_that_refuses_ends_the_execution_and_nothing_else(
    server: DeviceServer, device: Device, monkeypatch: pytest.MonkeyPatch, port: str, fault: Any, code: str
) -> None:
    target = server.repository.publish(2, make_bundle(2, gain=0.7))
    with monkeypatch.context() as patch:
        patch.setattr(f"wheeltapper_agent.update.{port}", fault)
        device.updater.assign(server.repository.assign(target, 2))
        until(lambda: device.last()[0] in ("FAILED", "ROLLED_BACK"), 10, "the end")
        assert device.last()[1] == code
        assert str(device.slots.active("main")).startswith("bearing-1-")
        _scores_on(device)
        assert device.scores_with() == 1
    device.updater.assign(server.repository.assign(target, 3))
    until(lambda: "COMMITTED" in device.states("e3"), 10, "the same release with room on the disk")


def test_a_spool_that_refuses_does_not_stop_the_scoring(
    tmp_path: Path, server: DeviceServer, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wheeltapper_agent.pipeline.ledger.MAX_PENDING", 10)
    target = server.repository.publish(2, make_bundle(2, gain=0.7))
    with monkeypatch.context() as patch:
        patch.setattr(device.spool, "append", _full)
        device.updater.assign(server.repository.assign(target, 2))
        until(lambda: device.pipeline.status().dropped_windows > 3, 10, "windows that found no room")
        assert device.pipeline.status().source == "spool.storage"
        until(lambda: device.pipeline.status().release == 2, 10, "release 2, although no report can be kept")
        _scores_on(device)
    until(lambda: "COMMITTED" in device.states("e2"), 10, "the reports that waited")
    assert device.states("e2")[0] == "ASSIGNED"
    until(lambda: device.pipeline.status().source == "running", 5, "the recovery")
    held = device.spool.peek(0, 100_000, ("telemetry",))
    indices = [entry.item.window for entry in held if isinstance(entry.item, TelemetryRecord)]
    assert indices == list(range(len(indices)))
    assert MAX_PENDING >= 100


def test_a_full_file_system_loses_nothing(tmp_path: Path) -> None:
    """What SQLite itself says on a full disk: nothing is half kept."""
    spool = Spool(tmp_path / "s.db")
    spool.append(TelemetryRecord(seq=1, pipeline="main", window=0, t_s=0.0))
    pages = spool._connection.execute("PRAGMA page_count").fetchone()[0]
    spool._connection.execute(f"PRAGMA max_page_count={pages}")
    many = [TelemetryRecord(seq=1, pipeline="main", window=1 + index, t_s=0.0) for index in range(2000)]
    with pytest.raises(Exception, match="full"):
        spool.append(*many)
    assert (spool.figures().seq, spool.next_window("main")) == (1, 1)
    spool._connection.execute("PRAGMA max_page_count=100000")
    spool.append(*many)
    assert spool.figures().held == 2001
    spool.close()


# --- clocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_seconds", [-20 * 365 * 86400.0, 20 * 365 * 86400.0])
def test_telemetry_goes_on_when_the_clock_jumps(tmp_path: Path, server: DeviceServer, jump_seconds: float) -> None:
    clock = JumpingClock()
    device = Device(tmp_path / "device", server, clock=clock)
    try:
        until(lambda: _windows(device) > 2, 5, "windows")
        dropped = device.pipeline.status().dropped_windows
        clock.offset_seconds = jump_seconds
        _scores_on(device)
        assert device.pipeline.status().dropped_windows - dropped < 50
    finally:
        device.close()
    again = Device(tmp_path / "device", server, clock=clock)
    try:
        _scores_on(again)
    finally:
        again.close()


def test_a_clock_in_the_past_does_not_revive_what_expired(tmp_path: Path, server: DeviceServer) -> None:
    clock = JumpingClock(-20 * 365 * 86400.0)
    device = Device(tmp_path / "device", server, clock=clock)
    try:
        now, target = time.time(), server.repository.publish(1, make_bundle(1))
        device.updater.assign(server.repository.assign(target, 1))
        until(lambda: "COMMITTED" in device.states("e1"), 10, "release 1")
        assert device.floors.current.newest_time_seconds == pytest.approx(now, abs=5)
        device.updater.assign(server.repository.assign(target, 2, issued_at=now - 900, expires_at=now - 300))
        until(lambda: device.last() == ("refused", "assignment.expired"), 10, "the refusal")
        server.repository.timestamp_expires = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
        server.repository.sign()
        device.updater.assign(server.repository.assign(target, 3))
        until(lambda: device.last() == ("refused", "trust.expired"), 10, "the refusal of old metadata")
    finally:
        device.close()


def test_a_clock_in_the_future_refuses_and_recovers(tmp_path: Path, server: DeviceServer) -> None:
    clock = JumpingClock(20 * 365 * 86400.0)
    device = Device(tmp_path / "device", server, clock=clock)
    try:
        raw = server.repository.assign(server.repository.publish(1, make_bundle(1)), 1)
        device.updater.assign(raw)
        until(lambda: bool(device.bodies()) and device.last() == ("refused", "trust.expired"), 10, "the refusal")
        assert device.floors.current.newest_time_seconds == 0.0
        clock.offset_seconds = 0.0
        until(lambda: "COMMITTED" in device.states("e1"), 10, "release 1, once the clock is right")
    finally:
        device.close()


def test_a_lying_director_does_not_lock_the_device_out(server: DeviceServer, device: Device) -> None:
    target = server.repository.publish(1, make_bundle(1))
    server.repository.timestamp_expires -= timedelta(hours=20)
    server.repository.sign()
    device.updater.assign(server.repository.assign(target, 2, issued_at=9e11, expires_at=1e12))
    until(lambda: "COMMITTED" in device.states("e2"), 10, "the assignment from the year 30000")
    assert device.floors.current.newest_time_seconds == server.repository.timestamp_expires.timestamp()
    server.repository.timestamp_expires += timedelta(hours=1)
    server.repository.sign()
    later = time.time() + 3 * 86400
    device.updater.assign(server.repository.assign(target, 3, expires_at=later))
    until(lambda: "COMMITTED" in device.states("e3"), 10, "the next one")


def test_the_file_port_says_what_the_disk_said(tmp_path: Path) -> None:
    from wheeltapper_agent.ground.errors import storage_error

    with pytest.raises(FileNotFoundError) as raised:
        files.write_atomic(tmp_path / "no/such", b"")
    assert storage_error(raised.value, "x").code == "storage.failed"

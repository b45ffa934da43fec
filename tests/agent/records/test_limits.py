"""The spool at its limits: bytes, age, a full and a read-only disk, damage, many threads."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.agent.servers import until
from tests.agent.spool_kit import ALL, Clock, alert, kill, losses, record
from wheeltapper_agent.records.database import is_full, used_bytes
from wheeltapper_agent.records.spool import Spool, SpoolLimits, read_figures
from wheeltapper_protocols.wire.messages import Report, TelemetryRecord

DAY = 86_400.0


def windows(spool: Spool, kind: str) -> list[int]:
    found = (held.item for held in spool.peek(0, 10**6, (kind,)))
    return [item.window for item in found if not isinstance(item, Report)]


def test_the_oldest_telemetry_goes_first_and_the_holes_are_told(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db", 64)
    for index in range(200):
        spool.append(record(index), *([alert(index)] if index % 50 == 0 else []))
    assert windows(spool, "alert") == [0, 50, 100, 150]
    kept = windows(spool, "telemetry")
    assert kept == list(range(200 - len(kept), 200))
    figures = spool.figures()
    assert figures.dropped_by_kind == {"telemetry": 200 - len(kept)}
    assert figures.held <= 64
    held = spool.peek(0, 10**6, ALL)
    seqs = [entry.seq for entry in held]
    for below, entry in zip([0, *seqs], held, strict=False):
        assert entry.before == below
        assert (entry.after is None) == (below == entry.seq - 1)
    (loss,) = losses(spool)
    assert loss.why == "spool.full"
    assert loss.lost_epoch is None
    spool.ack(spool.epoch, seqs[-1])
    spool.append(record(200))
    (loss,) = losses(spool)  # the one before is gone, so a new one has the present figures
    assert loss.counts == {"telemetry": 200 - len(kept)}
    spool.close()


def test_without_telemetry_the_oldest_alert_goes(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db", 32)
    spool.append(record(0))
    for index in range(100):
        spool.append(alert(index))
    kept = windows(spool, "alert")
    assert kept == list(range(100 - len(kept), 100))
    assert spool.figures().held <= 33
    assert windows(spool, "telemetry") == []
    assert spool.figures().dropped_by_kind["alert"] >= 100 - len(kept)
    spool.close()


def test_bytes_are_bounded_in_the_file(tmp_path: Path) -> None:
    path, limit = tmp_path / "s.db", 256 * 1024
    spool = Spool(path, limits=SpoolLimits(max_bytes=limit))
    for first in range(0, 20_000, 500):
        spool.append(*(record(first + index) for index in range(500)))
        assert used_bytes(spool._connection) <= limit
    spool.close()
    assert path.stat().st_size <= limit + 128 * 1024
    figures = read_figures(path)
    assert figures is not None
    assert figures.held > 1000
    assert figures.dropped + figures.held + figures.acked == figures.seq


def test_age_counts_the_time_that_the_agent_ran(tmp_path: Path) -> None:
    clock = Clock()
    limits = SpoolLimits(max_age_seconds=7 * DAY)

    def opened() -> Spool:
        return Spool(tmp_path / "s.db", limits=limits, monotonic=clock.monotonic, now=clock.now)

    spool = opened()
    spool.append(record(0), alert(0))
    clock.seconds += 4 * DAY
    spool.append(record(1))
    spool.close()
    clock.seconds = 5.0  # another boot; the time between does not count
    spool = opened()
    spool.append(record(2))
    assert windows(spool, "telemetry") == [0, 1, 2]
    clock.seconds += 4 * DAY
    spool.append(record(3))
    assert windows(spool, "telemetry") == [1, 2, 3]
    assert windows(spool, "alert") == []
    assert losses(spool)[0].why == "spool.age"
    assert losses(spool)[0].counts == {"telemetry": 1, "alert": 1}
    spool.close()


def test_telemetry_waits_for_company_and_an_alert_takes_it_along(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db", commit_seconds=30.0)
    spool.append(record(0))
    assert spool.figures().seq == 1  # nothing was committed just before
    spool.append(record(1))
    spool.append(record(2))
    assert spool.figures().seq == 1
    assert [held.seq for held in spool.peek(0, 9, ALL)] == [1]
    spool.append(alert(2))
    assert [held.seq for held in spool.peek(0, 9, ALL)] == [1, 2, 3, 4]
    spool.append(record(3))
    kill(spool)
    spool = Spool(tmp_path / "s.db", commit_seconds=0.3)
    assert (spool.next_window("main"), spool.figures().seq) == (3, 4)
    spool.append(record(3))
    spool.append(record(4))
    until(lambda: spool.figures().seq == 6, 5, "the commit after the window")
    spool.append(record(5))
    spool.close()
    figures = read_figures(tmp_path / "s.db")
    assert figures is not None
    assert figures.seq == 7


def test_threads_share_commits_and_each_seq_is_given_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db")

    def work(name: str) -> None:
        for index in range(60):
            spool.append(record(index, name))

    threads = [threading.Thread(target=work, args=(f"p{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = spool.peek(0, 1000, ALL)
    assert [entry.seq for entry in held] == list(range(1, 481))
    for number in range(8):
        mine = [e.item.window for e in held if isinstance(e.item, TelemetryRecord) and e.item.pipeline == f"p{number}"]
        assert mine == list(range(60))
    spool.close()


# --- disks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_gives_up_the_oldest_telemetry_and_goes_on(small_disk: Path) -> None:
    spool = Spool(small_disk / "s.db")
    spool.append(alert(0))
    total = 0
    for first in range(0, 60_000, 200):
        spool.append(*(record(first + index) for index in range(200)))
        total += 201 if first == 0 else 200
    figures = spool.figures()
    assert figures.dropped_by_kind["telemetry"] > 0
    assert "alert" not in figures.dropped_by_kind
    assert windows(spool, "alert") == [0]
    kept = windows(spool, "telemetry")
    assert kept == list(range(60_000 - len(kept), 60_000))
    assert len(kept) > 3000
    assert losses(spool)[0].why == "spool.full"
    spool.close()


def test_a_disk_that_others_filled_is_survived(small_disk: Path) -> None:
    spool = Spool(small_disk / "s.db")
    spool.append(*(record(index) for index in range(2000)))
    with (small_disk / "log").open("wb", buffering=0) as log, contextlib.suppress(OSError):
        while True:
            if log.write(bytes(4096)) < 4096:
                break
    accepted = 2000
    for index in range(2000, 2500):
        with contextlib.suppress(sqlite3.Error, OSError):
            spool.append(record(index))
            accepted += 1
    figures = spool.figures()
    assert accepted > 2100
    assert figures.held + figures.dropped == figures.seq
    (small_disk / "log").unlink()
    spool.append(record(9999))
    assert windows(spool, "telemetry")[-1] == 9999
    kill(spool)
    again = Spool(small_disk / "s.db")
    assert windows(again, "telemetry")[-1] == 9999
    assert again.figures().seq >= figures.seq
    again.close()


def _fill(folder: Path) -> None:
    """Fill the rest of the disk, as another program may."""
    for size in (4096, 1):
        with (folder / "log").open("ab", buffering=0) as log, contextlib.suppress(OSError):
            while log.write(bytes(size)):
                pass


@pytest.mark.parametrize("killed", [False, True])
def test_a_spool_begins_on_a_full_disk(small_disk: Path, killed: bool) -> None:
    """SQLite has no room for its log and the index of its log, until the reserve is deleted."""
    path = small_disk / "s.db"
    spool = Spool(path)
    spool.append(*(record(index) for index in range(2000)), alert(0))
    epoch = spool.epoch
    (kill if killed else Spool.close)(spool)
    _fill(small_disk)
    spool = Spool(path)
    assert (spool.epoch, len(windows(spool, "telemetry"))) == (epoch, 2000)
    for index in range(2000, 3000):
        spool.append(record(index))
    assert windows(spool, "alert") == [0]
    kept = windows(spool, "telemetry")
    assert kept == list(range(3000 - len(kept), 3000))
    assert len(kept) > 1500
    figures = spool.figures()
    assert figures.held + figures.dropped == figures.seq
    (small_disk / "log").unlink()
    spool.append(record(3000))
    assert windows(spool, "telemetry")[-1] == 3000
    spool.close()


def test_a_failed_write_means_a_full_disk_where_there_is_no_room(small_disk: Path) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    assert not is_full(error, small_disk / "s.db")
    _fill(small_disk)
    assert is_full(error, small_disk / "s.db")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
    assert not is_full(error, small_disk / "s.db")


@pytest.mark.parametrize("again", [False, True])
def test_a_full_disk_costs_the_damaged_spool_before_any_record(small_disk: Path, again: bool) -> None:
    path = small_disk / "s.db"
    spool = Spool(path)
    spool.append(*(record(index) for index in range(100)))
    for suffix in ("", "-wal"):
        path.with_name(f"s.db.bad{suffix}").write_bytes(bytes(600_000))
    if again:
        spool.close()
    _fill(small_disk)
    spool = Spool(path) if again else spool
    for index in range(100, 3000):
        spool.append(record(index))
    assert [file.name for file in small_disk.iterdir() if ".bad" in file.name] == []
    assert len(windows(spool, "telemetry")) == 3000
    spool.close()


def test_a_read_only_disk_at_the_start_and_later(small_disk: Path) -> None:
    path = small_disk / "s.db"
    spool = Spool(path)
    spool.append(*(record(index) for index in range(3)))
    spool.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    spool = Spool(path)
    assert spool.next_window("main") == 3
    with pytest.raises((sqlite3.Error, OSError)):
        spool.append(record(3))
    assert spool.peek(0, 9, ALL) == []
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    spool.append(record(3))
    assert windows(spool, "telemetry") == [0, 1, 2, 3]
    spool._connection.execute("PRAGMA query_only=1")  # SQLite's own word for a disk that turned read-only
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        spool.append(record(4))
    assert spool.ack(spool.epoch, 2)
    assert windows(spool, "telemetry") == [2, 3]
    spool._connection.execute("PRAGMA query_only=0")
    spool.append(record(4))
    assert windows(spool, "telemetry") == [2, 3, 4]
    spool.close()


def test_what_waited_survives_a_disk_that_refuses_for_a_while(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db", commit_seconds=0.5)
    spool.append(record(0))
    spool._connection.execute("PRAGMA query_only=1")
    spool.append(record(1))
    until(lambda: spool._refused, 5, "the refusal")
    with pytest.raises(sqlite3.OperationalError):
        spool.append(record(2))  # while the disk refuses, the caller hears of it
    spool._connection.execute("PRAGMA query_only=0")
    until(lambda: spool.figures().seq == 2, 5, "what waited")
    spool.append(record(2))
    until(lambda: windows(spool, "telemetry") == [0, 1, 2], 5, "the next")
    spool.close()


# --- damage -----------------------------------------------------------------------------------------------------------


def test_damage_while_running_begins_a_new_epoch(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    spool = Spool(path)
    spool.append(*(record(index) for index in range(3000)), alert(3000))
    spool.ack(spool.epoch, 100)
    old = spool.epoch
    spool.flush()
    spool._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    size = path.stat().st_size
    with path.open("r+b") as file:
        for page in range(1, size // 4096):
            file.seek(page * 4096)
            file.write(os.urandom(64))
    spool._connection.execute("PRAGMA cache_size=0")
    spool._connection.execute("PRAGMA shrink_memory")
    spool.append(record(3000))
    assert spool.epoch != old
    assert spool.next_window("main") == 3001  # no index twice
    (loss,) = losses(spool)
    assert (loss.why, loss.lost_epoch, loss.first, loss.last) == ("spool.corrupt", old, 101, 3001)
    assert loss.counts == {"telemetry": 2900, "alert": 1}
    assert path.with_name("s.db.bad").exists()
    spool.close()
    bad = [entry.name for entry in tmp_path.iterdir() if ".bad" in entry.name]
    assert len(bad) <= 3  # the database with its log: one old spool, not one each time


@pytest.mark.parametrize("seed", range(12))
def test_bytes_damaged_at_random_never_stop_it_and_never_pass_for_records(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    path = tmp_path / "s.db"
    spool = Spool(path)
    spool.append(*(record(index) for index in range(800)), *(alert(index) for index in range(20)))
    epoch = spool.epoch
    spool.close()
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 4, 40])):
        content[chance.randrange(len(content))] ^= chance.randrange(1, 256)
    if chance.random() < 0.3:
        del content[chance.randrange(len(content)) :]
    path.write_bytes(content)
    spool = Spool(path)
    spool.append(record(800))
    held = spool.peek(0, 10_000, ALL)
    for entry in held:
        if isinstance(entry.item, Report):
            continue
        window = entry.seq - 1 if entry.seq <= 800 else entry.seq - 801
        window = window if spool.epoch == epoch and entry.seq <= 820 else 800
        expected = record(window) if isinstance(entry.item, TelemetryRecord) else alert(window, epoch=epoch)
        assert entry.item == msgspec.structs.replace(expected, seq=entry.seq)
    if spool.epoch == epoch:
        missing = 821 - sum(1 for entry in held if entry.seq <= 821)
        told = sum(entry.seq - entry.before - 1 for entry in held)
        assert missing == told
    else:
        assert losses(spool)[0].why == "spool.corrupt"
        assert losses(spool)[0].lost_epoch in (None, epoch)
    spool.append(record(801))
    assert windows(spool, "telemetry")[-1] == 801
    spool.close()


def test_an_ack_of_what_was_never_given_means_that_the_file_went_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db")
    spool.append(record(0), record(1))
    old = spool.epoch
    assert spool.ack(old, 5)
    assert spool.epoch != old
    assert losses(spool)[0].counts == {"telemetry": 2}
    assert spool.next_window("main") == 2
    spool.close()

"""A damaged spool: its intact records are kept and sent, and the lost ones are counted and reported."""

from __future__ import annotations

import sqlite3
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.agent.servers import until
from tests.agent.spool_kit import Clock, FakePublisher, alert, kill, losses, record
from wheeltapper_agent.records.config import DeliveryConfig
from wheeltapper_agent.records.delivery import Delivery
from wheeltapper_agent.records.spool import Spool, SpoolLimits, read_figures
from wheeltapper_agent.records.spool_files import set_aside
from wheeltapper_protocols.wire.messages import TelemetryRecord

DAY = 86_400.0
PAGE = 4096


def _windows(spool: Spool) -> list[int]:
    found = (held.item for held in spool.peek(0, 10_000, ("telemetry",)))
    return [item.window for item in found if isinstance(item, TelemetryRecord)]


def _change(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        assert connection.execute(sql).rowcount != 0
    connection.close()


def _smash_the_first_leaf(path: Path) -> None:
    """Overwrite the page with the lowest numbers, which is read whenever the oldest record is looked for."""
    connection = sqlite3.connect(path)
    page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'records'").fetchone()[0]
    connection.close()
    content = path.read_bytes()
    while content[at := (page - 1) * PAGE] == 0x05:  # an interior page of a table
        cell = struct.unpack(">H", content[at + 12 : at + 14])[0]
        page = struct.unpack(">I", content[at + cell : at + cell + 4])[0]
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * PAGE)


# --- pages ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def smashed(tmp_path: Path) -> Spool:
    path = tmp_path / "s.db"
    spool = Spool(path)
    for first in range(0, 3000, 100):
        spool.append(*(record(first + index) for index in range(100)))
    spool.close()
    _smash_the_first_leaf(path)
    return Spool(path)


def test_who_asks_for_the_figures_of_a_damaged_spool_gets_those_of_the_next(smashed: Spool) -> None:
    old = smashed.epoch
    figures = smashed.figures()
    assert figures.epoch == smashed.epoch != old
    assert (figures.seq, figures.held, figures.oldest) == (1, 1, 1)
    assert [loss.lost_epoch for loss in losses(smashed)] == [old]
    smashed.close()


def test_a_delivery_begins_on_a_damaged_spool(smashed: Spool) -> None:
    publisher = FakePublisher()
    delivery = Delivery(smashed, publisher, DeliveryConfig(), Clock())
    delivery._step()
    assert len(publisher.sent) == 1
    smashed.close()


def test_a_damaged_table_of_answers_begins_a_new_epoch(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    Spool(path).close()
    connection = sqlite3.connect(path)
    pages = connection.execute("SELECT rootpage FROM sqlite_master WHERE tbl_name = 'answered'").fetchall()
    connection.close()
    with path.open("r+b") as file:
        for (page,) in pages:
            file.seek((page - 1) * PAGE)
            file.write(b"\xff" * PAGE)
    spool = Spool(path)
    old = spool.epoch
    assert not spool.answered("c1")
    assert spool.epoch != old
    spool.close()


def test_figures_are_told_though_the_disk_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "s.db")
    spool.append(record(0), record(1), record(2))
    spool.ack(spool.epoch, 1)

    def refuse() -> int:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(spool, "oldest", refuse)
        figures = spool.figures()
    assert (figures.seq, figures.acked, figures.oldest, figures.held) == (3, 1, 2, 2)
    spool.close()


def test_a_file_that_says_it_may_not_be_written_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    spool = Spool(path)
    spool.append(record(0))
    spool.close()
    with path.open("r+b") as file:
        file.seek(18)
        file.write(b"\x03")
    spool = Spool(path)
    spool.append(record(1))
    assert _windows(spool) == [1]
    assert losses(spool)[0].why == "spool.corrupt"
    spool.close()


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column",
    ["kind = NULL", "kind = x'00ff'", "kind = 'telemetrx'", "age_seconds = 'x'", "age_seconds = 1e12",
     "age_seconds = NULL", "age_seconds = x'00'", "crc = NULL", "crc = 'x'", "payload = NULL", "payload = 'x'"],
)  # fmt: skip
@pytest.mark.parametrize("seq", [3, 290])
def test_one_damaged_column_costs_one_record(tmp_path: Path, column: str, seq: int) -> None:
    """Records before and after the newest stored state, which is written every 256 records."""
    clock, path = Clock(), tmp_path / "s.db"
    limits = SpoolLimits(max_age_seconds=30 * DAY)

    def opened() -> Spool:
        return Spool(path, limits=limits, monotonic=clock.monotonic, now=clock.now)

    spool = opened()
    clock.seconds += DAY
    for index in range(300):
        spool.append(record(index))
    epoch = spool.epoch
    kill(spool)
    _change(path, f"UPDATE records SET {column} WHERE seq = {seq}")
    spool = opened()
    clock.seconds += 2 * DAY
    for index in range(300, 900):
        spool.append(record(index))
    assert (spool.epoch, spool.newest) == (epoch, 900)
    assert _windows(spool) == [window for window in range(900) if window != seq - 1]
    assert spool.figures().dropped_by_kind == {"telemetry": 1}
    assert losses(spool)[0].why == "spool.unreadable"
    spool.ack(epoch, spool.newest)
    spool._forget_at = 0.0
    spool.flush()
    assert spool.figures().held == 0
    spool.close()


def test_a_damaged_age_takes_no_other_record_along(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "s.db"
    limits = SpoolLimits(max_age_seconds=30 * DAY)

    def opened() -> Spool:
        return Spool(path, limits=limits, monotonic=clock.monotonic, now=clock.now)

    spool = opened()
    clock.seconds += 29 * DAY
    for index in range(100):
        spool.append(record(index))
    spool.close()
    _change(path, "UPDATE records SET age_seconds = 0.0 WHERE seq = 99")
    spool = opened()
    clock.seconds += 2 * DAY
    spool.append(record(100))
    assert _windows(spool) == [window for window in range(101) if window != 98]
    assert spool.figures().dropped_by_kind == {"telemetry": 1}
    spool.close()


def test_an_alert_whose_kind_is_damaged_does_not_hold_up_the_fleet(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    spool = Spool(path)
    spool.append(record(0), alert(0), record(1))
    kill(spool)
    _change(path, "UPDATE records SET kind = 'elert' WHERE seq = 2")
    spool = Spool(path)
    assert [(held.seq, held.after) for held in spool.peek(0, 9, ("telemetry",))] == [(1, None), (3, 1)]
    assert spool.figures().dropped == 1
    spool.close()


# --- where it stands --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "PRAGMA user_version = 77",
        "PRAGMA user_version = 0",
        "UPDATE meta SET value = x'00'",
        "UPDATE meta SET value = 'zzzzzzzz{}'",
        "DELETE FROM meta",
        "UPDATE records SET seq = 1000000 WHERE seq = 20",
        "UPDATE records SET seq = 9223372036854775807 WHERE seq = 20",
    ],
)
def test_a_spool_that_does_not_know_where_it_stands_begins_a_new_epoch(tmp_path: Path, sql: str) -> None:
    path = tmp_path / "s.db"
    spool = Spool(path)
    for index in range(20):
        spool.append(record(index))
    epoch = spool.epoch
    spool.close()
    _change(path, sql)
    read_figures(path)  # says what it can, and does not raise
    spool = Spool(path)
    assert spool.epoch not in (epoch, "0" * 16)
    spool.append(record(20))
    assert _windows(spool) == [20]
    assert losses(spool)[0].why == "spool.corrupt"
    spool.close()


def test_a_kill_while_the_schema_is_created_leaves_an_empty_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("wheeltapper_agent.records.database.write_state", die)
        with pytest.raises(KeyboardInterrupt):
            Spool(tmp_path / "s.db")
    spool = Spool(tmp_path / "s.db")
    spool.append(record(0))
    assert (spool.newest, losses(spool)) == (1, [])
    spool.close()


def test_a_seq_that_is_taken_means_damage(tmp_path: Path) -> None:
    """As if an old copy of the file had been put back."""
    path = tmp_path / "s.db"
    spool = Spool(path)
    spool.append(record(0))
    epoch = spool.epoch
    spool._connection.execute("INSERT INTO records(seq, kind) VALUES (2, 'telemetry')")
    spool.append(record(1))
    assert spool.epoch != epoch
    assert _windows(spool) == [1]
    assert spool.next_window("main") == 2
    spool.close()


def test_an_error_of_any_kind_loses_no_record_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "s.db", commit_seconds=0.2)
    spool.append(record(0))
    tried: list[int] = []

    def fail(rows: Any) -> None:
        tried.append(len(rows))
        raise RuntimeError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(spool, "_write", fail)
        for index in range(1, 51):
            spool.append(record(index))
        until(lambda: bool(tried), 5, "the commit that fails")
        with pytest.raises(RuntimeError, match="planted"):
            spool.append(alert(51))
    spool.flush()
    assert _windows(spool) == list(range(51))
    spool.close()


# --- set aside --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moves", [1, 2])
def test_a_kill_while_it_is_set_aside_gives_no_number_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    path = tmp_path / "s.db"
    spool = Spool(path)
    for index in range(10):
        spool.append(record(index))
    spool._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    for index in range(10, 60):
        spool.append(record(index))
    epoch, left = spool.epoch, moves
    replace = Path.replace
    copies = {name: path.with_name(name).read_bytes() for name in ("s.db", "s.db-wal", "s.db-shm")}
    kill(spool)
    for name, content in copies.items():  # as a kill leaves them: a close tidies up
        path.with_name(name).write_bytes(content)

    def dying(self: Path, target: Path) -> Path:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            set_aside(path)
    spool = Spool(path)
    assert spool.epoch != epoch
    (loss,) = losses(spool)
    assert (loss.why, loss.lost_epoch, loss.first) == ("spool.corrupt", epoch, 1)
    assert loss.last == (60 if moves == 2 else 10)  # where the log came along
    assert spool.next_window("main") == loss.last
    spool.append(record(60))
    assert _windows(spool) == [60]
    spool.close()
    spool = Spool(path)
    assert len(losses(spool)) == 1
    spool.close()

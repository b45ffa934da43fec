"""Records that were made before the clock was set: dated within the boot, marked after it, sent once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agent.spool_kit import ALL, FakePublisher, alert, record
from wheeltapper_agent.records.config import DeliveryConfig
from wheeltapper_agent.records.dating import BOOT_FILE, EARLIEST_SECONDS, Dating
from wheeltapper_agent.records.delivery import Delivery
from wheeltapper_agent.records.spool import Spool
from wheeltapper_protocols.wire.codec import decode
from wheeltapper_protocols.wire.messages import Alert, Report, ShadowReport, Telemetry, TelemetryRecord

TRUE = 1.8e9
"""Unix time of the first boot's beginning."""


class Board:
    """A board whose clock begins at ``wall`` with each boot, and is set to the true time when the test says so."""

    def __init__(self, wall: float = 0.0) -> None:
        self.begins, self.boot, self.up, self.booted_at, self.is_set = wall, "b1", 10.0, TRUE, False

    def now(self) -> float:
        return (self.booted_at if self.is_set else self.begins) + self.up

    def monotonic(self) -> float:
        return self.up + 3.0  # since the agent's own epoch

    def booted(self) -> tuple[str, float]:
        return self.boot, self.up

    def reboot(self) -> None:
        self.booted_at += self.up + 3600.0
        self.boot, self.up, self.is_set = "b2", 5.0, False


def _spool(folder: Path, board: Board) -> tuple[Spool, Delivery, FakePublisher, Dating]:
    dating, publisher = Dating(board, folder / BOOT_FILE, board.booted), FakePublisher()
    spool = Spool(folder / "s.db", monotonic=board.monotonic, now=board.now, dating=dating)
    config = DeliveryConfig(batch_seconds=0.0)
    return spool, Delivery(spool, publisher, config, board, dating=dating), publisher, dating


def _sent(delivery: Delivery, publisher: FakePublisher) -> dict[int, TelemetryRecord | Alert | Report]:
    publisher.sent.clear()
    delivery.on_connected()
    for _ in range(20):
        delivery._step(flush=True)
    found: dict[int, TelemetryRecord | Alert | Report] = {}
    for kind, payload in publisher.sent:
        message = decode(kind, payload)
        assert isinstance(message, Telemetry | Alert | Report)
        for each in message.records if isinstance(message, Telemetry) else [message]:
            assert each.seq not in found
            found[each.seq] = each
    return dict(sorted(found.items()))


def _make_three(spool: Spool, board: Board) -> None:
    """A window, an alert and a report, a minute apart."""
    spool.append(TelemetryRecord(seq=1, pipeline="main", window=0, t_s=board.now()))
    board.up += 60.0
    spool.append(alert(1, t_s=board.now() - 2.0, at=board.now()))
    board.up += 60.0
    spool.append(Report(epoch="0" * 16, oldest=1, seq=1, at=board.now(), body=ShadowReport(code="shadow.timeout")))
    board.up += 60.0


@pytest.mark.parametrize("wall", [0.0, 946_684_800.0, 1_262_304_000.0], ids=["1970", "2000", "2010"])
@pytest.mark.parametrize("restart", [False, True])
def test_what_was_made_before_the_clock_was_set_is_dated_when_it_is(tmp_path: Path, wall: float, restart: bool) -> None:
    board = Board(wall)
    spool, delivery, publisher, _ = _spool(tmp_path, board)
    _make_three(spool, board)
    if restart:  # of the agent alone
        spool.close()
        spool, delivery, publisher, _ = _spool(tmp_path, board)
    marked = _sent(delivery, publisher)
    assert [each.undated for each in marked.values()] == [True] * 3
    board.is_set = True
    board.up += 1000.0
    spool.append(record(9))
    first, second, third, _ = _sent(delivery, publisher).values()
    assert isinstance(first, TelemetryRecord)
    assert isinstance(second, Alert)
    assert (first.t_s, first.undated) == (TRUE + 10.0, False)
    assert (second.t_s, second.at, second.undated) == (TRUE + 68.0, TRUE + 70.0, False)
    assert isinstance(third, Report)
    assert (third.at, third.undated) == (TRUE + 130.0, False)
    assert list(_sent(delivery, publisher)) == [1, 2, 3, 4]  # sent again: the same numbers
    spool.close()


def test_what_was_made_in_an_earlier_boot_stays_marked(tmp_path: Path) -> None:
    board = Board()
    spool, _, _, _ = _spool(tmp_path, board)
    _make_three(spool, board)
    spool.close()
    board.reboot()
    spool, delivery, publisher, _ = _spool(tmp_path, board)
    _make_three(spool, board)
    board.is_set = True
    found = _sent(delivery, publisher)
    assert [each.undated for each in found.values()] == [True] * 3 + [False] * 3
    first, fourth = found[1], found[4]
    assert isinstance(first, TelemetryRecord)
    assert isinstance(fourth, TelemetryRecord)
    assert first.t_s == 10.0  # since that boot
    assert fourth.t_s == board.booted_at + 5.0
    spool.close()


def test_a_time_from_the_source_s_own_clock_is_kept(tmp_path: Path) -> None:
    board = Board()
    spool, delivery, publisher, _ = _spool(tmp_path, board)
    spool.append(TelemetryRecord(seq=1, pipeline="main", window=0, t_s=TRUE + 7.0))
    spool.append(alert(1, t_s=TRUE + 8.0, at=board.now()))
    telemetry, raised = _sent(delivery, publisher).values()
    assert isinstance(telemetry, TelemetryRecord)
    assert isinstance(raised, Alert)
    assert (telemetry.t_s, telemetry.undated) == (TRUE + 7.0, False)
    assert (raised.t_s, raised.at, raised.undated) == (TRUE + 8.0, TRUE + 8.0, False)
    spool.close()


def test_with_a_clock_that_is_set_nothing_is_changed(tmp_path: Path) -> None:
    board = Board()
    board.is_set = True
    spool, _, _, dating = _spool(tmp_path, board)
    items = (record(1), alert(2), TelemetryRecord(seq=1, pipeline="main", window=3, t_s=board.now()))
    assert [dating.stamped(item) for item in items] == list(items)
    spool.append(*items)
    assert [held.item.undated for held in spool.peek(0, 10, ALL)] == [False] * 3
    spool.close()


def test_a_disk_that_refuses_the_mark_of_the_boot_costs_nothing_in_this_life(tmp_path: Path) -> None:
    board = Board()
    (tmp_path / BOOT_FILE).mkdir()
    spool, delivery, publisher, _ = _spool(tmp_path, board)
    spool.append(TelemetryRecord(seq=1, pipeline="main", window=0, t_s=board.now()))
    board.is_set = True
    (found,) = _sent(delivery, publisher).values()
    assert not found.undated
    spool.close()


@given(st.floats(0, EARLIEST_SECONDS - 1e7), st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 3600))
def test_dating_gives_the_true_time(wall: float, up: float, later: float, ago: float) -> None:
    board = Board(wall)
    board.up = up + ago
    dating = Dating(board, Path("/nowhere/boot.json"), board.booted)
    dating.begin("0" * 16, 0)
    made = TelemetryRecord(seq=1, pipeline="main", window=0, t_s=max(0.0, board.now() - ago))
    stored = dating.stamped(made)
    assert stored.undated
    board.up += later
    board.is_set = True
    found = dating.dated(stored, "0" * 16, 1)
    assert isinstance(found, TelemetryRecord)
    assert found.t_s == pytest.approx(TRUE + up, abs=1e-3)
    assert not found.undated

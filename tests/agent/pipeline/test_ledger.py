"""The ledger: when windows are written down, in which order, and what a disk that refuses costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.pipeline.ledger import MAX_BLOCK, MAX_BLOCK_BYTES, MAX_PENDING, JudgedWindow, Ledger
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.source.base import Window
from wheeltapper_protocols.decision.decision import DecisionState, Verdict
from wheeltapper_protocols.wire.messages import Alert, Report, Severity, TelemetryRecord

FAST = 0.01


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> float:
        return self.seconds + 1e9


class FakeRecords:
    """Records, as the spool takes them; refuses while ``full``."""

    def __init__(self, windows: int = 0) -> None:
        self.appends: list[tuple[TelemetryRecord | Alert | Report, ...]] = []
        self.full, self.windows = False, windows

    def append(self, *items: TelemetryRecord | Alert | Report) -> None:
        if self.full:
            raise AgentError("storage.full", "planted")
        self.appends.append(items)

    def next_window(self, pipeline: str) -> int:
        return self.windows

    def open_alert(self, pipeline: str) -> Severity:
        return Severity.NORMAL

    @property
    def indices(self) -> list[int]:
        return [item.window for items in self.appends for item in items if isinstance(item, TelemetryRecord)]


class FakeObserver:
    def __init__(self) -> None:
        self.seen: list[int] = []

    def observe(self, observation: Observation) -> Sequence[Alert | Report]:
        self.seen.append(observation.index)
        return ()

    def end(self) -> Sequence[Alert | Report]:
        return ()


class Rig:
    def __init__(self, wait_seconds: float = 1.0, windows: int = 0) -> None:
        self.clock, self.records, self.observer = Clock(), FakeRecords(windows), FakeObserver()
        self.ledger = Ledger("main", self.records, self.clock, [self.observer], wait_seconds)
        self.ledger.begin()

    def add(self, count: int = 1, *, alert: bool = False, samples: int = 8, after: float = FAST) -> Any:
        self.clock.seconds += after
        first = self.ledger.next_index
        return self.ledger.add([judged(first + row, alert, samples) for row in range(count)])


def judged(index: int, alert: bool = False, samples: int = 8, **state: Any) -> JudgedWindow:
    window = Window(np.zeros((samples, 1), np.float32), float(index))
    severity = Severity.WARNING if alert else Severity.NORMAL
    verdict = Verdict(0.5, severity, alert=alert, changed=alert)
    return JudgedWindow(
        Observation("main", index, window, None, None, 0.5, verdict, 0.1), DecisionState(above_windows=index)
    )


@pytest.fixture
def rig() -> Rig:
    made = Rig()
    made.add()  # the first after a silence is written down at once
    assert made.records.indices == [0]
    return made


def test_fast_windows_are_written_down_together_and_in_order(rig: Rig) -> None:
    for _ in range(MAX_BLOCK - 1):
        rig.add()
    assert rig.records.indices == [0]
    assert rig.ledger.next_index == MAX_BLOCK
    rig.add()
    assert rig.records.indices == list(range(MAX_BLOCK + 1))
    assert [len(items) for items in rig.records.appends] == [1, MAX_BLOCK]
    assert rig.observer.seen == rig.records.indices


def test_none_waits_longer_than_half_of_what_is_allowed(rig: Rig) -> None:
    for _ in range(6):
        rig.add(after=0.1)
    assert rig.records.indices == [0]
    rig.add(after=0.1)  # 0.6 s after the first of them
    assert rig.records.indices == list(range(8))


def test_an_alert_takes_what_waited_along_at_once(rig: Rig) -> None:
    rig.add(3)
    rig.add(alert=True)
    kinds = [type(item).__name__ for item in rig.records.appends[-1]]
    assert kinds == ["TelemetryRecord"] * 4 + ["Alert"]
    assert [item.window for item in rig.records.appends[-1] if isinstance(item, Alert)] == [4]


def test_seldom_windows_do_not_wait(rig: Rig) -> None:
    for index in range(1, 4):
        rig.add(after=0.6)
        assert rig.records.indices == list(range(index + 1))


def test_where_nothing_shall_wait_nothing_does() -> None:
    rig = Rig(wait_seconds=0.0, windows=7)
    rig.add(after=0.0)
    rig.add(2, after=0.0)
    assert rig.records.indices == [7, 8, 9]


def test_great_windows_do_not_pile_up(rig: Rig) -> None:
    rig.add(samples=MAX_BLOCK_BYTES // 8)
    rig.add(samples=MAX_BLOCK_BYTES // 8)
    rig.add()
    assert rig.records.indices == [0, 1, 2, 3]


def test_a_source_that_fell_silent_is_written_down_by_another_thread(rig: Rig) -> None:
    rig.add(3)
    rig.ledger.flush_due()
    assert rig.records.indices == [0]
    rig.clock.seconds += 0.5
    rig.ledger.flush_due()
    assert rig.records.indices == [0, 1, 2, 3]


def test_the_end_writes_down_everything(rig: Rig) -> None:
    rig.add(3)
    rig.ledger.end()
    assert rig.records.indices == [0, 1, 2, 3]


def test_what_is_dropped_takes_no_index_and_the_decision_goes_back(rig: Rig) -> None:
    rig.records.full = True
    for _ in range(MAX_PENDING):
        assert rig.add() is None
    again = rig.add(alert=True)
    assert again is not None
    assert again.above_windows == MAX_PENDING + 1  # as it was before the alert, which a later window raises again
    assert (rig.ledger.dropped, rig.ledger.storage_failed, rig.ledger.has_pending) == (1, True, True)
    assert rig.ledger.next_index == MAX_PENDING + 1
    rig.records.full = False
    rig.add(2)
    assert rig.records.indices == list(range(MAX_PENDING + 3))
    assert (rig.ledger.storage_failed, rig.ledger.has_pending) == (False, False)


def test_a_machine_clock_that_is_nonsense_costs_no_record(rig: Rig) -> None:
    rig.clock.seconds += 5
    for t_s in (float("nan"), float("inf"), -3.0):
        window = Window(np.zeros((8, 1), np.float32), t_s)
        rig.clock.seconds += 5
        rig.ledger.add([JudgedWindow(Observation("main", rig.ledger.next_index, window, None), DecisionState())])
    assert [item.t_s for items in rig.records.appends[1:] for item in items if isinstance(item, TelemetryRecord)] == [
        0.0
    ] * 3

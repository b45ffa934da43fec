"""Duties: each by itself, named while it fails, done only by who leads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.fleet.broker.rig import until
from wheeltapper_fleet.ground.duties import Duties, Duty


@pytest.fixture
def duties() -> Iterator[Duties]:
    made = Duties(clock=lambda: 1000.0)
    yield made
    made.stop()


def test_a_duty_comes_back_and_follows_at_once_while_there_is_more(duties: Duties) -> None:
    times: list[float] = []

    def run(now: float) -> bool:
        times.append(now)
        return len(times) < 5

    duties.add(Duty("counting", 3600.0, run))
    duties.start()
    until(lambda: len(times) == 5)
    assert times == [1000.0] * 5


def test_one_that_hangs_and_one_that_fails_hold_up_no_other(duties: Duties, caplog: pytest.LogCaptureFixture) -> None:
    done, release, failures = threading.Event(), threading.Event(), 0

    def fails(now: float) -> bool:
        nonlocal failures
        failures += 1
        if failures < 3:
            raise ValueError("no such table")
        return False

    def works(now: float) -> bool:
        if failures >= 2:
            done.set()
        return False

    duties.add(Duty("hanging", 0.01, lambda now: release.wait(20)))
    duties.add(Duty("failing", 0.01, fails))
    duties.add(Duty("working", 0.01, works))
    duties.start()
    try:
        until(lambda: duties.failing() == {"failing": "no such table"})
        assert done.wait(10)
        until(lambda: duties.failing() == {} and failures >= 3)
    finally:
        release.set()
    said = [record.getMessage() for record in caplog.records if record.name.endswith("duties")]
    assert said == ["failing failed and is tried again: no such table", "failing works again"]


def test_only_the_leader_does_them(duties: Duties) -> None:
    leading, turns, asked = threading.Event(), 0, 0

    def leads() -> bool:
        nonlocal asked
        asked += 1
        return leading.is_set()

    def run(now: float) -> bool:
        nonlocal turns
        turns += 1
        return False

    duties.leads = leads
    duties.add(Duty("leading", 0.01, run))
    duties.start()
    until(lambda: asked > 5)
    assert turns == 0
    leading.set()
    until(lambda: turns > 2)


def test_names_are_unique_and_pauses_positive(duties: Duties) -> None:
    duties.add(Duty("one", 1.0, lambda now: False))
    with pytest.raises(ValueError, match="already"):
        duties.add(Duty("one", 1.0, lambda now: False))
    with pytest.raises(ValueError, match="above 0"):
        Duty("two", 0.0, lambda now: False)

"""A value that is small is counted at each ask; one that is large is kept for a moment, and counted by one thread."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from wheeltapper_fleet.ground.kept import MAX_AGE_SECONDS, Kept


class Fleet:
    """Counts how often it was counted, on a clock that stands still."""

    def __init__(self, size: int) -> None:
        self.size, self.now, self.counted = size, 100.0, 0
        self.go_on = threading.Event()
        self.go_on.set()
        self.kept = Kept(self.count, lambda size: size >= 10, lambda: self.now)

    def count(self) -> int:
        self.counted += 1
        assert self.go_on.wait(30)
        return self.size


def _renewed(fleet: Fleet, counted: int) -> None:
    """Wait until the renewing thread has ended."""
    for thread in threading.enumerate():
        if thread.name == "kept numbers":
            thread.join(30)
    assert fleet.counted == counted


def test_what_is_small_is_counted_at_each_ask() -> None:
    fleet = Fleet(9)
    assert fleet.kept.read() == 9
    fleet.size = 8
    assert fleet.kept.read() == 8
    assert fleet.counted == 2


def test_what_is_large_is_kept_and_renewed_beside_the_answers() -> None:
    fleet = Fleet(50)
    assert fleet.kept.read() == 50
    fleet.size = 51
    fleet.now += MAX_AGE_SECONDS * 0.4
    assert fleet.kept.read() == 50
    assert fleet.counted == 1
    fleet.now += MAX_AGE_SECONDS * 0.2
    fleet.go_on.clear()  # the count takes its time: answers do not wait for it, and it is not begun twice
    assert [fleet.kept.read() for _ in range(5)] == [50] * 5
    fleet.go_on.set()
    _renewed(fleet, 2)
    assert fleet.kept.read() == 51


def test_nothing_older_than_said_is_given_out_and_one_thread_counts() -> None:
    fleet = Fleet(50)
    fleet.kept.read()
    fleet.size, fleet.now = 60, fleet.now + MAX_AGE_SECONDS
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: fleet.kept.read(), range(8))) == [60] * 8
    assert fleet.counted == 2


def test_a_fleet_that_becomes_small_is_counted_at_each_ask_again() -> None:
    fleet = Fleet(50)
    fleet.kept.read()
    fleet.size, fleet.now = 5, fleet.now + MAX_AGE_SECONDS
    assert fleet.kept.read() == 5
    fleet.size = 4
    assert fleet.kept.read() == 4


def test_what_fails_is_told_and_tried_again() -> None:
    fleet = Fleet(50)
    fleet.kept.read()
    broken = Kept(lambda: 50 // (fleet.size - 50), lambda _: True, lambda: fleet.now)
    with pytest.raises(ZeroDivisionError):
        broken.read()
    fleet.size = 51
    assert broken.read() == 50
    fleet.size, fleet.now = 50, fleet.now + MAX_AGE_SECONDS * 0.6
    assert broken.read() == 50, "renewing fails beside the answer"
    _renewed(fleet, 1)
    fleet.now += MAX_AGE_SECONDS
    with pytest.raises(ZeroDivisionError):
        broken.read()
    fleet.size = 51
    assert broken.read() == 50, "a count that failed does not keep the lock"

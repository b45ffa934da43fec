"""A fault that comes again and again writes few lines, and each occurrence is counted in one of them."""

from __future__ import annotations

import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wheeltapper_agent.ground.errors import FaultCount
from wheeltapper_agent.ground.repeated import MAX_KINDS, RepeatedFaults, kind_of


class Clock:
    """Time that the test sets."""

    def __init__(self) -> None:
        self.seconds = 5.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelno, record.getMessage()))


def rig() -> tuple[RepeatedFaults, Clock, list[tuple[int, str]]]:
    log, handler, clock = logging.Logger("test", logging.DEBUG), Lines(), Clock()
    log.addHandler(handler)
    return RepeatedFaults(log, clock), clock, handler.lines


def counted(lines: list[tuple[int, str]]) -> int:
    """Occurrences that the lines tell of."""
    return sum(int(found[1]) if (found := re.search(r"\((\d+) times", line)) else 1 for _, line in lines)


def test_a_fault_of_a_day_writes_few_lines_and_counts_all() -> None:
    faults, clock, lines = rig()
    for number in range(86_400):
        faults.happened(f"the poll of register {number} failed")
        clock.seconds += 1
    assert len(lines) < 35
    assert lines[0] == (logging.WARNING, "the poll of register 0 failed")
    assert lines[1][1] == "the poll of register 60 failed (60 times in the last 60 s)"
    faults.ended()
    assert lines[-1][0] == logging.INFO
    assert lines[-1][1].endswith("it is over)")
    assert counted(lines) == faults.total == 86_400


def test_what_comes_and_goes_is_no_new_fault_each_time() -> None:
    faults, clock, lines = rig()
    for number in range(7_200):
        if number % 2:
            faults.ended()
        else:
            faults.happened("a payload cannot be read", level=logging.ERROR)
        clock.seconds += 1
    assert len(lines) < 12
    clock.seconds += 3600
    faults.ended()
    assert counted(lines) == faults.total == 3600
    clock.seconds += 3600
    faults.happened("a payload cannot be read")
    assert lines[-1][1] == "a payload cannot be read"  # it was away for long: it is news
    assert faults.counts() == [FaultCount("a payload cannot be read", 3601, False)]


def test_kinds_are_kept_apart_and_bounded() -> None:
    faults, _clock, lines = rig()
    faults.happened("busy", kind="modbus.6")
    faults.happened("no answer from unit 7", kind="modbus.11")
    faults.ended("modbus.6")
    assert [line for _, line in lines] == ["busy", "no answer from unit 7"]
    for number in range(10_000):
        faults.happened("another", kind=f"made up {number}")
    assert len(lines) <= MAX_KINDS + 1
    assert [fault.over for fault in faults.counts() if fault.text == "busy"] == [True]
    assert sum(fault.times for fault in faults.counts()) == 10_002
    assert kind_of("byte 194 of 'a': 1.5e+06") == kind_of("byte 7 of 'b c': 20.25e+11")
    assert kind_of("byte 194") != kind_of("bit 194")


@given(st.lists(st.tuples(st.sampled_from("abx"), st.floats(0, 500)), max_size=200))
def test_each_occurrence_is_in_a_line_and_lines_are_few(steps: list[tuple[str, float]]) -> None:
    faults, clock, lines = rig()
    said: dict[str, list[float]] = {"a": [], "b": []}
    for what, seconds in steps:
        before = len(lines)
        if what == "x":
            faults.ended()
        else:
            faults.happened(what)
        for _, line in lines[before:]:
            said[line[0]].append(clock.seconds)
        clock.seconds += seconds
    clock.seconds += 7200
    faults.ended()
    assert counted(lines) == faults.total == sum(what != "x" for what, _ in steps)
    for times in said.values():
        assert all(later - earlier >= 60 for earlier, later in zip(times, times[2:], strict=False))


def test_a_success_without_a_fault_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    faults, _clock, lines = rig()
    faults.ended()
    faults.ended("mqtt")
    assert not lines
    assert not caplog.text

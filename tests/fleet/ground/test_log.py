"""The log: what is new is written at once, what repeats is counted, nothing is lost."""

from __future__ import annotations

import io
import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wheeltapper_fleet.ground.log import MAX_LINES, CountingHandler


class Log:
    """A logger of its own over a :class:`CountingHandler` with a clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.stream = io.StringIO()
        self.handler = CountingHandler(self.stream, lambda: self.now_s)
        self.logger = logging.Logger("room")
        self.logger.addHandler(self.handler)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


def test_what_is_new_is_written_at_once_and_what_repeats_is_counted() -> None:
    log = Log()
    for _ in range(50):
        log.logger.warning("device %s sends nonsense", "press-1")
    log.logger.warning("device %s sends nonsense", "press-2")
    log.logger.error("device %s sends nonsense", "press-1")
    nonsense = "device press-1 sends nonsense"
    assert log.lines == [nonsense, nonsense.replace("1", "2"), nonsense]
    log.now_s += 61.0
    log.logger.info("something else")
    assert log.lines[3:] == [f"{nonsense} (49 times more in the last 61 s)", "something else"]


def test_pauses_grow_to_an_hour_and_what_stayed_away_is_new_again() -> None:
    log = Log()
    for _ in range(24 * 3600):
        log.now_s += 1.0
        log.logger.warning("the disk is full")
    assert len(log.lines) < 35
    log.now_s += 2 * 3600.0
    log.logger.info("well")
    before = len(log.lines)
    log.logger.warning("the disk is full")
    assert len(log.lines) == before  # counted: it was away only since its last line was written
    log.now_s += 2 * 3600.0
    log.logger.info("well")
    log.now_s += 2 * 3600.0
    log.logger.warning("the disk is full")
    assert log.lines[-1] == "the disk is full"


def test_a_traceback_is_written_once() -> None:
    log = Log()
    for _ in range(3):
        try:
            raise ValueError("no")
        except ValueError:
            log.logger.exception("it failed")
    assert log.stream.getvalue().count("Traceback") == 1
    log.handler.close()
    assert log.lines[-1] == "it failed (2 times more in the last 0 s)"


def test_a_flood_of_different_lines_is_bounded() -> None:
    log = Log()
    for number in range(5 * MAX_LINES):
        log.logger.warning("line %d", number)
    assert len(log.lines) <= MAX_LINES + 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 4000))))
def test_every_line_is_written_or_counted(events: list[tuple[str, float]]) -> None:
    log = Log()
    for text, pause_s in events:
        log.now_s += pause_s
        log.logger.warning(text)
    log.handler.close()
    told = 0
    for line in log.lines:
        more = re.search(r"\((once|\d+ times) more in", line)
        told += 1 if more is None else 1 if more[1] == "once" else int(more[1].split()[0])
    assert told == len(events)


def test_a_line_that_cannot_be_written_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log()
    log.logger.warning("%d devices", "x")
    log.logger.warning("well")
    assert log.lines == ["well"]
    assert "x" in capsys.readouterr().err

"""What a signal handler may call: it runs between any two instructions of the main thread, also within a wait."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from wheeltapper_agent.ground.wakeup import Wakeup

PROGRAM = """
import faulthandler, itertools, sys, threading
from wheeltapper_agent.ground.wakeup import Wakeup

class Event(threading.Event):
    def wait(self, seconds):
        woken = super().wait(seconds)
        self.clear()
        return woken

kind = {"wakeup": Wakeup, "event": Event}[sys.argv[1]]
faulthandler.dump_traceback_later(3, exit=True)

def handler_after(lines):
    made, seen, called = kind(), itertools.count(), []

    def trace(frame, event, argument):
        if next(seen) == lines:  # as a signal's handler: in this thread, now
            sys.settrace(None)
            called.append(True)
            made.set()
        return trace

    sys.settrace(trace)
    try:
        made.wait(0.0001)
    finally:
        sys.settrace(None)
    return bool(called)

lines = 0
while handler_after(lines):
    lines += 1
assert lines > 3
print("never stuck")
"""


@pytest.mark.parametrize(("kind", "safe"), [("wakeup", True), ("event", False)])
def test_it_may_be_set_between_any_two_lines_of_a_wait(kind: str, safe: bool) -> None:
    """A ``threading.Event`` shows that the test can fail."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.strip() == "never stuck") is safe, done.stderr


def test_it_ends_the_wait_under_way_or_the_next_one_and_no_other() -> None:
    wakeup = Wakeup()
    assert not wakeup.wait(0.01)
    threading.Timer(0.05, wakeup.set).start()
    began = time.monotonic()
    assert wakeup.wait(30.0)
    assert time.monotonic() - began < 20.0
    wakeup.set()
    wakeup.set()
    assert wakeup.wait(30.0)
    assert not wakeup.wait(0.01)

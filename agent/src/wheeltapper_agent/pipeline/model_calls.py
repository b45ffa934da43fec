"""Calls of a model that may never come back: native code cannot be ended, but its thread can be left behind.

Invariants:
    * A call costs its pipeline a lock and a reading of the clock, no thread.
    * A call that was given up changes nothing when it comes back: its thread gets :class:`LeftBehind` and ends.
    * Whether a call comes back or is given up is decided under a lock, so never both.

What is not done here: native code that keeps Python's lock (GIL) stops the whole process. Only the service manager's
watchdog ends that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError

__all__ = ["LeftBehind", "ModelCalls", "hangs"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class LeftBehind(BaseException):
    """The call of a model came back after it was given up; the pipeline goes on in another thread."""


def hangs(limit_seconds: float) -> AgentError:
    """The error of a model whose call did not come back."""
    text = f"a call of the model did not come back in {limit_seconds:g} s; it is not called again"
    return AgentError("model.hangs", text)


class ModelCalls:
    """The calls of one pipeline, of which there is one at a time.

    Args:
        clock: the device's.

    Example::

        evaluation = calls.run(bundle.evaluate, samples)  # in the pipeline's thread
        if calls.give_up(30.0):  # in another one
            ...  # go on in a new thread
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._since: float | None = None
        self._given_up = 0

    def run(self, call: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Return what ``call`` gives.

        Raises:
            LeftBehind: the call was given up meanwhile.
        """
        given_up = self._given_up
        self._since = self._clock.monotonic()
        try:
            return call(*args, **kwargs)
        finally:
            with self._lock:
                if self._given_up != given_up:
                    raise LeftBehind
                self._since = None

    def give_up(self, limit_seconds: float) -> bool:
        """Give up the present call if it takes longer than ``limit_seconds``; return whether it was given up."""
        with self._lock:
            if self._since is None or self._clock.monotonic() - self._since <= limit_seconds:
                return False
            self._since = None
            self._given_up += 1
            return True

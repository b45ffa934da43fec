"""Waiting inside a long effect, in a way that a cancel, a deadline or the end of the agent can interrupt.

Effects such as fetching or probation take minutes. They never sleep by themselves: they wait through
:class:`ExecutionWait`, which asks every :data:`POLL_SECONDS` whether to go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.update.journal import Execution

__all__ = ["POLL_SECONDS", "ExecutionWait", "Interrupted"]

POLL_SECONDS: Final = 0.05


class Interrupted(Exception):  # noqa: N818  # not an error: somebody asked
    """A long effect stopped early: the agent stops, or the execution was cancelled, superseded or ran out of time."""


class ExecutionWait:
    """Waits for a time by the monotonic clock, unless :attr:`interrupted` says otherwise.

    Attributes:
        interrupted: says whether the effect of an execution shall stop early. The updater sets it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.interrupted: Callable[[Execution], bool] = lambda _execution: False

    def raise_if_interrupted(self, execution: Execution) -> None:
        """Return at once if the effect of ``execution`` may go on.

        Raises:
            Interrupted: the effect shall stop.
        """
        if self.interrupted(execution):
            raise Interrupted

    def for_seconds(self, execution: Execution, seconds: float) -> None:
        """Wait for ``seconds``.

        Raises:
            Interrupted: the effect of ``execution`` shall stop.
        """
        deadline = self._clock.monotonic() + seconds
        while True:
            self.raise_if_interrupted(execution)
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return
            threading.Event().wait(min(left, POLL_SECONDS))

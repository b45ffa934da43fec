"""What an effect of the update machine comes to, and the patience of those that take long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.update.journal import Execution
from wheeltapper_agent.update.machine import Event

__all__ = ["POLL_SECONDS", "Interrupted", "Outcome", "Patience"]

POLL_SECONDS: Final = 0.05


class Interrupted(Exception):  # noqa: N818  # not an error: somebody asked
    """A long effect stopped early, because the agent stops or something else was asked for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The event that an effect led to, and why."""

    event: Event
    code: str = ""
    detail: str = ""
    metrics: dict[str, float] = field(default_factory=dict)


class Patience:
    """Waits that can be broken off."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.interrupted: Callable[[Execution], bool] = lambda _execution: False

    def check(self, execution: Execution) -> None:
        """Go on, or not.

        Raises:
            Interrupted: somebody asked.
        """
        if self.interrupted(execution):
            raise Interrupted

    def wait(self, execution: Execution, seconds: float) -> None:
        """Wait for ``seconds`` of the monotonic clock.

        Raises:
            Interrupted: as above.
        """
        deadline = self._clock.monotonic() + seconds
        while True:
            self.check(execution)
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return
            threading.Event().wait(min(left, POLL_SECONDS))

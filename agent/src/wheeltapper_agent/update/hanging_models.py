"""Models that hang: their pipelines go on without them, and the releases are loaded again later.

Invariants:
    * One model that hangs holds up neither the other pipelines nor the watchdog.
    * The release is loaded again after a minute, then after four times as long each, an hour at most. A thread that
      hangs cannot be ended, so after five times in a pipeline nothing is tried any more until the agent starts anew.
    * A release that was swapped in meanwhile stays.

What is not done here: deciding about a release in its trial. Its pipeline says ``model.hangs``, and probation rolls it
back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.source.attempt import Attempt

__all__ = ["HangingModels"]

_LOG = logging.getLogger(__name__)
_FIRST_SECONDS: Final = 60.0
_LONGEST_SECONDS: Final = 3600.0
_FACTOR: Final = 4.0
_MOST_TIMES: Final = 5
_LOAD_SECONDS: Final = 300.0
"""Loading takes seconds, also on a slow board; what takes longer hangs."""


@dataclass
class _Hanging:
    """One pipeline: how often its model hung, when its release is loaded again, and the attempt under way."""

    times: int = 0
    load_at: float | None = None
    attempt: Attempt[None] | None = None
    began_at: float = 0.0


class HangingModels:
    """Looks after the pipelines whose model hangs.

    Args:
        pipelines: by name.
        limit_seconds: a call of a model that takes longer hangs.
        load_again: loads the active release of a pipeline whose model hangs, by the pipeline's name.
        clock: the device's.
    """

    def __init__(
        self,
        pipelines: Mapping[str, Pipeline],
        limit_seconds: float,
        load_again: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._pipelines, self._limit_seconds = pipelines, limit_seconds
        self._load_again, self._clock = load_again, clock
        self._hanging: dict[str, _Hanging] = {}

    def turn(self) -> None:
        """Leave models behind that hang, and load releases again whose time has come; returns at once."""
        for name, pipeline in self._pipelines.items():
            if pipeline.leave_hanging_model(self._limit_seconds):
                self._plan(name, self._hanging.setdefault(name, _Hanging()))
        now = self._clock.monotonic()
        for name, found in self._hanging.items():
            self._go_on(name, found, now)

    def _plan(self, name: str, found: _Hanging) -> None:
        """A call of the model, or loading it again, came to nothing: say when it is loaded the next time."""
        found.times += 1
        if found.times >= _MOST_TIMES:
            _LOG.error(
                "pipeline %s: its model hung %d times; it is not loaded again until the agent starts anew",
                name,
                found.times,
            )
            return
        delay = min(_LONGEST_SECONDS, _FIRST_SECONDS * _FACTOR ** (found.times - 1))
        found.load_at = self._clock.monotonic() + delay
        _LOG.warning("pipeline %s: its release is loaded again in %.0f s", name, delay)

    def _go_on(self, name: str, found: _Hanging, now: float) -> None:
        """Begin to load the release again if its time has come, and see what became of it."""
        attempt = found.attempt
        if attempt is None:
            if found.load_at is not None and now >= found.load_at:
                found.load_at, found.began_at = None, now
                if self._pipelines[name].model_hangs:
                    found.attempt = Attempt(lambda: self._load_again(name), f"load-{name}")
        elif attempt.wait(0.0):
            found.attempt = None
            if attempt.error is not None:
                _LOG.error("pipeline %s: its release cannot be loaded again: %s", name, attempt.error)
                self._plan(name, found)
        elif now - found.began_at > _LOAD_SECONDS:
            found.attempt = None
            self._plan(name, found)

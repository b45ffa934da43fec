"""Whether the threads of the agent still do their work: the condition under which the watchdog is fed.

A thread that waits for a window or an assignment is well, however long it waits. A thread that ended by itself is not,
and neither is one that has been busy with a single piece of work for longer than the limit.

Not done here: telling anybody (:mod:`adapters.notify`), ending what hangs (the service manager does).
"""

from __future__ import annotations

from collections.abc import Callable

from wheeltapper_agent.ground.clock import Clock

__all__ = ["Liveness", "Pulse"]


class Pulse:
    """How long one thread has been busy with what it does now: ``with pulse:`` around one piece of work that must end
    soon. Written by that thread, read by any."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: float | None = None

    def __enter__(self) -> None:
        self._since = self._clock.monotonic()

    def __exit__(self, *_: object) -> None:
        self._since = None

    @property
    def busy_seconds(self) -> float:
        """0 while the thread waits."""
        since = self._since
        return 0.0 if since is None else self._clock.monotonic() - since


class Liveness:
    """The checks of all threads; each answers with what is wrong, or with an empty text."""

    def __init__(self, limit_seconds: float) -> None:
        self.limit_seconds = limit_seconds
        self._checks: dict[str, Callable[[], str]] = {}

    def watch(self, name: str, alive: Callable[[], bool], pulse: Pulse | None = None) -> None:
        """Watch the thread ``name``: ``alive`` says whether it runs or ended as it should."""

        def check() -> str:
            if not alive():
                return f"{name} ended"
            if pulse is not None and pulse.busy_seconds > self.limit_seconds:
                return f"{name} hangs since {pulse.busy_seconds:.0f} s"
            return ""

        self._checks[name] = check

    def troubles(self) -> list[str]:
        """What is wrong; empty while everything is alive."""
        return [found for check in self._checks.values() if (found := check())]

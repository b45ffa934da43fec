"""Whether the agent's threads still do their work: only then the service manager's watchdog is fed.

A thread that waits for a window or an assignment is well, however long it waits. A thread is in trouble if it ended
without being asked to, or if one piece of its work takes longer than the limit.

Not done here: feeding the watchdog (:mod:`wheeltapper_agent.host.notify`), ending a thread that hangs (the service
manager restarts the process).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from wheeltapper_agent.ground.clock import Clock

__all__ = ["Busy", "Liveness", "Pulse"]


class Busy(Protocol):
    """Something that works in a thread."""

    @property
    def busy_seconds(self) -> float:
        """Seconds since its present piece of work began; 0 while it waits."""
        ...


class Pulse:
    """How long one thread has been busy with its present piece of work. The thread writes it, any thread reads it.

    Example::

        with pulse:  # around a piece of work that must end soon
            score(window)
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: float | None = None

    def __enter__(self) -> None:
        self._since = self._clock.monotonic()

    def __exit__(self, *_: object) -> None:
        self._since = None

    @property
    def busy_seconds(self) -> float:
        """Seconds since the present piece of work began; 0 while the thread waits."""
        since = self._since
        return 0.0 if since is None else self._clock.monotonic() - since


class Liveness:
    """Collects one check for each thread, and runs them all.

    Args:
        limit_seconds: a piece of work that takes longer counts as hanging.
    """

    def __init__(self, limit_seconds: float) -> None:
        self.limit_seconds = limit_seconds
        self._checks: dict[str, Callable[[], str]] = {}

    def watch(self, name: str, alive: Callable[[], bool], pulse: Busy | None = None) -> None:
        """Watch one more thread.

        Args:
            name: how the thread is called in :meth:`troubles`.
            alive: whether the thread runs, or ended because it was told to.
            pulse: of the thread, if its pieces of work must end within the limit.
        """

        def check() -> str:
            if not alive():
                return f"{name} ended"
            if pulse is not None and pulse.busy_seconds > self.limit_seconds:
                return f"{name} hangs since {pulse.busy_seconds:.0f} s"
            return ""

        self._checks[name] = check

    def troubles(self) -> list[str]:
        """One text for each thread that is in trouble; empty if all are well."""
        return [found for check in self._checks.values() if (found := check())]

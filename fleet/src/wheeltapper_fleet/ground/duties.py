"""Duties: work that comes back by the clock, each on a thread of its own.

Invariants:
    * One duty that fails, waits or hangs holds up no other.
    * A failure is logged once for each reason, named by :meth:`Duties.failing` until a turn succeeds, and tried again
      after a pause that doubles up to a minute.
    * A turn begins only while :attr:`Duties.leads` says so: of several processes, only the leading one does the duties.

Example::

    duties = Duties()
    duties.add(Duty("webhooks", 1.0, deliver_slice))  # True from deliver_slice: there is more to do at once
    duties.start()

What this module does not do: the work. A turn does a bounded part of it and returns.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["Duties", "Duty"]

_LOG: Final = logging.getLogger(__name__)
_LONGEST_PAUSE_SECONDS: Final = 60.0
_BETWEEN_SLICES_SECONDS: Final = 0.01
"""Between two turns of a duty that has more to do; others get the database's write lock meanwhile."""
_STOP_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Duty:
    """Work that is done again and again.

    Args:
        name: for the log and the health check, e.g. ``alert triage``.
        every_seconds: pause between two turns.
        run: one turn at a Unix time; returns whether there is more to do at once. Called on the duty's thread.
    """

    name: str
    every_seconds: float
    run: Callable[[float], bool]

    def __post_init__(self) -> None:
        if not self.every_seconds > 0:
            raise ValueError(f"duty {self.name!r}: every_seconds must be above 0")


class Duties:
    """Runs duties, each on its thread, from :meth:`start` to :meth:`stop`.

    Args:
        leads: whether this process is to do them now; asked before each turn.
        clock: Unix seconds.
    """

    def __init__(self, *, leads: Callable[[], bool] = lambda: True, clock: Callable[[], float] = time.time) -> None:
        self.leads = leads
        self._clock = clock
        self._duties: dict[str, Duty] = {}
        self._reasons: dict[str, str] = {}
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()

    def add(self, duty: Duty) -> None:
        """Take on a duty. Names are unique; all are added before :meth:`start`."""
        if duty.name in self._duties:
            raise ValueError(f"there is a duty {duty.name!r} already")
        if self._threads:
            raise RuntimeError("duties are added before they are started")
        self._duties[duty.name] = duty

    def start(self) -> None:
        """Begin; the first turn of each follows at once."""
        for duty in self._duties.values():
            thread = threading.Thread(target=self._run, args=(duty,), name=f"duty-{duty.name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Begin no more turns; waits for those under way, ten seconds in all."""
        self._stopping.set()
        until = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                _LOG.warning("%s is still under way at the end of the service", thread.name)

    def failing(self) -> dict[str, str]:
        """The duties whose last turn failed, each with the reason."""
        return dict(self._reasons)

    def _run(self, duty: Duty) -> None:
        failures = 0
        while not self._stopping.is_set():
            more = False
            if self.leads():
                try:
                    more = duty.run(self._clock())
                    failures = 0
                    if self._reasons.pop(duty.name, None) is not None:
                        _LOG.warning("%s works again", duty.name)
                except Exception as error:  # noqa: BLE001  # one thing that breaks stays one thing
                    failures += 1
                    self._failed(duty.name, error)
            pause = _BETWEEN_SLICES_SECONDS if more else duty.every_seconds
            if failures:
                pause = max(pause, min(_LONGEST_PAUSE_SECONDS, 2.0 ** min(failures - 1, 6)))
            self._stopping.wait(pause)

    def _failed(self, name: str, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        if self._reasons.get(name) != reason:
            self._reasons[name] = reason
            _LOG.error("%s failed and is tried again: %s", name, reason, exc_info=error)

"""Logs a fault that comes again and again: its first occurrence, then how many more there were, with growing pauses.

Invariants:
    * The first occurrence of a kind of fault is logged at once. After that the kind writes at most one line a pause,
      and one when it ends; the pause is a minute at first and doubles up to an hour.
    * No occurrence goes uncounted: each line says how many there were since the line before, and
      :attr:`RepeatedFaults.total` counts all.
    * A fault that comes and goes, such as each second payload, is no new fault each time. It is one again after it was
      away for as long as the pause.
    * At most :data:`MAX_KINDS` kinds are told apart, whatever a server sends; all further ones count as one.

Example::

    faults = RepeatedFaults(_LOG, clock)
    try:
        poll()
    except AgentError as error:
        faults.happened(f"pipeline {name}: {error}", kind=error.code)
    else:
        faults.ended()

What this module does not do: decide what a fault is. :meth:`RepeatedFaults.counts` is for the status.
"""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass
from typing import Final

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import FaultCount

__all__ = ["MAX_KINDS", "RepeatedFaults", "kind_of"]

MAX_KINDS: Final = 32
_FIRST_PAUSE_SECONDS: Final = 60.0
_LONGEST_PAUSE_SECONDS: Final = 3600.0
_OTHERS: Final = ""
"""All kinds for which there is no room."""
_VARIABLE: Final = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")


def kind_of(text: str) -> str:
    """Return ``text`` without what differs from one occurrence to the next: numbers, and what stands in quotes."""
    return _VARIABLE.sub("#", text)


@dataclass(slots=True)
class _Fault:
    """One kind of fault: what was logged of it, and when."""

    text: str
    level: int
    logged_at_s: float
    newest_at_s: float
    began_at_s: float
    """First occurrence since something worked."""
    pause_s: float = _FIRST_PAUSE_SECONDS
    count: int = 1
    unlogged: int = 0
    """Occurrences since the last line."""
    over: bool = False

    def is_away(self, now_s: float) -> bool:
        """Whether the next occurrence is news: this one was away for as long as the pause."""
        return self.over and not self.unlogged and now_s - self.newest_at_s >= self.pause_s

    def line(self, now_s: float, end: str = "") -> str:
        """Return the text with the count since the last line, and begin a longer pause."""
        line = f"{self.text} ({self.unlogged} times in the last {now_s - self.logged_at_s:.0f} s{end})"
        self.unlogged, self.logged_at_s = 0, now_s
        self.pause_s = min(2 * self.pause_s, _LONGEST_PAUSE_SECONDS)
        return line


class RepeatedFaults:
    """The faults of one thing, such as a source or a connection. Any thread may use it.

    Args:
        log: takes the lines.
        clock: its monotonic time measures the pauses.
    """

    def __init__(self, log: logging.Logger, clock: Clock) -> None:
        self.total = 0
        """Occurrences of all kinds."""
        self._log, self._clock = log, clock
        self._faults: dict[str, _Fault] = {}
        self._lock = threading.Lock()

    def happened(self, text: str, kind: str = "", level: int = logging.WARNING) -> None:
        """A fault occurred.

        Args:
            text: what went wrong; logged for the first occurrence, and then once a pause with a count.
            kind: faults of one kind are one fault; empty: :func:`kind_of` the text.
            level: of the lines, as in :mod:`logging`.
        """
        now_s = self._clock.monotonic()
        with self._lock:
            self.total += 1
            kind = self._with_room(kind or kind_of(text), now_s)
            fault = self._faults.get(kind)
            if fault is None:
                self._faults[kind] = _Fault(text, level, now_s, now_s, now_s)
                line = text
            elif fault.is_away(now_s):
                self._faults[kind] = _Fault(text, level, now_s, now_s, now_s, count=fault.count + 1)
                line = text
            else:
                if fault.over:
                    fault.began_at_s, fault.over = now_s, False
                fault.text, fault.level, fault.newest_at_s = text, level, now_s
                fault.count += 1
                fault.unlogged += 1
                if now_s - fault.logged_at_s < fault.pause_s:
                    return
                line = fault.line(now_s)
        self._log.log(level, "%s", line)

    def ended(self, kind: str = "") -> None:
        """What failed works now. Cheap where nothing failed: call it for each success.

        Logs how often the fault occurred since the last line: at once if it lasted for a minute, or else with the
        first call after the pause.

        Args:
            kind: as for :meth:`happened`; empty: all kinds.
        """
        if not self._faults:
            return
        now_s = self._clock.monotonic()
        lines = []
        with self._lock:
            for name in [kind] if kind else list(self._faults):
                fault = self._faults.get(name)
                if fault is None:
                    continue
                lasted = not fault.over and now_s - fault.began_at_s >= _FIRST_PAUSE_SECONDS
                fault.over = True
                if fault.unlogged and (lasted or now_s - fault.logged_at_s >= fault.pause_s):
                    lines.append(fault.line(now_s, "; it is over"))
        for line in lines:
            self._log.info("%s", line)

    def counts(self) -> list[FaultCount]:
        """Return the kinds of faults that occurred, the newest first."""
        with self._lock:
            newest_first = sorted(self._faults.values(), key=lambda fault: -fault.newest_at_s)
            return [FaultCount(fault.text, fault.count, fault.over) for fault in newest_first]

    def _with_room(self, kind: str, now_s: float) -> str:
        """Return under which kind ``kind`` counts; where room is needed, forget one that was away for long."""
        if kind in self._faults or len(self._faults) < MAX_KINDS:
            return kind
        away = [name for name, fault in self._faults.items() if fault.is_away(now_s)]
        if not away:
            return _OTHERS
        del self._faults[min(away, key=lambda name: self._faults[name].newest_at_s)]
        return kind

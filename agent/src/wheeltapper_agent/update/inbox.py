"""Assignments and cancels that came in and were not handled yet.

Invariants:
    * An assignment stays here until it was accepted or refused for good, and it always has a time at which it is judged
      next: at once when it came, later where that could not be done.
    * None replaces another: which one is newer is known only once its signature was verified. At most
      :data:`MAX_WAITING` wait, those that came last.
    * At most 64 cancels are remembered, the newest. A cancel may come before its assignment.

What this module does not do: judge anything.
"""

from __future__ import annotations

import logging
import math
import threading
from dataclasses import dataclass
from typing import Final

from wheeltapper_agent.ground.backoff import retry_delay_seconds

__all__ = ["MAX_WAITING", "RETRY_CAP_SECONDS", "Inbox"]

_LOG = logging.getLogger(__name__)
_MAX_CANCELS: Final = 64
MAX_WAITING: Final = 8
RETRY_CAP_SECONDS: Final = 60.0
"""Longest mean delay between two attempts to judge an assignment."""


@dataclass(slots=True)
class _Waiting:
    """An assignment that waits to be judged."""

    envelope: bytes
    due_seconds: float = -math.inf
    """Monotonic time from which it may be judged."""
    failures: int = 0
    outdated: bool = False
    """One that was accepted after this one came may have replaced it."""


class Inbox:
    """What came in for the updater: assignments, and cancels.

    Any thread may fill it; the updater's thread empties it.

    Args:
        retry_seconds: mean delay before an assignment that could not be judged is judged again; doubles up to
            :data:`RETRY_CAP_SECONDS`.
    """

    def __init__(self, retry_seconds: float) -> None:
        self._retry_seconds = retry_seconds
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []
        """In the order in which they came."""
        self._cancels: dict[str, None] = {}
        self._closed = self._news = False

    def put(self, envelope: bytes) -> None:
        """Keep the envelope of an assignment that came in. One that waits already is judged at once."""
        with self._changed:
            known = next((one for one in self._waiting if one.envelope == envelope), _Waiting(envelope))
            known.due_seconds, known.outdated = -math.inf, False
            self._waiting = [one for one in self._waiting if one is not known] + [known]
            if len(self._waiting) > MAX_WAITING:
                _LOG.warning("updater: the oldest of %d assignments that wait is dropped", len(self._waiting))
                del self._waiting[0]
            self._wake()

    def cancel(self, execution: str) -> None:
        """Remember that the execution with this id is to be cancelled."""
        with self._changed:
            self._cancels[execution] = None
            while len(self._cancels) > _MAX_CANCELS:
                del self._cancels[next(iter(self._cancels))]
            self._wake()

    def close(self) -> None:
        """End every :meth:`wait`, now and later. The agent stops."""
        with self._changed:
            self._closed = True
            self._wake()

    def _wake(self) -> None:
        self._news = True
        self._changed.notify_all()

    def wait(self, seconds: float | None) -> None:
        """Wait until something comes; at most ``seconds``, or without a limit if that is None."""
        with self._changed:
            self._changed.wait_for(lambda: self._news or self._closed, seconds)
            self._news = False

    @property
    def cancels(self) -> tuple[str, ...]:
        """Ids of the executions to cancel, oldest first."""
        with self._changed:
            return tuple(self._cancels)

    def forget_cancel(self, execution: str) -> None:
        """Forget the cancel of an execution that ended."""
        with self._changed:
            self._cancels.pop(execution, None)

    def due(self, now_seconds: float) -> bytes | None:
        """The newest assignment that may be judged at the monotonic time ``now_seconds``; it stays here."""
        with self._changed:
            return next((one.envelope for one in reversed(self._waiting) if one.due_seconds <= now_seconds), None)

    @property
    def next_due_seconds(self) -> float | None:
        """Monotonic time at which one may be judged; None if there is none."""
        with self._changed:
            return min((one.due_seconds for one in self._waiting), default=None)

    def postpone(self, envelope: bytes, now_seconds: float, uniform: float) -> None:
        """Judge an assignment again later.

        Args:
            envelope: the one that could not be judged.
            now_seconds: present monotonic time.
            uniform: a random number from 0 to 1.
        """
        with self._changed:
            for one in self._waiting:
                if one.envelope == envelope:
                    one.failures += 1
                    delay = retry_delay_seconds(one.failures, uniform, self._retry_seconds, RETRY_CAP_SECONDS)
                    one.due_seconds = now_seconds + delay

    def accepted(self) -> None:
        """Note that one was accepted, which may have replaced those that wait."""
        with self._changed:
            for one in self._waiting:
                one.outdated = True

    def may_be_outdated(self, envelope: bytes) -> bool:
        """Whether one was accepted since this one came."""
        with self._changed:
            return any(one.outdated for one in self._waiting if one.envelope == envelope)

    def remove(self, envelope: bytes) -> None:
        """Forget an assignment that was accepted or refused for good."""
        with self._changed:
            self._waiting = [one for one in self._waiting if one.envelope != envelope]

"""Assignments and cancels that came in and were not handled yet.

Invariants:
    * Of two assignments only the newer is kept.
    * An assignment that could not be judged while an execution was under way is deferred until that ended.
    * At most 64 cancels are remembered, the newest. A cancel may come before its assignment.

What this module does not do: judge anything.
"""

from __future__ import annotations

import threading
from typing import Final

__all__ = ["Inbox"]

_MAX_CANCELS: Final = 64


class Inbox:
    """What came in for the updater: the newest assignment, and cancels.

    Any thread may fill it; the updater's thread empties it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._envelope: bytes | None = None
        self._deferred: bytes | None = None
        self._cancels: dict[str, None] = {}
        self._closed = False

    def put(self, envelope: bytes) -> None:
        """Keep the envelope of an assignment that came in; it replaces one that was not taken yet."""
        with self._changed:
            self._envelope = envelope
            self._changed.notify_all()

    def cancel(self, execution: str) -> None:
        """Remember that the execution with this id is to be cancelled."""
        with self._changed:
            self._cancels[execution] = None
            while len(self._cancels) > _MAX_CANCELS:
                del self._cancels[next(iter(self._cancels))]
            self._changed.notify_all()

    def close(self) -> None:
        """End every wait in :meth:`take`, now and later. The agent stops."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def cancels(self) -> tuple[str, ...]:
        """Ids of the executions to cancel, oldest first."""
        with self._changed:
            return tuple(self._cancels)

    def forget_cancel(self, execution: str) -> None:
        """Forget the cancel of an execution that ended."""
        with self._changed:
            self._cancels.pop(execution, None)

    @property
    def envelope(self) -> bytes | None:
        """The newest assignment, which stays in the inbox; None if there is none."""
        with self._changed:
            return self._envelope

    def take(self, hold_seconds: float, idle_seconds: float | None) -> bytes | None:
        """Take out the newest assignment, or else the deferred one.

        Args:
            hold_seconds: how long to hold back an assignment that was put back, unless another comes.
            idle_seconds: how long to wait where there is none; None: until something comes.

        Returns:
            The envelope; None if nothing came in time or the inbox was closed.
        """
        with self._changed:
            if self._envelope is None:
                self._envelope, self._deferred = self._deferred, None
            if not self._closed and (self._envelope is None or hold_seconds > 0):
                self._changed.wait(hold_seconds or idle_seconds)
            envelope, self._envelope = self._envelope, None
            return envelope

    def put_back(self, envelope: bytes) -> bool:
        """Put back an assignment that shall be tried again; False if a newer one came, which replaces it."""
        with self._changed:
            if self._envelope is not None:
                return False
            self._envelope = envelope
            return True

    def drop(self, envelope: bytes, later: bool) -> None:
        """Remove an assignment that was looked at during an execution, unless a newer one came.

        Args:
            envelope: the one that was looked at.
            later: defer it until the execution ended, since it could not be judged now.
        """
        with self._changed:
            if self._envelope is envelope:
                self._envelope = None
                self._deferred = envelope if later else None

"""What came in for the update machine and was not looked at yet.

Invariants: of two assignments only the newer is kept; one that could not be judged during an execution is kept aside
until that is over; so many cancels are remembered and no more.

What this module does not do: judge anything.
"""

from __future__ import annotations

import threading
from typing import Final

__all__ = ["Inbox"]

_MAX_CANCELS: Final = 64


class Inbox:
    """Filled from any thread, emptied by the updater's."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._envelope: bytes | None = None
        self._deferred: bytes | None = None
        self._cancels: dict[str, None] = {}
        self._closed = False

    def put(self, envelope: bytes) -> None:
        """An assignment came."""
        with self._changed:
            self._envelope = envelope
            self._changed.notify_all()

    def cancel(self, execution: str) -> None:
        """A cancel came, perhaps before its assignment."""
        with self._changed:
            self._cancels[execution] = None
            while len(self._cancels) > _MAX_CANCELS:
                del self._cancels[next(iter(self._cancels))]
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody waits any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def cancels(self) -> tuple[str, ...]:
        """The executions to cancel, oldest first."""
        with self._changed:
            return tuple(self._cancels)

    def forget_cancel(self, execution: str) -> None:
        """It is over."""
        with self._changed:
            self._cancels.pop(execution, None)

    @property
    def envelope(self) -> bytes | None:
        """The newest assignment; it stays here."""
        with self._changed:
            return self._envelope

    def take(self, hold_seconds: float, idle_seconds: float | None) -> bytes | None:
        """The newest assignment, or the one that was kept aside; None: nothing came.

        Args:
            hold_seconds: before one that was put back is given again, unless another comes.
            idle_seconds: how long to wait where there is none; None: until something comes.
        """
        with self._changed:
            if self._envelope is None:
                self._envelope, self._deferred = self._deferred, None
            if not self._closed and (self._envelope is None or hold_seconds > 0):
                self._changed.wait(hold_seconds or idle_seconds)
            envelope, self._envelope = self._envelope, None
            return envelope

    def put_back(self, envelope: bytes) -> bool:
        """To be tried again, unless a newer one came; whether none did."""
        with self._changed:
            if self._envelope is not None:
                return False
            self._envelope = envelope
            return True

    def drop(self, envelope: bytes, later: bool) -> None:
        """Done with it, unless a newer one came; ``later``: it is kept aside for the end of the execution."""
        with self._changed:
            if self._envelope is envelope:
                self._envelope = None
                self._deferred = envelope if later else None

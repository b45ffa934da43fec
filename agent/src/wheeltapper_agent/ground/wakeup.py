"""Wakes a thread that waits, from any thread and from a signal handler."""

from __future__ import annotations

import contextlib
from queue import Empty, SimpleQueue

__all__ = ["Wakeup"]


class Wakeup:
    """Like a :class:`threading.Event` that :meth:`wait` clears, but safe to set in a signal handler.

    Python runs a signal's handler in the main thread, between two of its instructions. ``threading.Event`` guards its
    flag by a lock that is not reentrant, so a handler that sets an event which the main thread is just waiting for or
    clearing waits for ever. ``SimpleQueue.put`` is reentrant (CPython's documentation of :mod:`queue`).
    """

    def __init__(self) -> None:
        self._tokens: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """End the wait that is under way, or else the next one."""
        self._tokens.put(None)

    def wait(self, seconds: float) -> bool:
        """Wait until :meth:`set` is called, at most ``seconds``.

        Returns:
            Whether it was called since the wait before.
        """
        try:
            self._tokens.get(timeout=seconds)
        except Empty:
            return False
        with contextlib.suppress(Empty):  # calls that came meanwhile are one
            while True:
                self._tokens.get_nowait()
        return True

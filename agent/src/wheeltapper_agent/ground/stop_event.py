"""An event that ends every wait of a thread when the agent stops."""

from __future__ import annotations

import contextlib
import threading

__all__ = ["StopEvent"]


class StopEvent:
    """Like :class:`threading.Event`, but once set it stays set. For threads that wait once a window.

    It is one lock that is held until :meth:`set`. ``threading.Event.wait`` creates and queues a lock at each call: that
    costs 50 us of a window's CPU time where the processor's cache is cold between two windows.
    """

    def __init__(self) -> None:
        self._held_until_set = threading.Lock()
        self._held_until_set.acquire()
        self._is_set = False

    def is_set(self) -> bool:
        """Whether :meth:`set` was called."""
        return self._is_set

    def set(self) -> None:
        """End every wait, now and later."""
        self._is_set = True
        with contextlib.suppress(RuntimeError):  # another thread released it just now
            self._held_until_set.release()

    def wait(self, seconds: float) -> bool:
        """Wait until :meth:`set` is called, at most ``seconds``.

        Returns:
            Whether :meth:`set` was called; True also at once where it was called before.
        """
        if (
            not self._is_set
            and seconds > 0
            and self._held_until_set.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))
        ):
            self._held_until_set.release()
        return self._is_set

"""Waiting that another thread can end, for loops that wait once a window.

``threading.Event.wait`` makes a lock and queues it at each call: 50 us of a window's CPU where the processor's cache is
cold between two windows. This is one lock that is held until the end.
"""

from __future__ import annotations

import contextlib
import threading

__all__ = ["Pause"]


class Pause:
    """As :class:`threading.Event`, without a way back."""

    def __init__(self) -> None:
        self._held = threading.Lock()
        self._held.acquire()
        self._over = False

    def is_set(self) -> bool:
        """Whether :meth:`set` was called."""
        return self._over

    def set(self) -> None:
        """End every wait, now and later."""
        self._over = True
        with contextlib.suppress(RuntimeError):  # another thread did it just now
            self._held.release()

    def wait(self, seconds: float) -> bool:
        """Wait for so long at most; True once :meth:`set` was called."""
        if not self._over and seconds > 0 and self._held.acquire(timeout=min(seconds, threading.TIMEOUT_MAX)):
            self._held.release()
        return self._over

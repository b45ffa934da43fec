"""Turns: who writes next, in the order in which they asked.

SQLite lets one write at a time. Who comes while another writes looks again every now and then, up to 0.1 s later; a
writer that begins anew at once, as the ingest of a busy fleet and a duty with much to do, is always sooner, and the
others wait until they give up. Within one process, writers therefore wait for their turn first.

Invariant: whoever waits is served before whoever asks after it.
"""

from __future__ import annotations

import threading
from collections import deque

__all__ = ["Turns"]


class Turns:
    """A lock that is given in the order of asking. It may be given back on another thread.

    Example:
        >>> turns = Turns()
        >>> turns.take(1.0)
        True
        >>> turns.take(0.0)
        False
        >>> turns.give()
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Event] = deque()

    def take(self, seconds: float) -> bool:
        """Wait for one's turn, at most so long; returns whether it came."""
        with self._guard:
            if not self._taken:
                self._taken = True
                return True
            mine = threading.Event()
            self._waiting.append(mine)
        if mine.wait(seconds):
            return True
        with self._guard:
            if mine.is_set():
                return True
            self._waiting.remove(mine)
            return False

    def give(self) -> None:
        """End one's turn."""
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._taken = False

"""Messages that wait for the database: bounded in number and in bytes, taken in batches.

Invariants:
    * :meth:`Backlog.put` never blocks; what does not fit is not taken.
    * A batch is bounded in number and in bytes, so a transaction is bounded in time and memory.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

__all__ = ["Backlog", "Received"]

Received = tuple[str, bytes]
"""A topic and a payload."""
_IDLE_SECONDS: Final = 0.1


class Backlog:
    """Between one or more threads that put messages in and one that takes them out.

    Args:
        max_messages, max_bytes: how much may wait.
        batch_messages, batch_bytes: how much is taken at once, at most; one message is taken whatever its size.
        gather_seconds: how long is waited for more, after the first message.
    """

    def __init__(
        self, *, max_messages: int, max_bytes: int, batch_messages: int, batch_bytes: int, gather_seconds: float
    ) -> None:
        self._limits = max_messages, max_bytes
        self._batch = batch_messages, batch_bytes
        self._gather_seconds = gather_seconds
        self._waiting: deque[Received] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._enough = threading.Event()

    def put(self, topic: str, payload: bytes) -> bool:
        """Add a message; False if there is no room for it."""
        with self._lock:
            count = len(self._waiting)
            if count >= self._limits[0] or (count and self._bytes + len(payload) > self._limits[1]):
                return False
            self._waiting.append((topic, payload))
            self._bytes += len(payload)
            enough = count + 1 >= self._batch[0] or self._bytes >= self._batch[1]
        if not count:
            self._some.set()
        if enough and not self._enough.is_set():
            self._enough.set()
        return True

    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    def take(self, hurry: bool = False) -> list[Received]:
        """The next batch; empty if nothing came for a moment.

        Args:
            hurry: do not wait for more than there is.
        """
        if not self._some.wait(_IDLE_SECONDS):
            return []
        if not hurry:
            self._enough.wait(self._gather_seconds)
        batch: list[Received] = []
        size = 0
        with self._lock:
            while self._waiting and len(batch) < self._batch[0] and size < self._batch[1]:
                each = self._waiting.popleft()
                size += len(each[1])
                batch.append(each)
            self._bytes -= size
            if not self._waiting:
                self._some.clear()
            if len(self._waiting) < self._batch[0] and self._bytes < self._batch[1]:
                self._enough.clear()
        return batch

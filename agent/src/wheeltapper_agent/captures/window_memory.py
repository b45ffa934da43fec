"""How much memory windows may take while they are collected for a recording, or wait to be written to a file."""

from __future__ import annotations

import threading

__all__ = ["WindowMemory"]


class WindowMemory:
    """Reservations of memory, one for each recording. Safe to use from several threads.

    Invariant: all reservations together are at most ``max_bytes``.

    Args:
        max_bytes: None: no limit.
    """

    def __init__(self, max_bytes: int | None) -> None:
        self.max_bytes = max_bytes
        self._reserved: dict[str, int] = {}
        self._lock = threading.Lock()

    def __contains__(self, name: str) -> bool:
        """Whether the recording ``name`` has a reservation: its windows are in memory, or on their way there."""
        return name in self._reserved

    @property
    def reserved_bytes(self) -> int:
        """The sum of all reservations."""
        with self._lock:
            return sum(self._reserved.values())

    def reserve(self, name: str, size_bytes: int) -> bool:
        """Reserve memory for the recording ``name``; False where too little is left."""
        with self._lock:
            if self.max_bytes is not None and sum(self._reserved.values()) + size_bytes > self.max_bytes:
                return False
            self._reserved[name] = size_bytes
            return True

    def release(self, name: str) -> None:
        """Give the memory of the recording ``name`` back."""
        with self._lock:
            self._reserved.pop(name, None)

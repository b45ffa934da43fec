"""What was published and the broker has not acknowledged yet: bounded in number, in bytes and in time. Pure: times are
handed in.

A broker that answers pings and never acknowledges would otherwise fill the memory of the MQTT client.
"""

from __future__ import annotations

import threading
from typing import Final

__all__ = ["MAX_BYTES", "MAX_MESSAGES", "Unacknowledged"]

MAX_MESSAGES: Final = 100
MAX_BYTES: Final = 4 * 1024 * 1024
_PATIENCE_SECONDS: Final = 60.0
"""A broker that acknowledged nothing for so long does not work."""
_BYTES_PER_SECOND: Final = 2000.0
"""A line as slow as this is waited for, beyond that time."""


class Unacknowledged:
    """The messages of one connection. Any thread may call it.

    Example::

        if waiting.has_room(len(payload)):
            waiting.add(client.publish(topic, payload, qos=1).mid, len(payload), now)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[int, int] = {}
        self._early: set[int] = set()
        """Acknowledged before :meth:`add` was called."""
        self._bytes = 0
        self._progress_at = 0.0
        """When the last message was acknowledged, or the first one published."""

    @property
    def messages(self) -> int:
        """How many messages wait."""
        return len(self._waiting)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of their payloads."""
        return self._bytes

    def has_room(self, payload_bytes: int) -> bool:
        """Whether a message may be published now; one at least always may."""
        with self._lock:
            room = len(self._waiting) < MAX_MESSAGES and self._bytes + payload_bytes <= MAX_BYTES
            return room or not self._waiting

    def add(self, number: int, payload_bytes: int, now: float) -> None:
        """Note that the message with the packet identifier ``number`` was published."""
        with self._lock:
            if number in self._early:
                self._early.discard(number)
                return
            if not self._waiting:
                self._progress_at = now
            self._bytes += payload_bytes - self._waiting.get(number, 0)
            self._waiting[number] = payload_bytes

    def acknowledged(self, number: int, now: float) -> None:
        """Note that the broker has the message ``number``."""
        with self._lock:
            if number in self._waiting:
                self._bytes -= self._waiting.pop(number)
            elif len(self._early) < MAX_MESSAGES:
                self._early.add(number)
            self._progress_at = now

    def overdue(self, now: float) -> bool:
        """Whether the broker has acknowledged nothing for too long."""
        with self._lock:
            return bool(self._waiting) and now - self._progress_at > _PATIENCE_SECONDS + self._bytes / _BYTES_PER_SECOND

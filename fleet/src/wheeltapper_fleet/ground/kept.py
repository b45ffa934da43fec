"""Keeps a value that costs the more the larger the fleet is, so that an answer does not wait while it is counted.

Invariants:
    * A value is at most :data:`MAX_AGE_SECONDS` old when it is given out, plus the time that counting takes.
    * What is small enough is never kept: whoever changes something and then asks sees the change.
    * However many ask at once for a value that is kept, one thread counts.

Example:
    >>> kept = Kept(lambda: count_devices(engine), large=lambda counts: counts.devices >= 5_000)
    >>> kept.read()
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

__all__ = ["MAX_AGE_SECONDS", "Kept"]

MAX_AGE_SECONDS: Final = 2.0
_RENEWED_FROM: Final = 0.5
"""A value that is asked for is counted anew, beside the answers, from this part of its greatest age on."""

T = TypeVar("T")


class Kept(Generic[T]):
    """A value that is counted at each ask while it is small, and kept for a moment once it is large. Thread-safe.

    Args:
        count: gives the present value; may be called on a thread of its own.
        large: whether a value took so much to count that it is kept.
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        count: Callable[[], T],
        large: Callable[[T], bool],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count = count
        self._large = large
        self._monotonic = monotonic
        self._counting = threading.Lock()
        self._kept: tuple[T, float] | None = None

    def read(self) -> T:
        """The value, not older than :data:`MAX_AGE_SECONDS`.

        Raises:
            Exception: what ``count`` raises.
        """
        kept = self._kept
        if kept is None:
            return self._counted()
        age = self._age(kept)
        if age >= MAX_AGE_SECONDS:
            with self._counting:
                kept = self._kept
                counted_meanwhile = kept is not None and self._age(kept) < MAX_AGE_SECONDS
                return kept[0] if kept is not None and counted_meanwhile else self._counted()
        if age >= MAX_AGE_SECONDS * _RENEWED_FROM and self._counting.acquire(blocking=False):
            threading.Thread(target=self._renew, name="kept numbers", daemon=True).start()
        return kept[0]

    def _renew(self) -> None:
        """Count anew, on a thread of its own, which has the lock."""
        try:
            self._counted()
        except Exception:  # noqa: BLE001  # the value grows too old, and whoever asks then counts and is told
            return
        finally:
            self._counting.release()

    def _counted(self) -> T:
        began = self._monotonic()
        value = self._count()
        self._kept = (value, began) if self._large(value) else None
        return value

    def _age(self, kept: tuple[T, float]) -> float:
        return self._monotonic() - kept[1]

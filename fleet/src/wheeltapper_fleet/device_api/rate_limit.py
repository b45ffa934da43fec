"""Limits how often an address may try to enrol, or a device to renew its certificate.

Invariant: only the latest 4096 of them are remembered, so that many addresses cannot fill the memory.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["RateLimit"]

_MAX_ADDRESSES: Final = 4096


class RateLimit:
    """Allows each address ``per_minute`` attempts within 60 seconds.

    Args:
        per_minute: how many attempts.
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(self, per_minute: int, monotonic: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._monotonic = monotonic
        self._attempts: OrderedDict[str, deque[float]] = OrderedDict()

    def take(self, address: str) -> None:
        """Count an attempt of ``address``, which may also be a device's id.

        Raises:
            FleetError: ``api.rate_limited``: the attempt is one too many.
        """
        now = self._monotonic()
        attempts = self._attempts.setdefault(address, deque())
        self._attempts.move_to_end(address)
        if len(self._attempts) > _MAX_ADDRESSES:
            self._attempts.popitem(last=False)
        while attempts and attempts[0] <= now - 60:
            attempts.popleft()
        if len(attempts) >= self._per_minute:
            raise FleetError(
                "api.rate_limited", f"more than {self._per_minute} attempts within a minute; try again in a minute"
            )
        attempts.append(now)

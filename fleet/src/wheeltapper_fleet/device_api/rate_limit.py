"""Limits how often an address may try to enrol, or a device to renew its certificate.

Invariant: only the latest of them are remembered (:mod:`wheeltapper_fleet.ground.buckets`), so that many addresses
cannot fill the memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from wheeltapper_fleet.ground.buckets import Buckets
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["RateLimit"]


class RateLimit:
    """Allows each key ``per_minute`` attempts at once, and as many a minute on average.

    Args:
        per_minute: how many attempts.
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(self, per_minute: int, monotonic: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._monotonic = monotonic
        self._buckets = Buckets(per_minute / 60.0, float(per_minute))

    def take(self, key: str) -> None:
        """Count an attempt of ``key``: an address, or a device's id.

        Raises:
            FleetError: ``api.rate_limited``: the attempt is one too many.
        """
        self._refuse(self._buckets.take(key, self._monotonic()))

    def check(self, key: str) -> None:
        """Refuse ``key`` if it has used up its attempts; counts nothing.

        Raises:
            FleetError: ``api.rate_limited``.
        """
        self._refuse(self._buckets.wait(key, self._monotonic()))

    def count(self, key: str) -> None:
        """Count an attempt of ``key`` after the fact; refuses nothing."""
        self._buckets.take(key, self._monotonic())

    def _refuse(self, wait: float) -> None:
        if wait > 0.0:
            message = f"more than {self._per_minute} attempts within a minute; try again in {math.ceil(wait)} s"
            raise FleetError("api.rate_limited", message)

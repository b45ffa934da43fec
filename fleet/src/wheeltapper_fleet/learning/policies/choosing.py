"""Which devices are asked for recordings: first those that drift, the others by lot. Pure.

The lot is a hash of the policy, the cycle and the device: the same for whoever asks again, and another in each cycle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

__all__ = ["choose_devices", "derived_id"]


def choose_devices(drifting: Iterable[str], others: Iterable[str], most: int, lot: str) -> tuple[str, ...]:
    """At most ``most`` devices, those of ``drifting`` before ``others``.

    Args:
        drifting: devices that drift.
        others: devices that do not, or of which it is not known.
        most: how many.
        lot: decides among equals.
    """
    first = set(drifting)
    rest = set(others) - first
    ordered = [*sorted(first, key=lambda each: _drawn(lot, each)), *sorted(rest, key=lambda each: _drawn(lot, each))]
    return tuple(ordered[:most])


def derived_id(prefix: str, *parts: str | int) -> str:
    """An id that is the same for the same ``parts``: ``PREFIX-<16 hex digits>``. What is done twice is there once."""
    digits = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
    return f"{prefix}-{digits[:16]}"


def _drawn(lot: str, device: str) -> str:
    return hashlib.sha256(f"{lot}\0{device}".encode()).hexdigest()

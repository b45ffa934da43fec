"""A token bucket: how long to wait so that a flow keeps below a rate. Pure: time is handed in.

Invariant: over any span of ``t`` seconds at most ``rate * t + burst`` bytes pass.

Source: the policer of RFC 2697, section 3, with one bucket.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Bucket", "take"]


@dataclass(frozen=True, slots=True)
class Bucket:
    """``level_bytes`` may be below zero: what passed already and must be waited for."""

    rate_bytes_per_second: float
    burst_bytes: float
    level_bytes: float
    at_seconds: float
    """Monotonic time of ``level_bytes``."""


def take(bucket: Bucket, count_bytes: int, now_seconds: float) -> tuple[Bucket, float]:
    """The bucket after ``count_bytes`` passed at ``now_seconds`` (monotonic), and how many seconds to wait now."""
    since = max(0.0, now_seconds - bucket.at_seconds)
    level = min(bucket.burst_bytes, bucket.level_bytes + since * bucket.rate_bytes_per_second) - count_bytes
    after = Bucket(bucket.rate_bytes_per_second, bucket.burst_bytes, level, now_seconds)
    return after, max(0.0, -level / bucket.rate_bytes_per_second)

"""How long to wait before the next attempt. Pure: the random number is handed in."""

from __future__ import annotations

__all__ = ["retry_delay_seconds"]


def retry_delay_seconds(failures: int, uniform: float, first_seconds: float, cap_seconds: float) -> float:
    """Exponential backoff with jitter, so that many devices do not come back at the same moment.

    Args:
        failures: attempts that failed in a row, from 1.
        uniform: a random number from 0 to 1.
        first_seconds: mean delay after the first failure; each further failure doubles it.
        cap_seconds: largest mean delay.

    Returns:
        Seconds, between half and one and a half times the mean.
    """
    mean_seconds = min(cap_seconds, first_seconds * 2.0 ** min(max(failures, 1) - 1, 60))
    return mean_seconds * (0.5 + uniform)

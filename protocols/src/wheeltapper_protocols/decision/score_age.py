"""When a score is no longer the present one. Pure. The device and the fleet ask the same question here.

A score says how a machine was in one window. It is shown as the present one as long as the next windows may still be
under way; how long that is follows from the pace at which windows of the pipeline come.
"""

from __future__ import annotations

from typing import Final

__all__ = ["LEAST_TERM_SECONDS", "score_term_seconds"]

LEAST_TERM_SECONDS: Final = 60.0
"""Telemetry is batched and a status is sent at intervals: a score younger than this is always the present one."""
_WINDOWS: Final = 5.0
_UNKNOWN_TERM_SECONDS: Final = 600.0
_MOST_SECONDS: Final = 7 * 86_400.0


def score_term_seconds(pace_seconds: float | None) -> float:
    """Return how old a score may be and still count as the present one: five windows, at least a minute.

    Args:
        pace_seconds: from one window to the next; None: not known.
    """
    if pace_seconds is None:
        return _UNKNOWN_TERM_SECONDS
    return min(max(_WINDOWS * pace_seconds, LEAST_TERM_SECONDS), _MOST_SECONDS)

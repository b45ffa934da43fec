"""The settings of raw history: the section ``[history]`` of the service's configuration. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["HistorySettings", "read_settings"]

_LEAST_DAYS, _MOST_DAYS = 1 / 24, 365.0


@dataclass(frozen=True, kw_only=True)
class HistorySettings:
    """Where raw history is kept beyond the database, and from when on.

    Args:
        url: a folder, or ``s3://bucket/prefix``; empty: nothing is kept beyond the database.
        after_days: how long after the end of its day a message goes into a segment.
    """

    url: str = ""
    after_days: float = 1.0


def read_settings(value: object) -> HistorySettings:
    """Read and check the section.

    Raises:
        FleetError: ``config.invalid``.
    """
    if not isinstance(value, dict) or set(value) - {"url", "after_days"}:
        raise FleetError("config.invalid", "[history] has the settings url and after_days", 400)
    url, days = value.get("url", ""), value.get("after_days", 1.0)
    if not isinstance(url, str):
        raise FleetError("config.invalid", "history.url must be a text: a folder or s3://BUCKET/PREFIX", 400)
    if isinstance(days, bool) or not isinstance(days, int | float) or not math.isfinite(days):
        raise FleetError("config.invalid", "history.after_days must be a number of days", 400)
    if not _LEAST_DAYS <= days <= _MOST_DAYS:
        raise FleetError(
            "config.invalid", f"history.after_days must be {_LEAST_DAYS:.3f} (an hour) to {_MOST_DAYS:g}", 400
        )
    return HistorySettings(url=url, after_days=float(days))

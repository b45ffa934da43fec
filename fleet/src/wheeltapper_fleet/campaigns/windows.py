"""When a campaign may tell devices: its windows, in its time zone. It reads the system's time zones and no clock.

A window belongs to the day on which it begins. On the day that a clock is set forward or back, a time that does not
exist or exists twice is taken as Python's ``fold=0`` takes it (PEP 495).

Example::

    closed_until(read_spec({..., "windows": [{"begin": "22:00", "end": "05:00"}], "time_zone": "Europe/Berlin"}), now)
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from wheeltapper_fleet.campaigns.rules.spec import DAYS, CampaignSpec, Window
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["check_time_zone", "closed_until"]

_DAYS_AHEAD: Final = 8


def check_time_zone(spec: CampaignSpec) -> None:
    """Refuse a specification whose time zone this system does not know.

    Raises:
        FleetError: ``campaign.time_zone_unknown``.
    """
    _zone(spec.time_zone)


def closed_until(spec: CampaignSpec, now: float) -> float:
    """Until when no window is open at ``now`` (both Unix seconds); 0 if one is, or if there are none.

    Raises:
        FleetError: ``campaign.time_zone_unknown``.
    """
    if not spec.windows:
        return 0.0
    zone = _zone(spec.time_zone)
    today = datetime.fromtimestamp(now, zone).date()
    opens_at: list[float] = []
    for ahead in range(-1, _DAYS_AHEAD):
        day = today + timedelta(days=ahead)
        for window in spec.windows:
            if DAYS[day.weekday()] in window.days:
                begin, end = _span(window, day, zone)
                if begin <= now < end:
                    return 0.0
                opens_at += [begin] if begin > now else []
    return min(opens_at)


def _span(window: Window, day: date, zone: ZoneInfo) -> tuple[float, float]:
    begin, end = time.fromisoformat(window.begin), time.fromisoformat(window.end)
    last = day if end > begin else day + timedelta(days=1)
    first_moment, last_moment = datetime.combine(day, begin, zone), datetime.combine(last, end, zone)
    return first_moment.astimezone(UTC).timestamp(), last_moment.astimezone(UTC).timestamp()


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        message = f"this system knows no time zone {name!r}: use a name like Europe/Berlin or UTC"
        raise FleetError("campaign.time_zone_unknown", message, 422) from error

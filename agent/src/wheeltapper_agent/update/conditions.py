"""When an update may go on: maintenance windows, mains power, an unmetered network, room on the disk. Pure.

Invariants:
    * :func:`unmet` is a function of values. What the device cannot know (None) never holds an update up.
    * A maintenance window means local wall-clock time in the configured zone: ``Sat 22:00-05:00`` begins on Saturday
      and ends on Sunday. When the clocks go forward, the hour that is left out is in no window. When they go back, the
      hour that comes twice counts twice.
    * Nothing is remembered between two looks, so a jump of the clock has no effect after the next look.
    * While the clock lies before the newest verified time, it is wrong, and no window counts as open.

What this module does not do: read the device (:mod:`wheeltapper_agent.update.condition_readings`), wait
(:mod:`wheeltapper_agent.update.waiting`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

__all__ = [
    "ConditionReadings",
    "Conditions",
    "MaintenanceWindow",
    "Unmet",
    "is_open",
    "next_opening",
    "parse_window",
    "unmet",
]

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES: Final = 24 * 60
_LOOK_AHEAD_DAYS: Final = 8
_LOOK_AHEAD_QUARTERS: Final = _LOOK_AHEAD_DAYS * 96
_QUARTER_SECONDS: Final = 900.0
_SKEW_SECONDS: Final = 60.0
"""Two clocks that are both right may differ by so much."""
_FORM: Final = re.compile(r"(?:(?P<days>[A-Za-z,-]+)\s+)?(?P<from>\d\d?:\d\d)-(?P<to>\d\d?:\d\d)")


@dataclass(frozen=True, slots=True)
class MaintenanceWindow:
    """A span of time on some days of the week.

    Attributes:
        days: on which it begins; 0 is Monday.
        start_minute: minutes after midnight at which it begins.
        end_minute: minutes after midnight at which it ends; at or before ``start_minute``: on the day after.
    """

    days: frozenset[int]
    start_minute: int
    end_minute: int


@dataclass(frozen=True, slots=True)
class Conditions:
    """What must hold before an update goes on. Without windows, any time will do."""

    windows: tuple[MaintenanceWindow, ...] = ()
    zone: tzinfo | None = UTC
    """Of the windows; None: the zone that the system is set to."""
    need_mains: bool = False
    avoid_metered: bool = False
    reserve_bytes: int = 0
    """Bytes that must stay free on the disk."""


@dataclass(frozen=True, slots=True)
class ConditionReadings:
    """What the device measures of the conditions; None where it cannot tell."""

    now_seconds: float
    """Unix time by the device's clock."""
    mains: bool | None = None
    """Whether it has outside power."""
    metered: bool | None = None
    """Whether traffic to the fleet goes over a metered network, or may."""
    free_bytes: int | None = None
    """Free room on the file system of the slots."""
    verified_seconds: float = 0.0
    """The newest Unix time in anything that was verified; it cannot be earlier than that."""


@dataclass(frozen=True, slots=True)
class Unmet:
    """A condition that does not hold: its stable code, and the reason for a person."""

    code: str
    detail: str


def _minute(text: str) -> int:
    hours, minutes = (int(part) for part in text.split(":"))
    if minutes > 59 or hours * 60 + minutes > _DAY_MINUTES:
        raise ValueError(f"{text} is not a time of day between 00:00 and 24:00")
    return hours * 60 + minutes


def _day(text: str) -> int:
    try:
        return _DAYS.index(text.lower()[:3]) if len(text) >= 3 else _DAYS.index("")
    except ValueError:
        raise ValueError(f"{text!r} is not a day; days are Mon, Tue, Wed, Thu, Fri, Sat, Sun") from None


def _days(text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        begin = _day(first)
        end = _day(last) if dash else begin
        found |= {(begin + step) % 7 for step in range((end - begin) % 7 + 1)}
    return frozenset(found)


def parse_window(text: str) -> MaintenanceWindow:
    """The window that ``text`` describes, in the form ``[days ]HH:MM-HH:MM``.

    Days are joined by commas; ``Fri-Mon`` goes over the weekend. Without days it is every day.

    Raises:
        ValueError: ``text`` is not of that form, or the window has no length.

    Example::

        parse_window("Mon-Fri 22:00-05:00")
        parse_window("Tue,Thu 02:00-04:00")
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:80]!r} is not a maintenance window; write it like 'Mon-Fri 22:00-05:00'")
    start, end = _minute(match["from"]), _minute(match["to"])
    if start in (end, _DAY_MINUTES):
        raise ValueError(f"{text[:80]!r} has no length; a whole day is 00:00-24:00")
    return MaintenanceWindow(_days(match["days"]) if match["days"] else frozenset(range(7)), start, end)


def _local(now_seconds: float, zone: tzinfo | None) -> datetime:
    """Local time. A clock far outside of what a calendar can hold counts as the nearest time that it can."""
    bounded = min(max(now_seconds, 86_400.0), 250_000_000_000.0)
    utc = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=bounded)
    return utc.astimezone(zone)


def is_open(windows: Sequence[MaintenanceWindow], zone: tzinfo | None, now_seconds: float) -> bool:
    """Whether one of ``windows`` is open at the Unix time ``now_seconds``; True where there are none."""
    if not windows:
        return True
    local = _local(now_seconds, zone)
    minute, day = local.hour * 60 + local.minute, local.weekday()
    for window in windows:
        over_midnight = window.end_minute <= window.start_minute
        today = day in window.days and minute >= window.start_minute and (over_midnight or minute < window.end_minute)
        since_yesterday = over_midnight and (day - 1) % 7 in window.days and minute < window.end_minute
        if today or since_yesterday:
            return True
    return False


def next_opening(windows: Sequence[MaintenanceWindow], zone: tzinfo | None, now_seconds: float) -> float | None:
    """Unix time of the next opening after ``now_seconds``, to the minute, within the next eight days.

    None if there is none. The beginnings of the windows are looked at, and every quarter of an hour, since a change to
    or from summer time may open a window too.
    """
    first = _QUARTER_SECONDS * (now_seconds // _QUARTER_SECONDS + 1)
    moments = {first + step * _QUARTER_SECONDS for step in range(_LOOK_AHEAD_QUARTERS)}
    midnight = _local(now_seconds, zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    for day in range(_LOOK_AHEAD_DAYS + 1):
        for window in windows:
            begins = midnight + timedelta(days=day, minutes=window.start_minute)
            for fold in (0, 1):
                local = begins.replace(tzinfo=zone, fold=fold) if zone else begins.replace(fold=fold).astimezone()
                moments.add(local.timestamp())
    later = sorted(moment for moment in moments if moment > now_seconds)
    return next((moment for moment in later if is_open(windows, zone, moment)), None)


def unmet(
    conditions: Conditions, readings: ConditionReadings, need_bytes: int = 0, explain: bool = True
) -> tuple[Unmet, ...]:
    """The conditions that do not hold, in a fixed order: maintenance window, mains power, network, disk.

    Args:
        conditions: what must hold.
        readings: what the device measures now.
        need_bytes: room on the disk that the release still takes.
        explain: also say when the next window opens, which takes some milliseconds.
    """
    found: list[Unmet] = []
    if conditions.windows and readings.now_seconds < readings.verified_seconds - _SKEW_SECONDS:
        clock, verified = (
            f"{_local(seconds, conditions.zone):%Y-%m-%d %H:%M %Z}"
            for seconds in (readings.now_seconds, readings.verified_seconds)
        )
        text = f"the clock is wrong, so no maintenance window is open: it says {clock}, but it is {verified} or later"
        found.append(Unmet("update.waiting_window", text))
    elif not is_open(conditions.windows, conditions.zone, readings.now_seconds):
        opening = next_opening(conditions.windows, conditions.zone, readings.now_seconds) if explain else None
        when = "" if opening is None else f"; the next opens {_local(opening, conditions.zone):%a %Y-%m-%d %H:%M %Z}"
        found.append(Unmet("update.waiting_window", f"no maintenance window is open{when}"))
    if conditions.need_mains and readings.mains is False:
        found.append(Unmet("update.waiting_mains", "the device runs on its battery"))
    if conditions.avoid_metered and readings.metered:
        found.append(Unmet("update.waiting_network", "traffic to the fleet goes over a metered network, or may"))
    if readings.free_bytes is not None and readings.free_bytes < need_bytes + conditions.reserve_bytes:
        text = (
            f"{readings.free_bytes} bytes are free; the release takes {need_bytes} "
            f"and {conditions.reserve_bytes} must stay free"
        )
        found.append(Unmet("update.waiting_disk", text))
    return tuple(found)

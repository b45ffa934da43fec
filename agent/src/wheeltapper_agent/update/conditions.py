"""When an update may go on: maintenance windows, mains power, an unmetered network, room on the disk. Pure.

Invariants:
    * :func:`unmet` is a function of values; what cannot be known (None) never holds an update up.
    * A maintenance window is what the clock on the wall says, in the device's time zone: ``Sat 22:00-05:00`` begins on
      Saturday and ends on Sunday. When the clocks go forward, the hour that is left out is in no window; when they go
      back, the hour that comes twice counts twice. So people who plan by their wall clock are never surprised.
    * Nothing is remembered between two looks, so a jump of the clock is over with the next look. While the clock lies
      before a time that was verified, it is wrong, and no window counts as open.

What this module does not do: look at the device (:mod:`wheeltapper_agent.update.condition_readings`), wait.
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
"""So far two clocks may differ that are both right."""
_FORM: Final = re.compile(r"(?:(?P<days>[A-Za-z,-]+)\s+)?(?P<from>\d\d?:\d\d)-(?P<to>\d\d?:\d\d)")


@dataclass(frozen=True, slots=True)
class MaintenanceWindow:
    """A span of time of some days. ``end_minute`` at or before ``start_minute`` is on the day after.

    Both count from midnight; ``days`` are those on which it begins, 0 being Monday.
    """

    days: frozenset[int]
    start_minute: int
    end_minute: int


@dataclass(frozen=True, slots=True)
class Conditions:
    """What must hold. No windows: any time will do."""

    windows: tuple[MaintenanceWindow, ...] = ()
    zone: tzinfo | None = UTC
    """None: the zone that the system is set to."""
    need_mains: bool = False
    avoid_metered: bool = False
    reserve_bytes: int = 0
    """Room that must stay free on the disk."""


@dataclass(frozen=True, slots=True)
class ConditionReadings:
    """What the device sees; None where it cannot tell."""

    now_seconds: float
    mains: bool | None = None
    metered: bool | None = None
    free_bytes: int | None = None
    verified_seconds: float = 0.0
    """The newest Unix time in something verified: it cannot be earlier than that."""


@dataclass(frozen=True, slots=True)
class Unmet:
    """A condition that does not hold: a stable code, and why, for a person."""

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
    """The window that ``text`` describes: ``[days ]HH:MM-HH:MM``, e.g. ``Mon-Fri 22:00-05:00`` or ``02:00-04:00``.

    Days are joined by commas; ``Fri-Mon`` goes over the weekend. Without days it is every day.

    Raises:
        ValueError: it is none, or it has no length.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:80]!r} is not a window; write it like 'Mon-Fri 22:00-05:00'")
    start, end = _minute(match["from"]), _minute(match["to"])
    if start in (end, _DAY_MINUTES):
        raise ValueError(f"{text[:80]!r} has no length; a whole day is 00:00-24:00")
    return MaintenanceWindow(_days(match["days"]) if match["days"] else frozenset(range(7)), start, end)


def _local(now_seconds: float, zone: tzinfo | None) -> datetime:
    """The time on the wall; a clock beyond what a calendar holds counts as its ends."""
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

    Looks at the beginnings of the windows, and at every quarter of an hour, since a change of the clocks may open one.
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
    """What does not hold, in a fixed order: window, mains, network, disk.

    Args:
        conditions: what must hold.
        readings: what the device sees now.
        need_bytes: room that the release still takes.
        explain: also say when the next window opens, which takes some milliseconds.
    """
    found: list[Unmet] = []
    if conditions.windows and readings.now_seconds < readings.verified_seconds - _SKEW_SECONDS:
        says, least = (
            f"{_local(seconds, conditions.zone):%Y-%m-%d %H:%M %Z}"
            for seconds in (readings.now_seconds, readings.verified_seconds)
        )
        text = (
            f"the clock is wrong, so no maintenance window counts as open: it says {says}, and it is {least} or later"
        )
        found.append(Unmet("update.waiting_window", text))
    elif not is_open(conditions.windows, conditions.zone, readings.now_seconds):
        opening = next_opening(conditions.windows, conditions.zone, readings.now_seconds) if explain else None
        when = "" if opening is None else f"; the next opens {_local(opening, conditions.zone):%a %Y-%m-%d %H:%M %Z}"
        found.append(Unmet("update.waiting_window", f"no maintenance window is open{when}"))
    if conditions.need_mains and readings.mains is False:
        found.append(Unmet("update.waiting_mains", "the device runs on its battery"))
    if conditions.avoid_metered and readings.metered:
        found.append(Unmet("update.waiting_network", "the way out goes over a metered network"))
    if readings.free_bytes is not None and readings.free_bytes < need_bytes + conditions.reserve_bytes:
        text = (
            f"{readings.free_bytes} bytes are free; the release takes {need_bytes} "
            f"and {conditions.reserve_bytes} must stay free"
        )
        found.append(Unmet("update.waiting_disk", text))
    return tuple(found)

"""What a screen shows: the choice of a listener to live events. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT

__all__ = ["SUBJECTS", "ShownCases", "View"]

SUBJECTS: Final = ("totals", "devices", "campaigns", "alerts")


@dataclass(frozen=True)
class ShownCases:
    """Which cases a screen shows: ``show`` and the filters as :func:`wheeltapper_fleet.alerts.views.list_shown` takes
    them."""

    show: str = "person"
    site: str = ""
    within: str = ""
    limit: int = DEFAULT_LIMIT
    after: str | None = None


@dataclass(frozen=True)
class View:
    """What a screen shows. Two screens that show the same are read once.

    Args:
        subjects: which of :data:`SUBJECTS`.
        q: which devices, in the query language; empty: all.
        after: the cursor of the page before, of devices.
        limit: how many devices the page has.
        device: a device that is shown by itself.
        campaign: a campaign that is shown by itself.
        cases: a list of cases.
        case: the number of a case that is shown by itself.
    """

    subjects: frozenset[str] = frozenset({"devices", "campaigns", "alerts"})
    q: str = ""
    after: str | None = None
    limit: int = DEFAULT_LIMIT
    device: str | None = None
    campaign: str | None = None
    cases: ShownCases | None = None
    case: int | None = None

"""The page of value: what alerts were worth, by model and site, and how many false alarms machines had to bear.

Cost: follows the verdicts that people gave in the time that is shown, not the alerts nor the fleet.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from wheeltapper_fleet.access.principal import Principal
from wheeltapper_fleet.alerts.value import false_alarm_rate, list_budgets, list_value
from wheeltapper_fleet.ui.answering import ROWS_SHOWN, Word, answer
from wheeltapper_fleet.ui.rendering import After, Asked

__all__ = ["router"]

router = APIRouter(include_in_schema=False)
DAYS: Final = (28, 90, 365, 730)
_DAY: Final = 86_400.0
_Days = Annotated[int, Query(ge=1, le=730)]
_Site = Annotated[str, Query(max_length=120, pattern="^[^\x00]*$")]


@router.get("/value")
def show_value(
    request: Request, page: Asked, days: _Days = 365, model: Word = "", site: _Site = "", after: After = None
) -> Response:
    """True faults, saves, false alarms and lead times; false alarms per 100 machine-weeks, and budgets of them."""

    def read(who: Principal) -> dict[str, Any]:
        now = page.clock()
        found = list_value(
            page.engine, now - days * _DAY, now + 1, ROWS_SHOWN, after or None, model=model or None, site=site or None
        )
        rows = found.items
        names = ("true_faults", "saves", "failures", "false_alarms", "unclear")
        return {
            "found": found,
            "sums": {name: sum(getattr(each, name) for each in rows) for name in names},
            "most": max([1, *(each.true_faults + each.false_alarms + each.unclear for each in rows)]),
            "rate": false_alarm_rate(page.engine, days, now, model, site),
            "budgets": list_budgets(page.engine, now, ROWS_SHOWN),
            "days": days,
            "offered": DAYS,
            "model": model,
            "site": site,
            "may": who.may("settings.edit"),
        }

    return answer("value.html", request, page, read)

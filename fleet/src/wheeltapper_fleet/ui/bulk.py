"""The page on which everything that a query selects is changed at once: tags, and where devices are in their life.

Nothing is changed by looking: how many are meant, and how many of them each action would leave as they are, is counted
before. The request that changes them says how many were seen, and is refused where it is another number by then.

Cost: the devices that are meant are counted in an index, and the first :data:`SHOWN` are shown.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from wheeltapper_fleet.access.principal import Principal
from wheeltapper_fleet.devices.rows import list_rows
from wheeltapper_fleet.devices.rules import TRANSITIONS, Action
from wheeltapper_fleet.devices.views import count_devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ui.answering import answer
from wheeltapper_fleet.ui.rendering import Asked, Query4000

__all__ = ["router"]

router = APIRouter(include_in_schema=False)
SHOWN: Final = 20
ACTIONS: Final = (Action.QUARANTINE, Action.REINSTATE, Action.REVOKE, Action.RETIRE)
"""What a person may do to many devices, the least first."""


@router.get("/bulk")
def show_bulk(request: Request, page: Asked, q: Query4000 = "") -> Response:
    """How many devices a query means, the first of them, and what can be done to all of them."""

    def read(who: Principal) -> dict[str, Any]:
        values: dict[str, Any] = {"q": q.strip(), "counts": None, "rows": [], "problem": "", "actions": []}
        values |= {"may": who.may("device.remove"), "may_ask": who.may("device.operate")}
        if not values["q"]:
            return values
        now = page.clock()
        try:
            counts = count_devices(page.engine, values["q"], now)
            rows = list_rows(page.engine, values["q"], SHOWN, None).items
        except FleetError as error:
            return values | {"problem": error.message}
        return values | {"counts": counts, "rows": rows, "actions": _actions(counts.states)}

    return answer("bulk.html", request, page, read)


def _actions(states: dict[str, int]) -> list[tuple[str, int]]:
    """Each action that changes some of them, with how many."""
    allowed = [
        (
            action.value,
            sum(n for state, n in states.items() if any((each, action) in TRANSITIONS for each in _of(state))),
        )
        for action in ACTIONS
    ]
    return [(name, count) for name, count in allowed if count]


def _of(name: str) -> list[Any]:
    """The state of a name; none where this version does not know it."""
    return [state for state in {each for each, _ in TRANSITIONS} if state.value == name]

"""Pages of settings: who one is, API tokens, who is told of what, limits of triage, rules of promotion.

Cost: one page of each list.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from wheeltapper_fleet.access.permissions import ROLES
from wheeltapper_fleet.access.principal import Principal
from wheeltapper_fleet.access.tokens import list_api_tokens
from wheeltapper_fleet.alerts.policy import list_limits
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.notify.views import list_notifications, list_targets
from wheeltapper_fleet.registry.promotion import list_rules
from wheeltapper_fleet.ui.answering import ROWS_SHOWN, answer
from wheeltapper_fleet.ui.rendering import After, Asked

__all__ = ["router"]

router = APIRouter(include_in_schema=False)
NOTIFICATIONS_SHOWN: Final = 20


@router.get("/settings")
def show_settings(request: Request, page: Asked) -> Response:
    """Who is signed in, and what may be done."""
    return answer("settings/you.html", request, page, lambda who: {"having": who.having, "roles": sorted(who.roles)})


@router.get("/settings/tokens")
def show_tokens(request: Request, page: Asked, after: After = None) -> Response:
    """API tokens, newest first; for whoever may give access."""

    def read(who: Principal) -> dict[str, Any]:
        if not who.may("access.manage"):
            raise FleetError("api.forbidden", "tokens are shown to the role admin", 403)
        return {
            "found": list_api_tokens(page.engine, ROWS_SHOWN, after or None),
            "roles": list(ROLES),
            "now": page.clock(),
        }

    return answer("settings/tokens.html", request, page, read)


@router.get("/settings/webhooks")
def show_targets(request: Request, page: Asked, after: After = None) -> Response:
    """Who is told of what, how deliveries go, and what could not be delivered."""
    return answer(
        "settings/webhooks.html",
        request,
        page,
        lambda who: {
            "found": list_targets(page.engine, ROWS_SHOWN, after or None),
            "dead": list_notifications(page.engine, NOTIFICATIONS_SHOWN, state="dead"),
            "newest": list_notifications(page.engine, NOTIFICATIONS_SHOWN),
            "may": who.may("settings.edit"),
            "may_resend": who.may("alert.handle"),
        },
    )


@router.get("/settings/limits")
def show_limits(request: Request, page: Asked) -> Response:
    """Limits of triage, and the rules of aliases."""
    return answer(
        "settings/limits.html",
        request,
        page,
        lambda who: {
            "limits": list_limits(page.engine),
            "rules": list_rules(page.engine, None, ROWS_SHOWN),
            "may": who.may("settings.edit"),
        },
    )

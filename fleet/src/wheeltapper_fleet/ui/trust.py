"""The page of trust: keys and thresholds, what ends when, and the log of changes with its verification.

Cost: what ends is read from the repository's files; the newest :data:`VERIFIED` changes are read and their chain is
followed. The whole chain is followed by ``wheeltapper audit --verify``.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from wheeltapper_fleet.access.principal import Principal
from wheeltapper_fleet.audit.chain import first_break
from wheeltapper_fleet.audit.schemas import ChainView, ChangeView
from wheeltapper_fleet.audit.store import list_changes, show_chain
from wheeltapper_fleet.trust.expiry import view
from wheeltapper_fleet.ui.answering import ROWS_SHOWN, answer
from wheeltapper_fleet.ui.rendering import After, Asked, Page

__all__ = ["router"]

router = APIRouter(include_in_schema=False)
VERIFIED: Final = 500


@router.get("/trust")
def show_trust(request: Request, page: Asked, after: After = None) -> Response:
    """Keys, ends, and for whoever may read it the log of changes."""

    def read(who: Principal) -> dict[str, Any]:
        now = page.clock()
        lives = sorted(page.lives(), key=lambda life: life.expires_at)
        values: dict[str, Any] = {"lives": [view(life, now) for life in lives], "changes": None}
        return values | (_audit(page, after or None) if who.may("audit.read") else {})

    return answer("trust.html", request, page, read)


def _audit(page: Page, after: str | None) -> dict[str, Any]:
    """A page of the changes, and whether the newest ones follow from each other."""
    chain = show_chain(page.engine)
    held, broken = _verified(list_changes(page.engine, VERIFIED + 1).items, chain)
    return {
        "chain": chain,
        "held": held,
        "broken": broken,
        "changes": list_changes(page.engine, ROWS_SHOWN, after),
    }


def _verified(newest: list[ChangeView], chain: ChainView) -> tuple[int, int | None]:
    """How many of the newest changes hold, and the number of the first that does not; None: all do, 0: the newest one
    is missing."""
    rows = [each.model_dump() for each in newest]
    begin = chain.cut_digest
    if len(rows) > VERIFIED:
        begin = rows.pop()["digest"]
    held, wrong = first_break(rows, chain.digest, begin)
    return held, None if wrong is None else int(wrong.get("id", 0))

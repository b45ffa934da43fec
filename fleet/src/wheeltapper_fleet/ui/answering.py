"""How a page answers: the page, the form to sign in, or a page that says why there is nothing to show.

Example:
    >>> return answer("data/runs.html", request, page, lambda who: {"runs": list_runs(page.engine)})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeAlias

from fastapi import Path, Query, Request, Response

from wheeltapper_fleet.access.principal import Principal
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ui.rendering import Page, render, sign_in_form, viewer

__all__ = ["ROWS_SHOWN", "Named", "ReleaseNumber", "Word", "answer", "attempt"]

ROWS_SHOWN: Final = 50
"""Rows of a page of a list."""
Named: TypeAlias = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""A part of an address that names a model, a dataset, a policy, a run, a candidate."""
ReleaseNumber: TypeAlias = Annotated[int, Path(ge=1, le=999_999_999)]
Word: TypeAlias = Annotated[str, Query(pattern=r"^[A-Za-z0-9_-]{0,64}$")]
"""A name or a state that a list is filtered by; empty: all."""


def answer(name: str, request: Request, page: Page, read: Callable[[Principal], Mapping[str, Any]]) -> Response:
    """The page of a template, for whoever is signed in and may read; what ``read`` refuses is said on a page.

    Args:
        name: of the template.
        request: what was asked.
        page: what pages work with.
        read: gives what the template shows.
    """
    principal = viewer(page, request)
    if principal is None:
        return sign_in_form(page)
    try:
        return render(name, principal, request, read(principal))
    except FleetError as error:
        refused = render("refused.html", principal, request, {"message": error.message, "code": error.code})
        refused.status_code = error.status
        return refused


def attempt(read: Callable[[], Any], otherwise: Any) -> tuple[Any, str]:
    """What ``read`` gives and no problem, or ``otherwise`` and what it was refused for: the rest of a page is shown."""
    try:
        return read(), ""
    except FleetError as error:
        return otherwise, error.message

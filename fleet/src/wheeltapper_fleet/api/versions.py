"""The version that a change was decided on: from the header ``If-Match``, else from the request's body."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from fastapi import Header

from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["IfMatch", "decided_on"]

IfMatch: TypeAlias = Annotated[str | None, Header(include_in_schema=False)]


def decided_on(if_match: str | None, in_body: int | None) -> int:
    """The version that a request was decided on; the header counts more than the body.

    Raises:
        FleetError: ``api.version_required``: neither says it.
    """
    text = (if_match or "").strip().removeprefix("W/").strip('"')
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    if text or in_body is None:
        message = "say which version you decided on: If-Match: <version>, or expected_version in the body"
        raise FleetError("api.version_required", message, 428)
    return in_body

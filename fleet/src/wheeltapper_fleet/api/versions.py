"""What a change was decided on: the header ``If-Match``, or for some ``expected_version`` in the request's body.

Invariant: a change that was decided on something else changes nothing and is answered with what is there now: with the
status 412 where the header said so (RFC 9110, section 13.1.1), with 409 where the body did.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

from fastapi import Header
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from wheeltapper_fleet.api.problem import problem_response
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["IfMatch", "conflict_response", "decided_on"]

_CONFLICT: Final = 409
_PRECONDITION: Final = 412
IfMatch: TypeAlias = Annotated[
    str | None,
    Header(
        pattern="^[ -~]{0,400}$",
        description="The `ETag` of what the change was decided on; refused with 412 if it changed.",
    ),
]


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


def conflict_response(error: FleetError, if_match: str | None, current: BaseModel, tag: object) -> JSONResponse:
    """The answer to a change that was decided on something else than ``current``, whose tag is ``tag``.

    Any other refusal than one with the status 409 or 412 is raised.
    """
    if error.status not in (_CONFLICT, _PRECONDITION):
        raise error
    status = _PRECONDITION if if_match and error.code.endswith(".conflict") else error.status
    more: dict[str, Any] = {"current": current.model_dump(mode="json")}
    return problem_response(error.code, error.message, status, {"ETag": f'"{tag}"'}, **more)

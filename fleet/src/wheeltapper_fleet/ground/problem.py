"""How both APIs say that they refuse: problem details for HTTP APIs (RFC 9457), with a stable dotted code.

``type`` is a name for the kind of problem (``urn:wheeltapper:problem:`` and the code), ``title`` the meaning of the
status, ``detail`` what is wrong and what to do. Programs compare ``code``; people read ``detail``.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

__all__ = ["PROBLEM_JSON", "problem"]

PROBLEM_JSON: Final = "application/problem+json"


def problem(code: str, detail: str, status: int, **more: Any) -> dict[str, Any]:
    """The body of a refusal.

    Args:
        code: stable dotted code.
        detail: for a person.
        status: the HTTP status.
        more: what this kind of problem says beside it, such as ``current``.
    """
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Refused"
    return {
        "type": f"urn:wheeltapper:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
    } | more

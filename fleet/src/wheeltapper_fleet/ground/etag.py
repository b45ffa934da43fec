"""Entity tags: a short name for the present content of a thing, so that a change can say what it was decided on. Pure.

Two contents with the same tag are the same content, whoever wrote it and when. What a device reports of itself is no
part of its tag: only what people set is.

Source: RFC 9110, sections 8.8.3 and 13.1.1.

Example:
    >>> tag = etag("active", {"line": "a"})
    >>> check_etag(f'"{tag}"', tag, "device.conflict", "press-1")
"""

from __future__ import annotations

import hashlib

import msgspec

from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["check_etag", "etag"]


def etag(*content: object) -> str:
    """The tag of ``content``, which JSON can hold: 16 hex digits."""
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:16]


def check_etag(if_match: str | None, current: str, code: str, subject: str) -> None:
    """Refuse a change that was decided on something else than ``current``.

    Args:
        if_match: the header ``If-Match``: one or more tags, or ``*``; None or empty: the change was decided on nothing.
        current: the tag of what is there, read in the transaction that changes it.
        code: the code of the refusal.
        subject: what was to be changed, for the message.

    Raises:
        FleetError: ``code`` with the status 412.
    """
    wanted = [each.strip().removeprefix("W/").strip('"') for each in (if_match or "").split(",")]
    if if_match and if_match.strip() and "*" not in wanted and current not in wanted:
        message = f"{subject} has changed since you read it: read it again, then decide again"
        raise FleetError(code, message, 412)

"""The chain of changes: each row's digest covers the row and the digest before it. Pure.

Whoever changes, removes or inserts a row afterwards breaks the chain from there on; whoever keeps the newest digest
elsewhere can tell later that nothing before it was rewritten. Where old rows were cut, the chain goes on from the
digest of the last one that was.

Example:
    >>> row = {"at": 1.0, "who": "ann", "via": "token:1", "route": "POST /tokens", "subject": {}, "status": 201}
    >>> first = link(START, row | {"request": "r", "address": ""})
    >>> len(first)
    64
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["COVERED", "START", "first_break", "link"]

START: Final = ""
"""What comes before the first row."""
COVERED: Final = ("at", "who", "via", "route", "subject", "status", "request", "address")
"""The fields that a digest covers, in this order."""


def link(before: str, row: Mapping[str, Any]) -> str:
    """The digest (SHA-256, hex) of a row that follows the digest ``before``.

    It covers the JSON list of ``before`` and the fields of :data:`COVERED`: sorted names, no spaces, ASCII.
    """
    values = [before, *(row[name] for name in COVERED)]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def first_break(newest_first: Iterable[Mapping[str, Any]], head: str, cut: str) -> tuple[int, Mapping[str, Any] | None]:
    """Follow the chain from its newest row to its oldest.

    Args:
        newest_first: the rows, each with ``digest``. Those that are newer than ``head`` are passed over.
        head: the digest of the newest row when the check began.
        cut: the digest before the oldest row: of the last one that was cut, or :data:`START`.

    Returns:
        How many rows hold, and the first one that does not follow from what is before it. None: all do; an empty
        mapping: the head itself is missing.
    """
    held, newer = 0, None
    for row in newest_first:
        if newer is None and row["digest"] != head:
            continue
        if newer is not None:
            if link(row["digest"], newer) != newer["digest"]:
                return held, newer
            held += 1
        newer = row
    if newer is None:
        return 0, None if head == cut else {}
    return (held + 1, None) if link(cut, newer) == newer["digest"] else (held, newer)

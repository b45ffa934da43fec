"""Pages of a long list, and the cursors that lead from one to the next.

A list has a stable order by a key that no two rows share. A cursor holds the key of the last row that was shown, so the
next page costs as much as the first, and a row that comes or goes meanwhile moves no other.

Example:
    >>> text = write_cursor(1790000000.5, "cmp-1")
    >>> read_cursor(text, float, str)
    (1790000000.5, 'cmp-1')
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["DEFAULT_LIMIT", "MAX_LIMIT", "Page", "read_cursor", "write_cursor"]

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000
_MAX_CHARACTERS: Final = 600
_MAX_TEXT: Final = 300
_MAX_NUMBER: Final = 1e300

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some rows of a list in its order, and the cursor of the next page; ``next`` is None on the last one."""

    items: list[T]
    next: str | None = None


def write_cursor(*key: str | int | float) -> str:
    """The cursor of the row with ``key``: base64url of JSON, without padding."""
    text = json.dumps(key, separators=(",", ":"), allow_nan=False)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode("ascii")


def read_cursor(text: str, *kinds: type[str] | type[int] | type[float]) -> tuple[Any, ...]:
    """The key in a cursor.

    Args:
        text: the cursor, as :func:`write_cursor` made it.
        kinds: the type of each part of the key.

    Raises:
        FleetError: ``cursor.invalid``: it is no cursor of this list.
    """
    if len(text) > _MAX_CHARACTERS:
        raise _invalid()
    try:
        key = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise _invalid() from error
    if not isinstance(key, list) or len(key) != len(kinds):
        raise _invalid()
    return tuple(_part(part, kind) for part, kind in zip(key, kinds, strict=True))


def _part(part: object, kind: type) -> str | int | float:
    """One part of a key, which the database can compare with: 64 bits, finite, no NUL and no half of a character."""
    if kind is str and isinstance(part, str) and len(part) <= _MAX_TEXT and "\0" not in part and _whole_text(part):
        return part
    if kind is int and type(part) is int and -(2**63) <= part < 2**63:
        return part
    if kind is float and isinstance(part, int | float) and type(part) is not bool and abs(part) <= _MAX_NUMBER:
        return float(part)
    raise _invalid()


def _whole_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _invalid() -> FleetError:
    return FleetError(
        "cursor.invalid", "this is no cursor of this list; take `next` of the page before, or leave it out"
    )
